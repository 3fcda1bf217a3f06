//! What upkeep has to know after a restart: `upkeep/state.json`.

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;
use levee_model::AssetName;
use levee_model::control::{Failure, VerifiedBackup};
use levee_vault::Id;
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
