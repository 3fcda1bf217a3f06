//! How much all repositories may take together, and how much those of each user.

use std::collections::HashMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::Context;
use levee_store::{Error, FileType, LocalStore, Result, Store};

/// The bounds of a server.
#[derive(Debug)]
pub(super) struct Quotas {
    served: PathBuf,
    all: Option<Arc<Quota>>,
    bytes_max_per_user: Option<u64>,
    /// By the folder that is a user's own. Users make no folders but theirs, so there are no more than users.
    by_user: Mutex<HashMap<String, Arc<Quota>>>,
}

impl Quotas {
    /// Counts what is there already.
    pub(super) fn of(served: &Path, bytes_max: Option<u64>, bytes_max_per_user: Option<u64>) -> anyhow::Result<Self> {
        let all =
            bytes_max.map(|bytes_max| Quota::of("all users".into(), served, bytes_max)).transpose()?.map(Arc::new);
        let quotas = Self { served: served.into(), all, bytes_max_per_user, by_user: Mutex::default() };
        // Now rather than at a user's first request, which would wait for it.
        if bytes_max_per_user.is_some() {
            let unreadable = || format!("cannot read the folder {}", served.display());
            for entry in fs::read_dir(served).with_context(unreadable)? {
                let entry = entry.with_context(unreadable)?;
                let name = entry.file_name();
                if let Some(user) = name.to_str().filter(|user| !user.starts_with('.') && entry.path().is_dir()) {
                    quotas.of_user(user)?;
                }
            }
        }
        Ok(quotas)
    }

    /// Those that hold for a repository in a user's folder, or outside of all of them.
    pub(super) fn for_repository(&self, user: Option<&str>) -> anyhow::Result<Vec<Arc<Quota>>> {
        let own = user.map(|user| self.of_user(user)).transpose()?.flatten();
        Ok(own.into_iter().chain(self.all.clone()).collect())
    }

    fn of_user(&self, user: &str) -> anyhow::Result<Option<Arc<Quota>>> {
        let Some(bytes_max) = self.bytes_max_per_user else { return Ok(None) };
        let mut by_user = self.by_user.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(quota) = by_user.get(user) {
            return Ok(Some(quota.clone()));
        }
        let quota = Arc::new(Quota::of(user.into(), &self.served.join(user), bytes_max)?);
        by_user.insert(user.into(), quota.clone());
        Ok(Some(quota))
    }
}

/// A bound, and what counts towards it.
#[derive(Debug)]
pub(super) struct Quota {
    whose: String,
    bytes_max: u64,
    used: Mutex<Used>,
}

#[derive(Debug)]
struct Used {
    /// Of stored files and uploads under way.
    bytes: u64,
    /// Whether the log says that it is used up. Clients try again and again.
    is_told: bool,
}

impl Quota {
    fn of(whose: String, folder: &Path, bytes_max: u64) -> anyhow::Result<Self> {
        let bytes = bytes_in(folder).with_context(|| format!("cannot measure what {} holds", folder.display()))?;
        Ok(Self { whose, bytes_max, used: Mutex::new(Used { bytes, is_told: false }) })
    }

    fn reserve(&self, bytes: u64) -> bool {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        match used.bytes.checked_add(bytes).filter(|sum| *sum <= self.bytes_max) {
            Some(sum) => {
                used.bytes = sum;
                true
            }
            None => {
                if !std::mem::replace(&mut used.is_told, true) {
                    tracing::warn!(
                        "the quota of {} is used up: {} of {} bytes are taken, and {bytes} more were refused",
                        self.whose,
                        used.bytes,
                        self.bytes_max
                    );
                }
                false
            }
        }
    }

    fn release(&self, bytes: u64) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.bytes = used.bytes.saturating_sub(bytes);
        used.is_told = false;
    }
}

/// What a folder takes; nothing when there is none.
fn bytes_in(folder: &Path) -> io::Result<u64> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        other => other?,
    };
    let mut bytes = 0;
    for entry in entries {
        let entry = entry?;
        bytes += match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_in(&entry.path())?,
            Ok(metadata) => metadata.len(),
            // What goes while it is counted takes nothing.
            Err(error) if error.kind() == ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
    }
    Ok(bytes)
}

/// A repository that takes no more than every quota on it leaves.
pub(super) struct Counted {
    inner: LocalStore,
    quotas: Vec<Arc<Quota>>,
    /// Whose quota has refused something.
    refused_by: OnceLock<String>,
}

impl Counted {
    pub(super) fn new(inner: LocalStore, quotas: Vec<Arc<Quota>>) -> Self {
        Self { inner, quotas, refused_by: OnceLock::new() }
    }

    /// What to say to a client when something was refused for a quota; how much others take is no affair of theirs.
    pub(super) fn refusal(&self) -> Option<String> {
        self.refused_by.get().map(|whose| format!("no space left in the repository: the quota of {whose} is used up"))
    }

    /// All or none of them.
    fn reserve(&self, bytes: u64) -> bool {
        let reserved = self.quotas.iter().take_while(|quota| quota.reserve(bytes)).count();
        let Some(refusing) = self.quotas.get(reserved) else { return true };
        self.quotas[..reserved].iter().for_each(|quota| quota.release(bytes));
        self.refused_by.get_or_init(|| refusing.whose.clone());
        false
    }

    fn release(&self, bytes: u64) {
        self.quotas.iter().for_each(|quota| quota.release(bytes));
    }
}

impl Store for Counted {
    levee_store::forward!(inner: create, read, read_range, size_bytes, list, location);

    fn write(&self, file_type: FileType, name: &str, content: &[u8]) -> Result<()> {
        if self.inner.size_bytes(file_type, name).is_ok() {
            // The same again takes nothing, and anything else is refused below.
            return self.inner.write(file_type, name, content);
        }
        let length = content.len() as u64;
        if !self.reserve(length) {
            return Err(Error::Full { location: self.location(), file_type, name: name.into() });
        }
        let written = self.inner.write(file_type, name, content);
        if written.is_err() {
            self.release(length);
        }
        written
    }

    fn remove(&self, file_type: FileType, name: &str) -> Result<()> {
        let size = self.inner.size_bytes(file_type, name)?;
        self.inner.remove(file_type, name)?;
        self.release(size);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use levee_store::{conformance, content_name};

    use super::*;

    fn store(quotas: &Quotas, user: &str) -> Counted {
        let store = Counted::new(LocalStore::new(quotas.served.join(user)), quotas.for_repository(Some(user)).unwrap());
        store.create().unwrap();
        store
    }

    fn write(store: &Counted, content: &[u8]) -> Result<()> {
        store.write(FileType::Data, &content_name(content), content)
    }

    #[track_caller]
    fn assert_full(written: Result<()>) {
        assert!(matches!(written, Err(Error::Full { .. })), "{written:?}");
    }

    fn used(quota: &Quota) -> u64 {
        quota.used.lock().unwrap().bytes
    }

    #[test]
    fn what_is_removed_makes_room_again() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("other"), [0; 40]).unwrap();
        let quotas = Quotas::of(folder.path(), Some(100), None).unwrap();
        let store = store(&quotas, "a");
        write(&store, &[1; 50]).unwrap();
        // The same again costs nothing.
        write(&store, &[1; 50]).unwrap();
        assert_full(write(&store, &[2; 11]));
        write(&store, &[3; 10]).unwrap();
        store.remove(FileType::Data, &content_name(&[1; 50])).unwrap();
        write(&store, &[2; 11]).unwrap();
        assert_eq!(used(quotas.all.as_ref().unwrap()), bytes_in(folder.path()).unwrap());
    }

    #[test]
    fn a_user_who_has_used_up_theirs_takes_nothing_from_the_others() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("mia")).unwrap();
        fs::write(folder.path().join("mia/before"), [0; 30]).unwrap();
        let quotas = Quotas::of(folder.path(), Some(200), Some(100)).unwrap();
        let (mia, ben, eve) = (store(&quotas, "mia"), store(&quotas, "ben"), store(&quotas, "eve"));
        write(&mia, &[1; 70]).unwrap();
        assert_full(write(&mia, &[2; 1]));
        write(&ben, &[3; 90]).unwrap();
        // What one quota refuses is counted by none.
        assert_full(write(&ben, &[4; 11]));
        write(&eve, &[5; 10]).unwrap();
        assert_full(write(&eve, &[6; 1]));
        let refused = |store: &Counted, whose: &str| store.refusal().is_some_and(|text| text.contains(whose));
        assert!(refused(&mia, "the quota of mia is") && refused(&eve, "the quota of all users is"));
        let counted = |user: &str| used(&quotas.of_user(user).unwrap().unwrap());
        assert_eq!((counted("mia"), counted("ben"), counted("eve")), (100, 90, 10));
        assert_eq!(used(quotas.all.as_ref().unwrap()), 200);
        mia.remove(FileType::Data, &content_name(&[1; 70])).unwrap();
        write(&eve, &[6; 1]).unwrap();
    }

    #[test]
    fn conforms() {
        let folder = tempfile::tempdir().unwrap();
        let quotas = Quotas::of(folder.path(), Some(1 << 30), Some(1 << 30)).unwrap();
        let quotas_of_mia = quotas.for_repository(Some("mia")).unwrap();
        conformance::check(&Counted::new(LocalStore::new(folder.path().join("mia")), quotas_of_mia));
    }
}
