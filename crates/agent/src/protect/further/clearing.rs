//! What goes from a further vault: what this site's retention has removed, and copies of a log that a newer one replaces.
//!
//! What is left can always be restored from: the last sound copy of a folder stays, and the last base backup that has its
//! log there.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use jiff::Timestamp;
use levee_database::postgres::base::{BaseBackup, asset_of_tag};
use levee_model::control::{Assignment, Failure};
use levee_model::{AssetId, AssetName};
use levee_store::FileType;
use levee_vault::forget::record_forgotten;
use levee_vault::{Snapshot, SnapshotId};

use super::super::app::{in_full, transient};
use super::super::tags;
use super::super::upkeep::prune;
use super::held_log::{HeldLog, NeededLog};
use super::state::FurtherState;
use super::{Further, There};

impl Further<'_> {
    /// Removes what is to go, and clears its data away.
    pub fn clear(
        &mut self,
        there: &mut There,
        assignment: &Assignment,
        state: &mut FurtherState,
        now: Timestamp,
    ) -> Result<(), Failure> {
        self.remove(there, state, now)?;
        while let Some(asset) = self.new_logs.first().cloned() {
            self.remove_logs(there, &asset, state)?;
            self.new_logs.remove(&asset);
        }
        let (upkeep, salt) = (&assignment.spec.upkeep, format!("{} {}", self.app.name, self.name));
        if !state.clearing.is_due(upkeep, now, &salt) {
            return Ok(());
        }
        let report = levee_vault::prune(&there.vault, &prune::options(upkeep, &state.damaged), now, &());
        let report = report.map_err(|error| self.place.failure("clear old data away in", &error))?;
        tracing::info!(app = %self.app.name, vault = %self.name, report.packs_deleted, report.deleted_bytes,
            report.packs_waiting, "cleared old data away in a further vault");
        state.clearing.pruned(&report, now);
        prune::unread(&report)
    }

    /// Removes the copies of a log that a newer one replaces.
    fn remove_logs(&mut self, there: &There, asset: &AssetName, state: &mut FurtherState) -> Result<(), Failure> {
        let logs = self.logs(there, asset)?;
        let Some((newest, earlier)) = logs.split_last() else { return Ok(()) };
        if earlier.is_empty() || state.hit.contains(newest) {
            return Ok(());
        }
        let (trimmed, journal) = (self.app.removals.trimmed(asset)?, self.app.copies.journal(asset)?);
        let segment_bytes = |system, timeline| Some(journal.segment_size(system, timeline).ok()??.bytes());
        let asset_id = AssetId::new(self.app.name.clone(), asset.clone());
        let needed: Vec<NeededLog> =
            self.bases_there(there, &asset_id)?.iter().map(|base| NeededLog::from(&base.facts)).collect();
        self.read_held(there, &logs)?;
        for older in earlier {
            let (Some(newer), Some(held)) = (self.held.get(newest), self.held.get(older)) else { continue };
            if newer.replaces(held, &trimmed, &needed, segment_bytes) {
                self.remove_copy(there, older)?;
                self.held.remove(older);
                state.clearing.unpruned = true;
            }
        }
        Ok(())
    }

    /// Which log these copies hold. It never changes, so each is read once.
    fn read_held(&mut self, there: &There, logs: &[SnapshotId]) -> Result<(), Failure> {
        for copy in logs {
            if !self.held.contains_key(copy) {
                let held = HeldLog::read(&there.vault, copy);
                let held = held.map_err(|error| self.place.failure("say which log is in", &error))?;
                self.held.insert(*copy, held);
            }
        }
        Ok(())
    }

    /// The base backups of a database there. One whose facts can't be read can't be restored either.
    fn bases_there(&mut self, there: &There, asset: &AssetId) -> Result<Vec<BaseBackup>, Failure> {
        let known = self.known_bases.entry(asset.clone()).or_default();
        known.refresh(&there.vault, asset).map_err(|error| {
            transient(format!("cannot list the base backups of {asset} in vault {}: {}", self.name, in_full(&error)))
        })?;
        Ok(known.bases())
    }

    /// The base backups there that have their log in one of its copies.
    fn restorable_bases(&mut self, there: &There, asset: &AssetId) -> Result<BTreeSet<SnapshotId>, Failure> {
        let logs = self.logs(there, &asset.asset)?;
        self.read_held(there, &logs)?;
        let bases = self.bases_there(there, asset)?;
        let has_log = |base: &&BaseBackup| {
            let needed = NeededLog::from(&base.facts);
            logs.iter().filter_map(|copy| self.held.get(copy)).any(|held| held.covers(&needed))
        };
        Ok(bases.iter().filter(has_log).map(|base| base.snapshot).collect())
    }

    fn remove_copy(&self, there: &There, copy: &SnapshotId) -> Result<(), Failure> {
        match there.vault.remove_snapshot(copy) {
            Ok(()) | Err(levee_vault::Error::Store(levee_store::Error::NotFound { .. })) => Ok(()),
            Err(error) => Err(self.place.failure("remove old copies from", &error)),
        }
    }

    /// Removes there what retention has removed here, and nothing else. The last copy of an asset that can be restored
    /// stays until there is another one.
    fn remove(&mut self, there: &mut There, state: &mut FurtherState, now: Timestamp) -> Result<(), Failure> {
        let here = self.app.copies.store();
        let (mut leaving, mut done) = (Vec::new(), Vec::new());
        let mut staying: BTreeSet<SnapshotId> = there.snapshots.values().copied().collect();
        for id in self.app.removals.of(self.name)? {
            // Its removal may have failed, or be just under way.
            let is_gone = matches!(
                here.size_bytes(FileType::Snapshot, &id.to_string()),
                Err(levee_store::Error::NotFound { .. })
            );
            match there.snapshots.get(&id) {
                _ if !is_gone => {}
                None => done.push(id),
                Some(copy) => {
                    staying.remove(copy);
                    leaving.push((id, *copy));
                }
            }
        }
        if leaving.is_empty() && done.is_empty() {
            return Ok(());
        }
        // A copy may have gone since they were listed.
        let read = |id: &SnapshotId| match there.vault.read_snapshot(id) {
            Ok(snapshot) => Ok(Some(snapshot)),
            Err(levee_vault::Error::SnapshotNotFound { .. }) => Ok(None),
            Err(error) => Err(self.place.failure("remove old copies from", &error)),
        };
        let mut known = Vec::new();
        for (id, copy) in leaving {
            match read(&copy)? {
                Some(snapshot) => known.push((id, copy, snapshot)),
                None => done.push(id),
            }
        }
        let mut left = Vec::new();
        for copy in staying {
            left.extend(read(&copy)?.map(|snapshot| (copy, snapshot)));
        }
        let mut restorable = BTreeSet::new();
        for asset in known.iter().flat_map(|(_, _, snapshot)| databases_of(snapshot)).collect::<BTreeSet<_>>() {
            restorable.extend(self.restorable_bases(there, &asset)?);
        }
        let is_sound = |copy: &SnapshotId, snapshot: &Snapshot| {
            !state.hit.contains(copy) && (restorable.contains(copy) || databases_of(snapshot).next().is_none())
        };
        let sound_left = left.iter().filter(|(copy, snapshot)| is_sound(copy, snapshot));
        let mut assets_left: BTreeSet<String> =
            sound_left.flat_map(|(_, snapshot)| asset_tags(snapshot)).cloned().collect();
        // The newest that can be restored comes first: it is the one that stays.
        known.sort_by_key(|(_, copy, snapshot)| Reverse((is_sound(copy, snapshot), snapshot.time)));
        let mut may_leave = Vec::new();
        for (id, copy, snapshot) in known {
            if asset_tags(&snapshot).all(|tag| assets_left.contains(tag)) {
                may_leave.push((id, copy));
            } else {
                assets_left.extend(asset_tags(&snapshot).cloned());
            }
        }
        if !may_leave.is_empty() {
            let copies: Vec<SnapshotId> = may_leave.iter().map(|(_, copy)| *copy).collect();
            let noted = record_forgotten(&there.vault, &copies, now);
            noted.map_err(|error| self.place.failure("note what is about to be removed from", &error))?;
            state.clearing.unpruned = true;
            for (id, copy) in may_leave {
                self.remove_copy(there, &copy)?;
                there.snapshots.remove(&id);
                done.push(id);
            }
        }
        self.app.removals.done(self.name, &done)
    }
}

/// The tags that say which assets a copy is of.
fn asset_tags(snapshot: &Snapshot) -> impl Iterator<Item = &String> {
    snapshot.tags.iter().filter(|tag| tag.starts_with(tags::FILES) || asset_of_tag(tag).is_some())
}

/// The databases that a copy is a base backup of.
fn databases_of(snapshot: &Snapshot) -> impl Iterator<Item = AssetId> {
    snapshot.tags.iter().filter_map(|tag| asset_of_tag(tag))
}
