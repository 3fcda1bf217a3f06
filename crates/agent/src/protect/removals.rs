//! What this site's retention has removed, until every further vault has removed it too: `upkeep/removed.json`.
//!
//! Nothing goes from a further vault but what stands here. That something is missing at this site says nothing: a disk
//! that was lost or emptied here must not empty the vaults elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use levee_journal::{KeepRange, SegmentPlace};
use levee_model::control::Failure;
use levee_model::postgres::{Lsn, SystemIdentifier, TimelineId};
use levee_model::{AssetName, VaultName};
use levee_vault::SnapshotId;
use serde::{Deserialize, Serialize};

use super::app::failure;
use crate::durable;

/// Log that retention has decided to remove, of one timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrimmedLog {
    pub system_identifier: SystemIdentifier,
    pub timeline: TimelineId,
    /// Everything below has gone,
    pub keep_from: Lsn,
    /// but for what is between these positions.
    pub keep: Vec<(Lsn, Lsn)>,
}

impl TrimmedLog {
    pub fn has_taken(&self, place: &SegmentPlace, segment_bytes: Option<u64>) -> bool {
        let keep: Vec<KeepRange> =
            self.keep.iter().map(|(start, stop)| KeepRange { start: *start, stop: *stop }).collect();
        (place.system_identifier, place.timeline) == (self.system_identifier, self.timeline)
            // How long an open segment is may be known no more: then it has not gone by this.
            && place.is_trimmed(self.keep_from, &keep, segment_bytes.unwrap_or(u64::MAX))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// By the id that each had here.
    #[serde(default)]
    snapshots: BTreeMap<String, Removed>,
    /// The last word on each timeline. It never asks for more than an earlier one, since bases go before their log.
    #[serde(default)]
    log: BTreeMap<AssetName, Vec<TrimmedLog>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Removed {
    /// Those that have not removed it yet.
    vaults: BTreeSet<VaultName>,
}

/// The record of one app. Retention writes it, and one thread for each vault.
pub struct Removals {
    path: PathBuf,
    /// Read at first use. Held while it is written, so that nothing is lost between two writers.
    known: Mutex<Option<Record>>,
}

impl Removals {
    pub fn new(path: PathBuf) -> Self {
        Self { path, known: Mutex::default() }
    }

    /// Changes the record: durable first, then visible.
    fn change<T>(&self, change: impl FnOnce(&mut Record) -> T) -> Result<T, Failure> {
        let cannot = |what: &str, error: std::io::Error| {
            failure(format!(
                "cannot {what} {}, where it stands what is to go from further vaults: {error}",
                self.path.display()
            ))
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match &*known {
            Some(record) => record.clone(),
            None => durable::read_json(&self.path).map_err(|error| cannot("read", error))?.unwrap_or_default(),
        };
        let mut after = before.clone();
        let result = change(&mut after);
        if after != before {
            durable::write_json(&self.path, &after).map_err(|error| cannot("write", error))?;
        }
        *known = Some(after);
        Ok(result)
    }

    /// Notes snapshots that are about to be removed here. Nothing may go before this returns.
    pub fn note(&self, leaving: &[SnapshotId], vaults: &BTreeSet<VaultName>) -> Result<(), Failure> {
        self.change(|record| {
            // What is copied to no more is left as it is.
            record.snapshots.retain(|_, removed| {
                removed.vaults.retain(|vault| vaults.contains(vault));
                !removed.vaults.is_empty()
            });
            for id in leaving.iter().filter(|_| !vaults.is_empty()) {
                record.snapshots.insert(id.to_string(), Removed { vaults: vaults.clone() });
            }
        })
    }

    /// Takes back what was noted and is still here: its removal failed, or somebody has brought it back.
    pub fn keep_present(&self, present: &BTreeSet<SnapshotId>) -> Result<(), Failure> {
        let is_here = |id: &String| id.parse().is_ok_and(|id| present.contains(&id));
        self.change(|record| record.snapshots.retain(|id, _| !is_here(id)))
    }

    /// What is to go from a vault, by the id that it had here.
    pub fn of(&self, vault: &VaultName) -> Result<Vec<SnapshotId>, Failure> {
        self.change(|record| {
            let of_vault = record.snapshots.iter().filter(|(_, removed)| removed.vaults.contains(vault));
            of_vault.filter_map(|(id, _)| id.parse().ok()).collect()
        })
    }

    /// Notes that snapshots have gone from a vault, or never were there.
    pub fn done(&self, vault: &VaultName, gone: &[SnapshotId]) -> Result<(), Failure> {
        self.change(|record| {
            for id in gone.iter().map(SnapshotId::to_string) {
                if let Some(removed) = record.snapshots.get_mut(&id) {
                    removed.vaults.remove(vault);
                }
            }
            record.snapshots.retain(|_, removed| !removed.vaults.is_empty());
        })
    }

    /// Notes log that is about to be trimmed here. Nothing may go before this returns.
    pub fn note_trim(&self, asset: &AssetName, trimmed: TrimmedLog) -> Result<(), Failure> {
        self.change(|record| {
            let of_asset = record.log.entry(asset.clone()).or_default();
            let lineage = (trimmed.system_identifier, trimmed.timeline);
            of_asset.retain(|known| (known.system_identifier, known.timeline) != lineage);
            of_asset.push(trimmed);
        })
    }

    /// What was trimmed of a database's log.
    pub fn trimmed(&self, asset: &AssetName) -> Result<Vec<TrimmedLog>, Failure> {
        self.change(|record| record.log.get(asset).cloned().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(digit: &str) -> SnapshotId {
        digit.repeat(64).parse().unwrap()
    }

    fn vaults(names: &[&str]) -> BTreeSet<VaultName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn what_is_removed_here_is_kept_until_each_vault_has_removed_it() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Removals::new(folder.path().join("removed.json"));
        let (far, near) = ("far".parse().unwrap(), "near".parse().unwrap());
        let of = |vault: &VaultName| open().of(vault).unwrap().iter().map(SnapshotId::short).collect::<Vec<_>>();
        open().note(&[snapshot("a"), snapshot("b")], &vaults(&[])).unwrap();
        assert_eq!(of(&far), [] as [&str; 0], "nothing is copied anywhere");
        open().note(&[snapshot("a"), snapshot("b")], &vaults(&["far", "near"])).unwrap();
        open().done(&far, &[snapshot("a")]).unwrap();
        assert_eq!((of(&far), of(&near)), (vec!["bbbbbbbb".into()], vec!["aaaaaaaa".into(), "bbbbbbbb".into()]));
        // It was not removed after all.
        open().keep_present(&[snapshot("b")].into()).unwrap();
        assert_eq!((of(&far), of(&near)), (vec![], vec!["aaaaaaaa".into()]));
        // A vault that nothing is copied to any more is left as it is.
        open().note(&[snapshot("c")], &vaults(&["far"])).unwrap();
        assert_eq!((of(&far), of(&near)), (vec!["cccccccc".into()], vec![]));
    }

    #[test]
    fn log_is_taken_for_removed_by_retentions_word_only() {
        let folder = tempfile::tempdir().unwrap();
        let removals = Removals::new(folder.path().join("removed.json"));
        let (asset, segment) = ("orders".parse().unwrap(), 1 << 20);
        let trimmed = |timeline: u32, keep_from: u64, keep: Vec<(Lsn, Lsn)>| TrimmedLog {
            system_identifier: SystemIdentifier(7),
            timeline: TimelineId(timeline),
            keep_from: Lsn(keep_from * segment),
            keep,
        };
        removals.note_trim(&asset, trimmed(1, 3, vec![])).unwrap();
        removals.note_trim(&asset, trimmed(2, 9, vec![])).unwrap();
        removals.note_trim(&asset, trimmed(1, 5, vec![(Lsn(segment), Lsn(segment + 1))])).unwrap();
        let known = Removals::new(folder.path().join("removed.json")).trimmed(&asset).unwrap();
        let check = |timeline: u32, number: u64, expected: bool| {
            let place = |end| SegmentPlace {
                system_identifier: SystemIdentifier(7),
                timeline: TimelineId(timeline),
                start: Lsn(number * segment),
                end,
            };
            let closed = place(Some(Lsn((number + 1) * segment)));
            let taken = |place: &SegmentPlace, bytes| known.iter().any(|trimmed| trimmed.has_taken(place, bytes));
            assert_eq!(taken(&closed, None), expected, "{timeline} {number}");
            assert_eq!(taken(&place(None), Some(segment)), expected, "{timeline} {number}");
            assert!(!taken(&place(None), None), "nobody knows how long it is");
        };
        check(1, 4, true);
        check(1, 1, false);
        check(1, 5, false);
        check(2, 8, true);
        check(3, 1, false);
    }
}
