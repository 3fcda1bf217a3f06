//! What is known of one further vault after a restart: `further/VAULT/state.json`.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use levee_model::control::{AssetPoint, Failure};
use levee_model::{AssetName, VaultName};
use levee_vault::{Id, SnapshotId};
use serde::{Deserialize, Serialize};

use super::super::app::failure;
use super::super::folder::AppFolder;
use super::super::upkeep::prune::Clearing;
use super::super::upkeep::state::DamagedPack;
use crate::durable;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FurtherState {
    /// Where the vault was when this was written, as the protection file has it.
    pub address: String,
    /// The repository that was made there. It is never made a second time by itself: one that has gone may lie on a disk
    /// that is not mounted.
    pub repository: Option<Id>,
    #[serde(flatten)]
    pub clearing: Clearing,
    /// What could be rebuilt from there alone.
    #[serde(default)]
    pub points: BTreeMap<AssetName, AssetPoint>,
    /// Packs there that are not as they must be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<DamagedPack>,
    /// Copies there that can't be restored whole for it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub hit: BTreeSet<SnapshotId>,
    /// When object lock was last renewed on all that is in use there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked: Option<Locked>,
}

/// A renewal of object lock, by when it began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locked {
    pub at: Timestamp,
    pub days: u16,
    /// What hid which packs are in use, so that the lock was renewed on all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
    /// Packs in use that were not there, so that nothing was locked of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<Missing>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    pub count: usize,
    pub first: String,
}

impl Locked {
    pub fn new(at: Timestamp, days: u16) -> Self {
        Self { at, days, damage: None, missing: None }
    }

    /// From when on something may be removable.
    pub fn runs_out(&self) -> Timestamp {
        self.at.checked_add(SignedDuration::from_hours(24 * i64::from(self.days))).unwrap_or(Timestamp::MAX)
    }
}

impl FurtherState {
    /// What is known of a vault at this address; nothing when it was at another one.
    pub fn read(folder: &AppFolder, vault: &VaultName, address: &str) -> Result<Self, Failure> {
        let path = folder.further(vault).join("state.json");
        let known: Option<Self> = durable::read_json(&path).map_err(|error| {
            failure(format!("cannot read {}: {error}; remove it, and it is found out anew", path.display()))
        })?;
        let known = known.filter(|known| known.address == address);
        Ok(known.unwrap_or_else(|| Self { address: address.into(), ..Self::default() }))
    }

    pub fn write(&self, folder: &AppFolder, vault: &VaultName) -> Result<(), Failure> {
        let path = folder.further(vault).join("state.json");
        durable::write_json(&path, self).map_err(|error| failure(format!("cannot write {}: {error}", path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_a_vault_counts_at_its_address_only() {
        let dir = tempfile::tempdir().unwrap();
        let folder = AppFolder::new(dir.path(), &"shop".parse().unwrap());
        let vault = "far".parse().unwrap();
        let read = |address: &str| FurtherState::read(&folder, &vault, address).unwrap();
        let mut state = read("/mnt/nas");
        assert_eq!(state.repository, None);
        state.repository = Some(Id::of(b"one"));
        state.clearing.unpruned = true;
        // As an earlier version has written it, and as it is now.
        let mut locked: Locked = serde_json::from_str(r#"{ "at": "2026-11-26T12:00:00Z", "days": 30 }"#).unwrap();
        locked.missing = Some(Missing { count: 2, first: "aa".into() });
        state.locked = Some(locked);
        state.write(&folder, &vault).unwrap();
        assert_eq!(read("/mnt/nas"), state);
        assert_eq!(read("/mnt/other"), FurtherState { address: "/mnt/other".into(), ..FurtherState::default() });
    }
}
