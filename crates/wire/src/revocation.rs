//! The certificates that are trusted no more, as a list that changes while the process runs.

use std::sync::{RwLock, RwLockReadGuard};

use levee_model::control::{RevocationList, Signed};

use crate::error::Result;
use crate::grant::GrantKey;
use crate::identity::{PeerIdentity, Subject};

/// The newest known revocation list.
#[derive(Debug, Default)]
pub struct Revocations {
    /// Many handshakes and calls read it; a new list replaces it as a whole.
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    list: RevocationList,
    signed: Option<Signed>,
}

impl Revocations {
    /// Takes a list over when it is genuine and newer than what is known. Returns whether it was.
    pub fn update(&self, signed: &Signed, key: &GrantKey) -> Result<bool> {
        let list = key.verify_revocations(signed)?;
        let mut known = match self.known.write() {
            Ok(known) => known,
            // Nothing can panic while the lock is held; the data is whole in any case.
            Err(poisoned) => poisoned.into_inner(),
        };
        if list.version <= known.list.version {
            return Ok(false);
        }
        *known = Known { list, signed: Some(signed.clone()) };
        Ok(true)
    }

    /// The newest list as the server signed it, to be kept and passed on.
    pub fn signed(&self) -> Option<Signed> {
        self.read().signed.clone()
    }

    pub fn version(&self) -> u64 {
        self.read().list.version
    }

    pub fn contains(&self, peer: &PeerIdentity) -> bool {
        let known = self.read();
        known.list.serials.contains(&peer.serial) || known.list.agents.contains(&peer.agent)
    }

    pub fn contains_subject(&self, subject: &Subject) -> bool {
        match subject {
            Subject::Server { serial } => self.read().list.serials.contains(serial),
            Subject::Agent(peer) => self.contains(peer),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
