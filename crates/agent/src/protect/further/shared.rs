//! What the copies of all apps on this host to one further vault share: a line in which they wait for their turn, and the
//! vault's bandwidth.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use levee_model::{Timetable, VaultName};
use levee_store::limit::Bandwidth;

use super::super::queue::CopyQueue;

/// The further vaults that this host copies to.
#[derive(Debug)]
pub struct FurtherVaults {
    copies_at_once: usize,
    /// One for each vault that was ever named here: few, and small.
    vaults: Mutex<BTreeMap<VaultName, Arc<SharedVault>>>,
}

/// One of them.
#[derive(Debug)]
pub struct SharedVault {
    pub queue: CopyQueue,
    bandwidth: Mutex<(Option<Timetable>, Bandwidth)>,
}

impl FurtherVaults {
    /// So many copies go to each vault at once.
    pub fn new(copies_at_once: usize) -> Self {
        Self { copies_at_once, vaults: Mutex::default() }
    }

    pub fn vault(&self, name: &VaultName) -> Arc<SharedVault> {
        let mut vaults = self.vaults.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(SharedVault { queue: CopyQueue::new(self.copies_at_once), bandwidth: Mutex::default() });
        vaults.entry(name.clone()).or_insert_with(new).clone()
    }
}

impl SharedVault {
    /// The limit for all that is sent there. Begun anew when the protection file says something else.
    pub fn bandwidth(&self, wanted: Option<&Timetable>) -> Bandwidth {
        let mut known = self.bandwidth.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0.as_ref() != wanted {
            *known = (wanted.cloned(), Bandwidth::new(wanted.cloned(), None));
        }
        known.1.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_vault_has_a_line_and_a_limit_of_its_own_that_all_apps_share() {
        let vaults = FurtherVaults::new(1);
        let (far, near) = (vaults.vault(&"far".parse().unwrap()), vaults.vault(&"near".parse().unwrap()));
        assert!(Arc::ptr_eq(&far, &vaults.vault(&"far".parse().unwrap())));
        assert!(!Arc::ptr_eq(&far, &near));
        let limit = |text: &str| Some(text.parse::<Timetable>().unwrap());
        let shown = |wanted: Option<Timetable>| format!("{:?}", far.bandwidth(wanted.as_ref()));
        assert!(shown(limit("1M")).contains("1M"));
        assert!(shown(limit("08:00,2M 20:00,off")).contains("20:00,off"), "a changed file counts");
        assert_eq!(shown(None), format!("{:?}", Bandwidth::default()));
    }
}
