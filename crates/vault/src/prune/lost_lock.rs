//! A lock that is lost in the middle of a long removal.

use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use levee_store::{FileType, LocalStore, Result as StoreResult, Store};

use super::{DELETIONS_AT_ONCE, Prune, PruneOptions};
use crate::{Error, Id, Lock, LockMode, Password, Vault};

type Loser = Box<dyn Fn() + Send + Sync>;
type Removal = dyn Fn(&mut Prune<'_>, &[Id], &Lock) -> crate::Result<()>;

/// Loses a lock at the first removal.
struct Losing {
    store: LocalStore,
    loser: Arc<OnceLock<Loser>>,
}

impl Store for Losing {
    levee_store::forward!(store: create, write, read, read_range, size_bytes, list, location);

    fn remove(&self, file_type: FileType, name: &str) -> StoreResult<()> {
        self.loser.get().into_iter().for_each(|lose| lose());
        self.store.remove(file_type, name)
    }
}

#[test]
fn a_removal_ends_where_its_lock_is_lost() {
    let check = |file_type, left: usize, remove: &Removal| {
        let dir = tempfile::tempdir().unwrap();
        let loser = Arc::new(OnceLock::new());
        let store = Losing { store: LocalStore::new(dir.path()), loser: loser.clone() };
        let vault = Vault::init(Arc::new(store), &Password::new("password")).unwrap();
        let options = PruneOptions::default();
        let mut prune = Prune::look(&vault, &options, Timestamp::now(), &()).unwrap();
        let files: Vec<Id> = (0..20_u8).map(|number| Id::of(&[number])).collect();
        for (number, file) in (0..20_u8).zip(&files) {
            vault.store().write(file_type, &file.to_hex(), &[number]).unwrap();
        }
        let lock = Lock::take(&vault, LockMode::Exclusive).unwrap();
        let _ = loser.set(lock.loser());
        let ended = remove(&mut prune, &files, &lock);
        assert!(matches!(ended, Err(Error::LockGone { .. })), "{ended:?}");
        assert_eq!(vault.list_ids(file_type).unwrap().len(), left);
    };
    check(FileType::Data, 20 - DELETIONS_AT_ONCE, &|prune, packs, lock| prune.delete(packs, lock));
    check(FileType::Index, 19, &|prune, files, lock| prune.remove_indexes(files, &[lock]));
}
