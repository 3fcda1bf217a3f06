//! A vault whose lock is lost at the first removal, for tests of those who remove many files.

use std::sync::{Arc, OnceLock};

use levee_store::{FileType, LocalStore, Result, Store};

use crate::{Lock, LockMode, Password, Vault};

type Loser = Box<dyn Fn() + Send + Sync>;

struct Losing {
    store: LocalStore,
    loser: Arc<OnceLock<Loser>>,
}

impl Store for Losing {
    levee_store::forward!(store: create, write, read, read_range, size_bytes, list, location);

    fn remove(&self, file_type: FileType, name: &str) -> Result<()> {
        self.loser.get().into_iter().for_each(|lose| lose());
        self.store.remove(file_type, name)
    }
}

pub(crate) struct LosingVault {
    pub vault: Vault,
    loser: Arc<OnceLock<Loser>>,
    _folder: tempfile::TempDir,
}

impl LosingVault {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let loser = Arc::new(OnceLock::new());
        let store = Losing { store: LocalStore::new(folder.path()), loser: loser.clone() };
        let vault = Vault::init(Arc::new(store), &Password::new("password")).unwrap();
        Self { vault, loser, _folder: folder }
    }

    /// The lock that will be lost.
    pub fn lock(&self) -> Lock {
        let lock = Lock::take(&self.vault, LockMode::Exclusive).unwrap();
        let _ = self.loser.set(lock.loser());
        lock
    }
}
