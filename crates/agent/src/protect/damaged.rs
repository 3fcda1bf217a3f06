//! Base backups at this site that were found damaged, on this host's disk: nothing is rebuilt from them as long as there
//! is a sound one, and the status names them until they are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use levee_model::AssetName;
use levee_vault::SnapshotId;
use serde::{Deserialize, Serialize};

use super::folder::AppFolder;
use crate::durable;

/// How soon it is looked again whether a base backup opens that did not: somebody may have mended the repository.
const OPEN_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// How damage came to light.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// Its parts could not all be found: nothing can be rebuilt from it.
    Opening,
    /// Its data did not read back whole.
    Rebuilding,
}

/// What is wrong with one base backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    pub noticed_at: Timestamp,
    pub found: Found,
    /// When the base backup was begun, on the source's clock.
    pub taken_at: Timestamp,
    /// What was found first.
    pub reason: String,
}

type OfAsset = BTreeMap<String, Damage>;

/// The damaged base backups of one app's databases, by the ids of their snapshots.
pub struct DamagedBases {
    folder: AppFolder,
    /// Read from disk at the first question about an asset; also keeps writers of the files apart.
    known: Mutex<BTreeMap<AssetName, OfAsset>>,
    /// When each was opened last that could not be.
    opened_at: Mutex<BTreeMap<SnapshotId, Instant>>,
}

impl DamagedBases {
    pub fn new(folder: AppFolder) -> DamagedBases {
        DamagedBases { folder, known: Mutex::default(), opened_at: Mutex::default() }
    }

    /// Notes that a base backup is damaged. Where it can't be kept on disk it is found damaged again after a restart.
    pub fn note(&self, asset: &AssetName, base: &SnapshotId, taken_at: Timestamp, found: Found, reason: &str) {
        self.change(asset, |known| {
            let (noticed_at, reason) = (Timestamp::now(), reason.to_string());
            known.entry(base.to_string()).or_insert_with(|| {
                tracing::error!(%asset, %base, reason, "a base backup is damaged");
                Damage { noticed_at, found, taken_at, reason }
            });
        });
    }

    /// A base backup was sound after all: somebody has mended the repository.
    pub fn clear(&self, asset: &AssetName, base: &SnapshotId) {
        self.change(asset, |known| drop(known.remove(&base.to_string())));
    }

    /// Forgets those that are no longer in the repository.
    pub fn keep_only(&self, asset: &AssetName, present: &BTreeSet<SnapshotId>) {
        let present: BTreeSet<String> = present.iter().map(SnapshotId::to_string).collect();
        self.change(asset, |known| known.retain(|base, _| present.contains(base)));
    }

    pub fn is_damaged(&self, asset: &AssetName, base: &SnapshotId) -> bool {
        self.of(&mut self.lock(), asset).contains_key(&base.to_string())
    }

    /// Whether it is time to open a base backup: one that did not open is left alone for a while.
    pub fn may_open(&self, asset: &AssetName, base: &SnapshotId) -> bool {
        let damage = self.of(&mut self.lock(), asset).remove(&base.to_string());
        if damage.is_none_or(|damage| damage.found != Found::Opening) {
            return true;
        }
        let mut opened_at = self.opened_at.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = opened_at.get(base).is_none_or(|at| at.elapsed() >= OPEN_AGAIN_AFTER);
        if is_due {
            opened_at.insert(*base, Instant::now());
        }
        is_due
    }

    /// A base backup has been opened: all its parts are there.
    pub fn opened(&self, asset: &AssetName, base: &SnapshotId) {
        let base = base.to_string();
        self.change(asset, |known| known.retain(|id, damage| *id != base || damage.found != Found::Opening));
    }

    /// What to say of an asset's damaged base backups.
    pub fn problem(&self, asset: &AssetName) -> Option<String> {
        let known = self.of(&mut self.lock(), asset);
        let (newest, damage) = known.iter().max_by_key(|(_, damage)| damage.taken_at)?;
        let others = match known.len() {
            1 => String::new(),
            count => format!(", and {} more", count - 1),
        };
        Some(format!(
            "base backup {} of {:.0}{others} is damaged ({}), as was found at {:.0}: sound ones are used as long as there \
             are any, with more log. Look with `levee vault check --read-data` for what else is, and mend it as \
             docs/operating/faults.md says",
            newest.get(..8).unwrap_or(newest),
            damage.taken_at,
            damage.reason,
            damage.noticed_at
        ))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<AssetName, OfAsset>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, known: &mut BTreeMap<AssetName, OfAsset>, asset: &AssetName) -> OfAsset {
        let read = || {
            let path = self.folder.damaged(asset);
            let read = durable::read_json(&path).unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "what was known of damaged base backups can't be read");
                None
            });
            read.unwrap_or_default()
        };
        known.entry(asset.clone()).or_insert_with(read).clone()
    }

    fn change(&self, asset: &AssetName, change: impl FnOnce(&mut OfAsset)) {
        let mut all = self.lock();
        let before = self.of(&mut all, asset);
        let mut changed = before.clone();
        change(&mut changed);
        if changed == before {
            return;
        }
        let path = self.folder.damaged(asset);
        if let Err(error) = durable::write_json(&path, &changed) {
            tracing::warn!(path = %path.display(), %error, "what is damaged can't be written down");
        }
        all.insert(asset.clone(), changed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_remembered_and_named_until_the_base_is_gone_or_sound() {
        let root = tempfile::tempdir().unwrap();
        let (app, asset) = ("shop".parse().unwrap(), "orders".parse().unwrap());
        let open = || DamagedBases::new(AppFolder::new(root.path(), &app));
        let id = |digit: &str| -> SnapshotId { digit.repeat(64).parse().unwrap() };
        let at = |second| Timestamp::from_second(second).unwrap();
        open().note(&asset, &id("a"), at(1_800_000_000), Found::Rebuilding, "pack 12 does not open");
        open().note(&asset, &id("b"), at(1_700_000_000), Found::Opening, "pack 34 is gone");
        let damaged = open();
        assert!(damaged.is_damaged(&asset, &id("a")) && !damaged.is_damaged(&asset, &id("c")));
        let said = damaged.problem(&asset).unwrap();
        for words in ["aaaaaaaa of 2027-01-15", "and 1 more", "pack 12", "check --read-data"] {
            assert!(said.contains(words), "{words:?} is not in {said}");
        }
        assert!(damaged.may_open(&asset, &id("a")));
        assert!(damaged.may_open(&asset, &id("b")) && !damaged.may_open(&asset, &id("b")), "not at every look");
        damaged.opened(&asset, &id("a"));
        assert!(damaged.is_damaged(&asset, &id("a")), "that it opens says nothing of its data");
        damaged.clear(&asset, &id("a"));
        assert!(open().problem(&asset).unwrap().contains("pack 34"));
        damaged.keep_only(&asset, &BTreeSet::from([id("c")]));
        assert_eq!(open().problem(&asset), None);
    }
}
