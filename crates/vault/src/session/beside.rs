//! Sending what a session stores to further vaults at the same time.
//!
//! Each has keys of its own, so that everything is sealed anew for it. What goes there makes no snapshot: `copy` does
//! that afterwards, and adds what was not read this time. So a vault that fails here holds nobody up, and loses nothing
//! but time.

use super::{Session, SessionOptions};
use crate::problem::with_sources;
use crate::room::empty_with_room;
use crate::{BlobKind, Id, Lock, LockMode, Result, Vault};

pub(super) struct Beside {
    session: Session,
    /// Held until everything is in an index.
    _lock: Lock,
}

impl Beside {
    pub fn begin(vault: &Vault, options: SessionOptions) -> Result<Self> {
        let lock = Lock::take(vault, LockMode::Shared)?;
        vault.refresh_index()?;
        Ok(Self { session: Session::begin(vault, options, &[])?, _lock: lock })
    }

    /// Hands a blob over unless it is there. Waits while the queue is full: the slowest vault sets the pace.
    pub fn offer(&self, kind: BlobKind, id: Id, plaintext: &[u8]) {
        let shared = &self.session.shared;
        match shared.vault.has_blob_to_stay(kind, &id) {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => return shared.fail(error),
        }
        if shared.has_failed() {
            return;
        }
        let mut copy = shared.chunk_buffers.take();
        empty_with_room(&mut copy, plaintext.len());
        copy.extend_from_slice(plaintext);
        // A failure is kept there, and told at the end.
        let _ = self.session.add_blob(kind, id, copy);
    }

    /// Waits until everything is stored and indexed there.
    pub fn finish(self) {
        let location = self.session.shared.vault.location();
        if let Err(error) = self.session.finish() {
            tracing::warn!(vault = location, "storing side by side ended early: {}", with_sources(&error));
        }
    }
}
