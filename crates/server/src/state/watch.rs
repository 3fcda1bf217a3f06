use tokio::sync::watch;

use super::Store;
use crate::error::{Result, ServerError};

/// A key that was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedKey {
    pub revision: u64,
    pub key: String,
    /// `None`: it was deleted.
    pub value: Option<Vec<u8>>,
}

/// The changes below a prefix, in order, each once.
pub struct Watch {
    store: Store,
    newest: watch::Receiver<u64>,
    prefix: String,
    next: u64,
}

impl Watch {
    pub(super) fn new(store: Store, newest: watch::Receiver<u64>, prefix: String, from: u64) -> Self {
        Self { store, newest, prefix, next: from }
    }

    /// Waits for changes. After `Compacted` read the whole range, and watch from its revision on.
    pub async fn next(&mut self) -> Result<Vec<ChangedKey>> {
        loop {
            self.newest.borrow_and_update();
            let (store, prefix, from) = (self.store.clone(), self.prefix.clone(), self.next);
            let read = tokio::task::spawn_blocking(move || store.changes(&prefix, from));
            let (revision, changes) = read.await.map_err(|_| ServerError::ShuttingDown)??;
            self.next = revision + 1;
            if !changes.is_empty() {
                return Ok(changes);
            }
            self.newest.changed().await.map_err(|_| ServerError::ShuttingDown)?;
        }
    }
}
