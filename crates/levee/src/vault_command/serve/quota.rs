//! How much all repositories may take together.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use levee_store::{Error, FileType, LocalStore, Result, Store};

/// A bound, and what counts towards it.
#[derive(Debug)]
pub(super) struct Quota {
    bytes_max: u64,
    /// Stored files and uploads under way.
    bytes_used: Mutex<u64>,
}

impl Quota {
    /// Counts what is there already.
    pub(super) fn of(folder: &Path, bytes_max: u64) -> anyhow::Result<Self> {
        let used = bytes_in(folder).with_context(|| format!("cannot measure what {} holds", folder.display()))?;
        Ok(Self { bytes_max, bytes_used: Mutex::new(used) })
    }

    fn reserve(&self, bytes: u64) -> bool {
        let mut used = self.bytes_used.lock().unwrap_or_else(PoisonError::into_inner);
        match used.checked_add(bytes).filter(|sum| *sum <= self.bytes_max) {
            Some(sum) => {
                *used = sum;
                true
            }
            None => false,
        }
    }

    fn release(&self, bytes: u64) {
        let mut used = self.bytes_used.lock().unwrap_or_else(PoisonError::into_inner);
        *used = used.saturating_sub(bytes);
    }
}

fn bytes_in(folder: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { bytes_in(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

/// A repository that takes no more than its quota leaves.
pub(super) struct Counted {
    inner: LocalStore,
    quota: Arc<Quota>,
}

impl Counted {
    pub(super) fn new(inner: LocalStore, quota: Arc<Quota>) -> Self {
        Self { inner, quota }
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
        if !self.quota.reserve(length) {
            return Err(Error::Full { location: self.location(), file_type, name: name.into() });
        }
        let written = self.inner.write(file_type, name, content);
        if written.is_err() {
            self.quota.release(length);
        }
        written
    }

    fn remove(&self, file_type: FileType, name: &str) -> Result<()> {
        let size = self.inner.size_bytes(file_type, name)?;
        self.inner.remove(file_type, name)?;
        self.quota.release(size);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use levee_store::{conformance, content_name};

    use super::*;

    #[test]
    fn what_is_removed_makes_room_again() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("other"), [0; 40]).unwrap();
        let quota = Arc::new(Quota::of(folder.path(), 100).unwrap());
        let store = Counted::new(LocalStore::new(folder.path().join("a")), quota.clone());
        store.create().unwrap();
        let write = |content: &[u8]| store.write(FileType::Data, &content_name(content), content);
        write(&[1; 50]).unwrap();
        // The same again costs nothing.
        write(&[1; 50]).unwrap();
        assert!(matches!(write(&[2; 11]), Err(Error::Full { .. })));
        write(&[3; 10]).unwrap();
        store.remove(FileType::Data, &content_name(&[1; 50])).unwrap();
        write(&[2; 11]).unwrap();
        assert_eq!(*quota.bytes_used.lock().unwrap(), bytes_in(folder.path()).unwrap());
    }

    #[test]
    fn conforms() {
        let folder = tempfile::tempdir().unwrap();
        let quota = Arc::new(Quota::of(folder.path(), 1 << 30).unwrap());
        conformance::check(&Counted::new(LocalStore::new(folder.path().join("a")), quota));
    }
}
