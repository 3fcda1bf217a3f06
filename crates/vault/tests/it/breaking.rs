//! A store that breaks at its nth operation and stays broken, as if the process had been killed there; or one that
//! fails at it once and works again, so that an error which is passed over leads to a wrong end.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use levee_store::{Entry, Error, FileType, Result, Store};
use levee_vault::{MasterKey, Vault};

use crate::support::Scratch;

/// What becomes of the operation that breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// It has no effect.
    Before,
    /// It has its effect, and its answer is lost.
    After,
    /// Half of a pack is written under its name, as stores do that cannot rename. Everything else has no
    /// effect: no store leaves half an index file behind, and the conformance suite holds them to that.
    Torn,
    /// It has no effect, and all that come later are done.
    Once,
}

/// The ways in which a store breaks and stays broken.
pub const BREAKS: [Break; 3] = [Break::Before, Break::After, Break::Torn];

/// Which operations count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    Everything,
    /// Writing and removing alone.
    Changes,
}

/// It says nothing of how many requests serve it best: there are several uploaders, as with every store on a network.
pub struct Breaking {
    store: Arc<dyn Store>,
    operations_left: AtomicI64,
    how: Break,
    counted: Counted,
}

pub const REASON: &str = "broken on purpose";

impl Breaking {
    pub fn new(store: Arc<dyn Store>, operations: i64, how: Break) -> Self {
        Self { store, operations_left: AtomicI64::new(operations), how, counted: Counted::Everything }
    }

    /// A vault on such a store. Opening it doesn't count.
    pub fn vault(scratch: &Scratch, key: &MasterKey, operations: i64, how: Break) -> Vault {
        Self::vault_on(scratch.store(), key, operations, how)
    }

    pub fn vault_on(store: Arc<dyn Store>, key: &MasterKey, operations: i64, how: Break) -> Vault {
        Self::counting(store, key, operations, how, Counted::Everything).0
    }

    /// The store beside the vault, so that it can be asked whether it came to break.
    pub fn counting(
        store: Arc<dyn Store>,
        key: &MasterKey,
        operations: i64,
        how: Break,
        counted: Counted,
    ) -> (Vault, Arc<Self>) {
        let store = Arc::new(Self { counted, ..Self::new(store, i64::MAX, how) });
        let vault = Vault::open_with_master_key(store.clone(), key.clone()).unwrap();
        store.operations_left.store(operations, Ordering::SeqCst);
        (vault, store)
    }

    /// Whether there were enough operations for it.
    pub fn has_broken(&self) -> bool {
        self.operations_left.load(Ordering::SeqCst) < 0
    }

    /// Does an operation, or breaks at it.
    fn at<T>(
        &self,
        action: &'static str,
        file_type: FileType,
        name: &str,
        run: impl FnOnce() -> Result<T>,
        torn: impl FnOnce(),
    ) -> Result<T> {
        let left = match self.counted == Counted::Everything || ["write", "remove"].contains(&action) {
            true => self.operations_left.fetch_sub(1, Ordering::SeqCst),
            false if self.has_broken() => -1,
            false => 1,
        };
        if left > 0 || (left < 0 && self.how == Break::Once) {
            return run();
        }
        if left == 0 && self.how == Break::After {
            let _ = run();
        } else if left == 0 && self.how == Break::Torn {
            torn();
        }
        let (location, name) = (self.store.location(), name.into());
        Err(Error::Unreachable { location, action, file_type, name, reason: REASON.into() })
    }
}

impl Store for Breaking {
    fn create(&self) -> Result<()> {
        self.store.create()
    }

    fn write(&self, file_type: FileType, name: &str, content: &[u8]) -> Result<()> {
        let write = || self.store.write(file_type, name, content);
        self.at("write", file_type, name, write, || {
            if file_type == FileType::Data {
                let path = std::path::Path::new(&self.store.location()).join("data").join(&name[..2]).join(name);
                std::fs::write(path, &content[..content.len() / 2]).unwrap();
            }
        })
    }

    fn read(&self, file_type: FileType, name: &str) -> Result<Vec<u8>> {
        self.at("read", file_type, name, || self.store.read(file_type, name), || ())
    }

    fn read_range(&self, file_type: FileType, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.at("read", file_type, name, || self.store.read_range(file_type, name, offset, length), || ())
    }

    fn size_bytes(&self, file_type: FileType, name: &str) -> Result<u64> {
        self.at("look at", file_type, name, || self.store.size_bytes(file_type, name), || ())
    }

    fn list(&self, file_type: FileType) -> Result<Vec<Entry>> {
        self.at("list", file_type, "", || self.store.list(file_type), || ())
    }

    fn remove(&self, file_type: FileType, name: &str) -> Result<()> {
        self.at("remove", file_type, name, || self.store.remove(file_type, name), || ())
    }

    fn location(&self) -> String {
        self.store.location()
    }
}

/// How many operations an undisturbed run takes, at most this many.
pub const OPERATIONS_MAX: i64 = 400;

/// With `LEVEE_VAULT_FAULTS_ALL=1` every operation breaks in every way, and stock restic looks after each;
/// else each operation breaks in one way, and restic looks now and then.
pub fn all_faults() -> bool {
    std::env::var_os("LEVEE_VAULT_FAULTS_ALL").is_some()
}
