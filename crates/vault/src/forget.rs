//! Removing snapshots by a policy, with restic's rules.

mod policy;
mod received;
mod span;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use levee_store::FileType;
use serde::Serialize;

pub use policy::{Keep, KeepReasons, Policy};
pub use received::{Arrival, RetainReceived};
pub use span::{InvalidSpan, Span};

use crate::forgotten::{self, Record};
use crate::parallel::parallel_map;
use crate::{Error, Id, Lock, LockMode, Result, Snapshot, SnapshotId, SnapshotSelection, Vault};
use policy::Dated;

/// How many small files are fetched at once.
const FETCHES_AT_ONCE: usize = 8;

/// What makes a group of snapshots, to each of which the policy is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupBy {
    pub host: bool,
    pub paths: bool,
    pub tags: bool,
}

impl Default for GroupBy {
    fn default() -> Self {
        Self { host: true, paths: true, tags: false }
    }
}

/// What to forget.
#[derive(Clone, Debug, Default)]
pub struct ForgetOptions {
    /// With ids these snapshots go, whatever the policy says.
    pub selection: SnapshotSelection,
    pub policy: Policy,
    pub group_by: GroupBy,
    /// Allow that nothing of a group is left.
    pub allow_remove_all: bool,
    /// How long to wait for others' locks.
    pub patience: Duration,
    pub dry_run: bool,
}

/// What has become of one group.
#[derive(Clone, Debug, PartialEq)]
pub struct ForgetGroup {
    pub host: Option<String>,
    pub paths: Option<Vec<String>>,
    pub tags: Option<Vec<String>>,
    /// Newest first, as are all three.
    pub keep: Vec<(SnapshotId, Snapshot)>,
    pub remove: Vec<(SnapshotId, Snapshot)>,
    /// Why each kept snapshot is kept.
    pub reasons: Vec<(SnapshotId, KeepReasons)>,
}

/// What was forgotten.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ForgetReport {
    pub groups: Vec<ForgetGroup>,
    /// Snapshots that went; in a dry run those that would go.
    pub removed: Vec<SnapshotId>,
    /// Snapshots that could not be removed, and why.
    pub failed: Vec<(SnapshotId, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct GroupKey {
    host: Option<String>,
    paths: Option<Vec<String>>,
    tags: Option<Vec<String>>,
}

impl GroupKey {
    fn of(snapshot: &Snapshot, by: GroupBy) -> Self {
        let sorted = |list: &[String]| {
            let mut list = list.to_vec();
            list.sort();
            list
        };
        Self {
            host: by.host.then(|| snapshot.hostname.clone()),
            paths: by.paths.then(|| sorted(&snapshot.paths)),
            tags: by.tags.then(|| sorted(&snapshot.tags)),
        }
    }
}

/// Removes snapshots. `now` decides which of them lie in the future and say nothing of the newest.
pub fn forget(vault: &Vault, options: &ForgetOptions, now: Timestamp) -> Result<ForgetReport> {
    let lock = match options.dry_run {
        true => None,
        false => Some(Lock::take_within(vault, LockMode::Exclusive, options.patience)?),
    };
    let mut report = ForgetReport::default();
    let mut to_remove: Vec<SnapshotId> = Vec::new();
    if options.selection.ids.is_empty() {
        if options.policy.is_empty() && !options.allow_remove_all {
            return Err(Error::EmptyPolicy);
        }
        let chosen = vault.select(&options.selection)?;
        report.groups = apply(options, chosen.clone(), now);
        if report.groups.iter().any(|group| !group.remove.is_empty()) {
            // What is still listed after it was removed, and read from a cache, must not be kept in another's place.
            report.groups = apply(options, still_stored(vault, chosen)?, now);
        }
        for group in &report.groups {
            if group.keep.is_empty() && !group.remove.is_empty() && !options.allow_remove_all {
                return Err(Error::NothingKept { snapshots: group.remove.len() });
            }
            to_remove.extend(group.remove.iter().map(|(id, _)| *id));
        }
    } else {
        to_remove = named(vault, &options.selection)?;
    }
    let Some(lock) = lock else {
        report.removed = to_remove;
        return Ok(report);
    };
    lock.check()?;
    record_forgotten(vault, &to_remove, now)?;
    for id in to_remove {
        lock.check()?;
        match vault.remove_snapshot(&id) {
            Ok(()) | Err(Error::Store(levee_store::Error::NotFound { .. })) => report.removed.push(id),
            // The others need not stay for it; the caller hears of it.
            Err(error) => report.failed.push((id, crate::problem::with_sources(&error))),
        }
    }
    Ok(report)
}

fn still_stored(vault: &Vault, chosen: Vec<(SnapshotId, Snapshot)>) -> Result<Vec<(SnapshotId, Snapshot)>> {
    let ids: Vec<Id> = chosen.iter().map(|(id, _)| id.0).collect();
    let there: HashSet<Id> = vault.stored_among(FileType::Snapshot, &ids)?.into_iter().collect();
    let there = chosen.into_iter().filter(|(id, _)| there.contains(&id.0)).collect();
    Ok(there)
}

/// Snapshots that are named by their ids, readable or not: one that is damaged restores nothing, and is in the way of a
/// prune.
fn named(vault: &Vault, selection: &SnapshotSelection) -> Result<Vec<SnapshotId>> {
    let mut found = Vec::new();
    for wanted in &selection.ids {
        let id = match vault.find_snapshot(wanted, selection) {
            Ok((id, _)) => id,
            Err(error) if error.is_damage() => vault.find_snapshot_file(wanted)?,
            Err(error) => return Err(error),
        };
        if !found.contains(&id) {
            found.push(id);
        }
    }
    Ok(found)
}

/// Takes snapshots down that are about to be removed, durably: the way back stands before anything goes. There is none
/// for what can't be read.
pub fn record_forgotten(vault: &Vault, leaving: &[SnapshotId], now: Timestamp) -> Result<()> {
    let record = |id: &SnapshotId| match vault.read_snapshot(id) {
        Ok(_) => Record::of(vault, id, now).map(Some),
        Err(Error::SnapshotNotFound { .. }) => Ok(None),
        Err(error) if error.is_damage() => Ok(None),
        Err(error) => Err(error),
    };
    let records: Vec<Record> = parallel_map(FETCHES_AT_ONCE, leaving, record)
        .into_iter()
        .filter(|record| !matches!(record, Err(Error::Store(levee_store::Error::NotFound { .. }))))
        .filter_map(Result::transpose)
        .collect::<Result<_>>()?;
    forgotten::write(vault, &records)?;
    Ok(())
}

fn apply(options: &ForgetOptions, chosen: Vec<(SnapshotId, Snapshot)>, now: Timestamp) -> Vec<ForgetGroup> {
    let mut groups: BTreeMap<GroupKey, Vec<(SnapshotId, Snapshot)>> = BTreeMap::new();
    for (id, snapshot) in chosen {
        groups.entry(GroupKey::of(&snapshot, options.group_by)).or_default().push((id, snapshot));
    }
    let mut result = Vec::with_capacity(groups.len());
    for (key, mut snapshots) in groups {
        snapshots.reverse();
        let dated: Vec<_> = snapshots.iter().map(|(_, snapshot)| Dated::of(snapshot)).collect();
        let verdicts = options.policy.apply(&dated, now);
        let mut group = ForgetGroup {
            host: key.host,
            paths: key.paths,
            tags: key.tags,
            keep: Vec::new(),
            remove: Vec::new(),
            reasons: Vec::new(),
        };
        for ((id, snapshot), verdict) in snapshots.into_iter().zip(verdicts) {
            match verdict {
                Some(reason) => {
                    group.reasons.push((id, reason));
                    group.keep.push((id, snapshot));
                }
                None => group.remove.push((id, snapshot)),
            }
        }
        result.push(group);
    }
    result
}
