//! A repository that takes no more than every quota on it leaves.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use levee_store::{Error, FileType, LocalStore, Result, Store};

use super::Quota;
use super::taken::{BLOCK_BYTES, blocks};

/// Far more than there are requests at once, so that two names seldom share a lock.
const LOCKS: usize = 256;

/// Whoever changes a file has its name for themselves: of two that upload it at once one has stored it, and nobody
/// removes it between the look at what stands there and what is counted for it.
#[derive(Debug)]
pub(super) struct Names([Mutex<()>; LOCKS]);

impl Default for Names {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

impl Names {
    fn lock(&self, repository: &Path, file_type: FileType, name: &str) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        (repository, file_type, name).hash(&mut hasher);
        let number = hasher.finish() as usize % LOCKS;
        self.0[number].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A repository with what counts towards its quotas.
pub(in super::super) struct Counted {
    inner: LocalStore,
    quotas: Vec<Arc<Quota>>,
    names: Arc<Names>,
    /// Whose quota has refused something.
    refused_by: OnceLock<String>,
}

impl Counted {
    pub(super) fn new(inner: LocalStore, quotas: Vec<Arc<Quota>>, names: Arc<Names>) -> Self {
        Self { inner, quotas, names, refused_by: OnceLock::new() }
    }

    /// What to say to a client when something was refused for a quota; how much others take is no affair of theirs.
    pub(in super::super) fn refusal(&self) -> Option<String> {
        self.refused_by.get().map(|whose| format!("no space left in the repository: the quota of {whose} is used up"))
    }

    /// Does what takes more of the disk, from `before` to at most `most`. What it has come to is measured afterwards.
    fn growing(
        &self,
        (file_type, name): (FileType, &str),
        before: u64,
        most: u64,
        grow: impl FnOnce() -> Result<()>,
        measure: impl FnOnce() -> u64,
    ) -> Result<()> {
        let more = most.saturating_sub(before);
        if more > 0 && !self.reserve(more) {
            return Err(Error::Full { location: self.location(), file_type, name: name.into() });
        }
        let grown = grow();
        // After a failure nothing may be found where something still is: on a disk that was unmounted.
        let after = if grown.is_ok() { measure() } else { measure().max(before) };
        self.quotas.iter().for_each(|quota| {
            quota.settle(more, after.saturating_sub(before).min(more));
            quota.release(before.saturating_sub(after));
        });
        grown
    }

    /// All or none of them.
    fn reserve(&self, bytes: u64) -> bool {
        let reserved = self.quotas.iter().take_while(|quota| quota.reserve(bytes)).count();
        let Some(refusing) = self.quotas.get(reserved) else { return true };
        self.quotas[..reserved].iter().for_each(|quota| quota.settle(bytes, 0));
        self.refused_by.get_or_init(|| refusing.whose.clone());
        false
    }

    /// What a file takes; nothing when there is none.
    fn taken_by(&self, file_type: FileType, name: &str) -> u64 {
        self.inner.size_bytes(file_type, name).map_or(0, blocks)
    }

    /// The folders of a repository, and those above.
    fn folders(&self) -> Vec<PathBuf> {
        let dir = self.inner.dir();
        let of_types = FileType::ALL.into_iter().filter(|file_type| *file_type != FileType::Config);
        let of_packs = (0..=u8::MAX).map(|byte| dir.join("data").join(hex::encode([byte])));
        let above = dir.ancestors().map(Path::to_path_buf);
        above.chain(of_types.map(|file_type| dir.join(file_type.folder()))).chain(of_packs).collect()
    }
}

fn standing(folders: &[PathBuf]) -> u64 {
    folders.iter().filter(|folder| folder.is_dir()).count() as u64 * BLOCK_BYTES
}

impl Store for Counted {
    levee_store::forward!(inner: read, read_range, size_bytes, list, location);

    fn create(&self) -> Result<()> {
        let _alone = self.names.lock(self.inner.dir(), FileType::Config, "");
        let folders = self.folders();
        let (before, all) = (standing(&folders), folders.len() as u64 * BLOCK_BYTES);
        self.growing((FileType::Config, ""), before, all, || self.inner.create(), || standing(&folders))
    }

    fn write(&self, file_type: FileType, name: &str, content: &[u8]) -> Result<()> {
        let _alone = self.names.lock(self.inner.dir(), file_type, name);
        // What stands there stays as it is, unless it is damaged and as long as it should be then.
        let (before, all) = (self.taken_by(file_type, name), blocks(content.len() as u64));
        let write = || self.inner.write(file_type, name, content);
        self.growing((file_type, name), before, all, write, || self.taken_by(file_type, name))
    }

    fn remove(&self, file_type: FileType, name: &str) -> Result<()> {
        let _alone = self.names.lock(self.inner.dir(), file_type, name);
        let taken = blocks(self.inner.size_bytes(file_type, name)?);
        self.inner.remove(file_type, name)?;
        self.quotas.iter().for_each(|quota| quota.release(taken));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Barrier;
    use std::thread;

    use levee_store::{conformance, content_name};

    use super::super::Quotas;
    use super::super::taken::bytes_in;
    use super::*;

    const BLOCK: u64 = BLOCK_BYTES;
    /// The folder itself, five for types and 256 for packs.
    const REPOSITORY: u64 = 262 * BLOCK;

    fn repository(quotas: &Quotas, user: &str) -> Counted {
        let store = quotas.counted(LocalStore::new(quotas.served.join(user)), Some(user)).unwrap();
        store.create().unwrap();
        store
    }

    /// A file of so many blocks less a byte, of its own by its number.
    fn content(number: u8, blocks: u64) -> Vec<u8> {
        vec![number; (blocks * BLOCK) as usize - 1]
    }

    fn write(store: &Counted, content: &[u8]) -> Result<()> {
        store.write(FileType::Data, &content_name(content), content)
    }

    #[track_caller]
    fn assert_full(written: Result<()>) {
        assert!(matches!(written, Err(Error::Full { .. })), "{written:?}");
    }

    fn used(quota: &Quota) -> u64 {
        quota.used().bytes
    }

    #[track_caller]
    fn assert_exact(quotas: &Quotas) {
        let all = quotas.all.as_ref().unwrap();
        assert_eq!((used(all), all.used().under_way), (bytes_in(&quotas.served).unwrap(), 0));
    }

    #[test]
    fn what_is_removed_makes_room_again() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("other"), content(0, 4)).unwrap();
        // The served folder and a file are there before the repository and its files.
        let quotas = Quotas::of(folder.path(), Some(BLOCK + 4 * BLOCK + REPOSITORY + 6 * BLOCK), None).unwrap();
        let store = repository(&quotas, "a");
        // Made again, it takes nothing.
        store.create().unwrap();
        write(&store, &content(1, 5)).unwrap();
        // Nor does the same again.
        write(&store, &content(1, 5)).unwrap();
        assert_full(write(&store, &content(2, 2)));
        write(&store, &content(3, 1)).unwrap();
        assert_full(write(&store, b"x"));
        assert_exact(&quotas);
        store.remove(FileType::Data, &content_name(&content(1, 5))).unwrap();
        write(&store, &content(2, 2)).unwrap();
        assert_exact(&quotas);
        // A repository is not made where its folders have no room.
        let other = quotas.counted(LocalStore::new(folder.path().join("b")), Some("b")).unwrap();
        assert_full(other.create());
        assert!(!folder.path().join("b").exists());
        assert_exact(&quotas);
    }

    #[test]
    fn a_user_who_has_used_up_theirs_takes_nothing_from_the_others() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("mia")).unwrap();
        fs::write(folder.path().join("mia/before"), content(0, 3)).unwrap();
        let all_bytes_max = BLOCK + 3 * REPOSITORY + 20 * BLOCK;
        let quotas = Quotas::of(folder.path(), Some(all_bytes_max), Some(REPOSITORY + 10 * BLOCK)).unwrap();
        let [mia, ben, eve] = ["mia", "ben", "eve"].map(|user| repository(&quotas, user));
        write(&mia, &content(1, 7)).unwrap();
        assert_full(write(&mia, &content(2, 1)));
        write(&ben, &content(3, 9)).unwrap();
        // What one quota refuses is counted by none.
        assert_full(write(&ben, &content(4, 2)));
        write(&eve, &content(5, 1)).unwrap();
        assert_full(write(&eve, &content(6, 1)));
        let refused = |store: &Counted, whose: &str| store.refusal().is_some_and(|text| text.contains(whose));
        assert!(refused(&mia, "the quota of mia is") && refused(&eve, "the quota of all users is"));
        let counted = |user: &str| used(&quotas.of_user(user).unwrap().unwrap()) - REPOSITORY;
        assert_eq!(["mia", "ben", "eve"].map(counted), [10 * BLOCK, 9 * BLOCK, BLOCK]);
        assert_eq!(used(quotas.all.as_ref().unwrap()), all_bytes_max);
        assert_exact(&quotas);
        mia.remove(FileType::Data, &content_name(&content(1, 7))).unwrap();
        write(&eve, &content(6, 1)).unwrap();
    }

    #[test]
    fn many_at_once_with_one_file_are_counted_once() {
        let folder = tempfile::tempdir().unwrap();
        let quotas = Quotas::of(folder.path(), Some(1 << 30), Some(1 << 30)).unwrap();
        repository(&quotas, "mia");
        let lock = content(1, 50);
        let name = content_name(&lock);
        for round in 0..8 {
            let barrier = Barrier::new(16);
            thread::scope(|scope| {
                for number in 0..16 {
                    let (quotas, barrier, lock, name) = (&quotas, &barrier, &lock, &name);
                    scope.spawn(move || {
                        let dir = quotas.served.join("mia");
                        let store = quotas.counted(LocalStore::new(dir), Some("mia")).unwrap();
                        barrier.wait();
                        // As clients that come and go with the same lock.
                        if round % 2 == 0 || number < 12 {
                            store.write(FileType::Lock, name, lock).unwrap();
                        } else {
                            // It may not be there.
                            let _ = store.remove(FileType::Lock, name);
                        }
                    });
                }
            });
            assert_exact(&quotas);
        }
        assert_eq!(used(&quotas.of_user("mia").unwrap().unwrap()), bytes_in(&folder.path().join("mia")).unwrap());
    }

    #[test]
    fn room_that_the_owner_makes_on_the_server_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let quotas = Quotas::of(folder.path(), Some(BLOCK + REPOSITORY + 6 * BLOCK), None).unwrap();
        let store = repository(&quotas, "a");
        write(&store, &content(1, 6)).unwrap();
        // By another process, as `levee vault prune` on the server itself.
        let pack = content_name(&content(1, 6));
        LocalStore::new(folder.path().join("a")).remove(FileType::Data, &pack).unwrap();
        write(&store, &content(2, 5)).unwrap();
        assert_exact(&quotas);
    }

    #[test]
    fn a_damaged_file_is_counted_as_what_takes_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let quotas = Quotas::of(folder.path(), Some(BLOCK + REPOSITORY + 6 * BLOCK), None).unwrap();
        let store = repository(&quotas, "a");
        write(&store, &content(1, 6)).unwrap();
        let name = content_name(&content(1, 6));
        fs::write(folder.path().join("a/data").join(&name[..2]).join(&name), content(1, 2)).unwrap();
        let quotas = Quotas::of(folder.path(), Some(BLOCK + REPOSITORY + 6 * BLOCK), None).unwrap();
        let store = quotas.counted(LocalStore::new(folder.path().join("a")), Some("a")).unwrap();
        write(&store, &content(1, 6)).unwrap();
        assert_exact(&quotas);
    }

    #[test]
    fn conforms() {
        let folder = tempfile::tempdir().unwrap();
        let quotas = Quotas::of(folder.path(), Some(1 << 30), Some(1 << 30)).unwrap();
        conformance::check(&quotas.counted(LocalStore::new(folder.path().join("mia")), Some("mia")).unwrap());
    }
}
