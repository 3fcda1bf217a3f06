//! What goes from a further vault: what this site's retention has removed, and copies of a log that a newer one replaces.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use jiff::Timestamp;
use levee_model::AssetName;
use levee_model::control::{Assignment, Failure};
use levee_store::FileType;
use levee_vault::SnapshotId;
use levee_vault::forget::record_forgotten;

use super::super::upkeep::prune;
use super::state::FurtherState;
use super::{Further, There, log};

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
        let report = levee_vault::prune(&there.vault, &prune::options(upkeep), now, &());
        let report = report.map_err(|error| self.place.failure("clear old data away in", &error))?;
        tracing::info!(app = %self.app.name, vault = %self.name, report.packs_deleted, report.deleted_bytes,
            report.packs_waiting, "cleared old data away in a further vault");
        state.clearing.pruned(&report, now);
        prune::unread(&report)
    }

    /// Removes the copies of a log that a newer one replaces.
    fn remove_logs(&self, there: &There, asset: &AssetName, state: &mut FurtherState) -> Result<(), Failure> {
        let logs = self.logs(there, asset)?;
        let Some((newest, earlier)) = logs.split_last() else { return Ok(()) };
        let (trimmed, journal) = (self.app.removals.trimmed(asset)?, self.app.copies.journal(asset)?);
        let segment_bytes = |system, timeline| Some(journal.segment_size(system, timeline).ok()??.bytes());
        let cannot = |error: levee_vault::Error| self.place.failure("replace the log in", &error);
        for older in earlier {
            if log::is_superseded(&there.vault, older, newest, &trimmed, segment_bytes).map_err(cannot)? {
                there.vault.remove_snapshot(older).map_err(cannot)?;
                state.clearing.unpruned = true;
            }
        }
        Ok(())
    }

    /// Removes there what retention has removed here, and nothing else. The last copy of an asset stays until there is
    /// another one.
    fn remove(&self, there: &mut There, state: &mut FurtherState, now: Timestamp) -> Result<(), Failure> {
        let here = self.app.copies.store();
        let (mut leaving, mut done) = (Vec::new(), Vec::new());
        let mut staying: BTreeSet<SnapshotId> = there.snapshots.values().copied().collect();
        for (id, original) in self.app.removals.of(self.name)? {
            // Its removal may have failed, or be just under way.
            let is_gone = matches!(
                here.size_bytes(FileType::Snapshot, &id.to_string()),
                Err(levee_store::Error::NotFound { .. })
            );
            match there.snapshots.get(&original) {
                _ if !is_gone => {}
                None => done.push(id),
                Some(copy) => {
                    staying.remove(copy);
                    leaving.push((id, original, *copy));
                }
            }
        }
        if leaving.is_empty() && done.is_empty() {
            return Ok(());
        }
        let cannot = |error: &levee_vault::Error| self.place.failure("remove old copies from", error);
        let mut tags_left = BTreeSet::new();
        // A copy of a log may have been replaced since they were listed.
        let read = |id: &SnapshotId| match there.vault.read_snapshot(id) {
            Ok(snapshot) => Ok(Some(snapshot)),
            Err(levee_vault::Error::SnapshotNotFound { .. }) => Ok(None),
            Err(error) => Err(cannot(&error)),
        };
        for id in &staying {
            tags_left.extend(read(id)?.into_iter().flat_map(|snapshot| snapshot.tags));
        }
        let mut known = Vec::new();
        for (id, original, copy) in leaving {
            match read(&copy)? {
                Some(snapshot) => known.push((snapshot.time, id, original, copy, snapshot.tags)),
                None => done.push(id),
            }
        }
        // The newest first: it is the one that stays.
        known.sort_by_key(|(time, ..)| Reverse(*time));
        let mut may_leave = Vec::new();
        for (_, id, original, copy, tags) in known {
            if tags.iter().filter(|tag| is_of_asset(tag)).all(|tag| tags_left.contains(tag)) {
                may_leave.push((id, original, copy));
            } else {
                tags_left.extend(tags);
            }
        }
        if !may_leave.is_empty() {
            let copies: Vec<SnapshotId> = may_leave.iter().map(|(_, _, copy)| *copy).collect();
            record_forgotten(&there.vault, &copies, now).map_err(|error| cannot(&error))?;
            state.clearing.unpruned = true;
            for (id, original, copy) in may_leave {
                match there.vault.remove_snapshot(&copy) {
                    Ok(()) | Err(levee_vault::Error::Store(levee_store::Error::NotFound { .. })) => {}
                    Err(error) => return Err(cannot(&error)),
                }
                there.snapshots.remove(&original);
                done.push(id);
            }
        }
        self.app.removals.done(self.name, &done)
    }
}

/// Whether a tag says which asset a copy is of.
fn is_of_asset(tag: &str) -> bool {
    tag.starts_with("levee-files:") || tag.starts_with("asset:")
}
