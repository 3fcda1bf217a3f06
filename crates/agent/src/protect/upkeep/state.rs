//! What upkeep has to know after a restart: `upkeep/state.json`.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use jiff::Timestamp;
use levee_model::AssetName;
use levee_model::control::{Failure, VerifiedBackup};
use levee_vault::{Id, SnapshotId};
use serde::{Deserialize, Serialize};

use super::super::app::failure;
use super::super::folder::AppFolder;
use super::prune::Clearing;
use crate::durable;

const NAMED_MAX: usize = 3;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpkeepState {
    #[serde(flatten)]
    pub clearing: Clearing,
    /// When the last prune began and ended: what was stored in between are older copies' data.
    #[serde(default)]
    pub moved_from: Option<Timestamp>,
    #[serde(default)]
    pub moved_until: Option<Timestamp>,
    /// Packs that are not as they must be.
    #[serde(default)]
    pub damaged: Vec<DamagedPack>,
    /// The newest backup of each asset that was read back.
    #[serde(default)]
    pub verified: BTreeMap<AssetName, VerifiedBackup>,
    /// Copies that can't be restored whole: damage hits them, or has, and what it took is not there again.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub hit: BTreeSet<SnapshotId>,
    /// The newest copy of each asset that was ever read back and is not damaged since. Unlike `verified` it outlasts that
    /// its data are moved, and were not read again yet: retention leaves it alone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub verified_copies: BTreeMap<AssetName, SnapshotId>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedPack {
    pub pack: String,
    /// When it was last found so.
    pub at: Timestamp,
    pub problem: String,
}

/// Notes what reading a pack has shown.
pub fn note_pack(damaged: &mut Vec<DamagedPack>, pack: &Id, at: Timestamp, problem: Option<String>) {
    let pack = pack.to_string();
    damaged.retain(|known| known.pack != pack);
    if let Some(problem) = problem {
        damaged.push(DamagedPack { pack, at, problem });
    }
}

/// The ids of these packs.
pub fn pack_ids(damaged: &[DamagedPack]) -> HashSet<Id> {
    damaged.iter().filter_map(|damaged| damaged.pack.parse().ok()).collect()
}

/// The first of these packs, and what is wrong with each.
pub fn name_packs(damaged: &[DamagedPack]) -> String {
    let named = damaged.iter().take(NAMED_MAX).map(|damaged| format!("data/{}: {}", damaged.pack, damaged.problem));
    named.collect::<Vec<_>>().join("; ")
}

impl UpkeepState {
    pub fn read(folder: &AppFolder) -> Result<Self, Failure> {
        let path = folder.upkeep_state();
        durable::read_json(&path)
            .map(Option::unwrap_or_default)
            .map_err(|error| failure(format!("cannot read {}: {error}; remove it, and it begins anew", path.display())))
    }

    pub fn write(&self, folder: &AppFolder) -> Result<(), Failure> {
        let path = folder.upkeep_state();
        if Self::read(folder).is_ok_and(|known| known == *self) {
            return Ok(());
        }
        durable::write_json(&path, self).map_err(|error| failure(format!("cannot write {}: {error}", path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_of_another_version_can_be_read() {
        let earlier = r#"{ "pruned_at": null, "unpruned": true, "waiting_until": null, "what_is_to_come": 1 }"#;
        let read: UpkeepState = serde_json::from_str(earlier).unwrap();
        assert!(read.clearing.unpruned && read.hit.is_empty() && read.verified_copies.is_empty());
        let copy = SnapshotId(Id::of(b"copy"));
        let state = UpkeepState {
            hit: BTreeSet::from([copy]),
            verified_copies: BTreeMap::from([("documents".parse().unwrap(), copy)]),
            ..read
        };
        let written = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<UpkeepState>(&written).unwrap(), state);
    }
}
