//! Copying what is missing in a further vault: the newest of each asset first, and the log of databases before what is older.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use levee_model::AssetName;
use levee_model::control::Failure;
use levee_store::FileType;
use levee_vault::{CopyOptions, SWAP_PATIENCE, SnapshotId, SnapshotSelection, Vault};

use super::super::app::{failure, in_full};
use super::super::hooks::NotMade;
use super::super::owner_store::OwnerStore;
use super::state::FurtherState;
use super::verifying::Verifying;
use super::{Further, OfAsset, There};

/// How many older snapshots are copied before newer ones and the log have their turn again.
const OLDER_AT_ONCE: usize = 10;
/// A snapshot that is damaged here is left alone for so long: somebody may mend it.
const DAMAGED_AGAIN_AFTER: Duration = Duration::from_secs(10 * 60);

/// Why a snapshot can't be copied: others may be sound.
pub(super) struct Damaged(String);

impl Further<'_> {
    /// Copies what is missing there: the newest of each asset first, then the log of databases, then what is older.
    /// Trouble with one asset holds no other up.
    pub(super) fn copy(
        &mut self,
        there: &mut There,
        assets: &[OfAsset],
        state: &mut FurtherState,
    ) -> Result<(), Failure> {
        let (mut older, mut outcome) = (Vec::<(AssetName, SnapshotId)>::new(), Ok(()));
        self.has_asked = false;
        for of in assets {
            match self.copy_asset(there, of, &mut older, state) {
                // What is wrong here is said, and tried again when it is the asset's turn next.
                Err(failure) if !failure.transient => {
                    self.copied_log_at.insert(of.asset.clone(), Instant::now());
                    self.note_besides(of.asset.as_str(), Err(failure));
                }
                copied => {
                    if !of.is_database && copied.is_ok() {
                        self.note_besides(of.asset.as_str(), Ok(()));
                    }
                    outcome = outcome.and(copied);
                }
            }
            if self.stop.is_stopped() {
                return outcome;
            }
        }
        older.retain(|(_, id)| !self.is_left_alone(id));
        outcome?;
        for (asset, id) in older.iter().take(OLDER_AT_ONCE) {
            self.copy_one(there, asset, id)?;
        }
        if !self.has_asked {
            // What it waited for is gone here, or is there already: others have their turn.
            self.leave_line();
            if self.hook_retry.is_time(Timestamp::now()) {
                // There is no copy any more that was not allowed.
                self.note_besides("before-copy", Ok(()));
            }
        }
        Ok(())
    }

    /// Copies an asset's newest snapshot and its log, and says which older ones are missing there.
    fn copy_asset(
        &mut self,
        there: &mut There,
        of: &OfAsset,
        older: &mut Vec<(AssetName, SnapshotId)>,
        state: &mut FurtherState,
    ) -> Result<(), Failure> {
        let mut missing = of.missing(there, &self.to_mend);
        let newest = missing.pop_if(|(id, _)| of.here.last().is_some_and(|(newest, _)| newest == id));
        older.extend(missing.into_iter().rev().map(|(id, _)| (of.asset.clone(), id)));
        if let Some((newest, _)) = newest
            && self.copy_one(there, &of.asset, &newest)?
        {
            // A base backup is worth nothing without its log.
            self.copied_log_at.remove(&of.asset);
        }
        match of.is_database {
            true => self.copy_log(there, of, state),
            false => self.tell_files(there, of, state),
        }
    }

    fn is_left_alone(&self, id: &SnapshotId) -> bool {
        let is_damaged = self.damaged.get(id).is_some_and(|(at, _)| at.elapsed() < DAMAGED_AGAIN_AFTER);
        is_damaged || self.not_mended.rests(id, Timestamp::now())
    }

    /// Copies one snapshot that this site has opened with its own keys, when it is its turn; says whether it has. One that
    /// is damaged, or could not be mended, is noted and left alone.
    fn copy_one(&mut self, there: &mut There, asset: &AssetName, id: &SnapshotId) -> Result<bool, Failure> {
        if self.is_left_alone(id) || !self.hook_retry.is_time(Timestamp::now()) {
            return Ok(false);
        }
        let Some(_turn) = self.turn_of(asset) else { return Ok(false) };
        if self.to_mend.contains(id) && self.is_mended(there, id) {
            self.to_mend.remove(id);
            return Ok(false);
        }
        let here = self.app.copies.vault()?;
        let copied = match self.app.copies.open_with_own_keys(&here, id) {
            Ok(()) => match self.copy_between_hooks(there, asset, id) {
                Ok(copied) => Ok(copied),
                Err(NotMade::Copy(failure)) => Err(failure),
                // The log goes on, and the snapshot is tried again when its time has come.
                Err(NotMade::Hook(failure)) => {
                    self.hook_retry.note(false, Timestamp::now());
                    self.note_besides("before-copy", Err(failure));
                    return Ok(false);
                }
            },
            Err(failure) if failure.transient => Err(failure),
            Err(failure) => Ok(Err(Damaged(failure.message))),
        };
        // One that is not whole for all that is found again when it is looked at what the damage hits. With trouble that may
        // pass it stays, so that the pause after each failed turn grows.
        let may_pass = copied.as_ref().is_err_and(|failure| failure.transient);
        let was_to_mend = !may_pass && self.to_mend.remove(id);
        let failed = match copied {
            Ok(Ok(to)) => {
                self.damaged.remove(id);
                there.snapshots.insert(*id, to);
                if was_to_mend && !self.is_mended(there, id) {
                    let reason = "its copy there is not whole for all that".to_string();
                    self.not_mended.note(id, reason, Timestamp::now());
                }
                return Ok(true);
            }
            Ok(Err(Damaged(reason))) => Ok(reason),
            Err(failure) => Err(failure),
        };
        // Retention may remove it at any time.
        let stands = self.app.copies.store().size_bytes(FileType::Snapshot, &id.to_string());
        if let Err(levee_store::Error::NotFound { .. }) = stands {
            return Ok(false);
        }
        if was_to_mend {
            let reason = failed.as_ref().map_or_else(|failure| failure.message.clone(), String::clone);
            self.not_mended.note(id, reason, Timestamp::now());
        }
        let reason = failed?;
        if !was_to_mend {
            let said = format!("snapshot {} is not copied to vault {}: {reason}", id.short(), self.name);
            self.damaged.insert(*id, (Instant::now(), said));
        }
        Ok(false)
    }

    /// Whether a copy there has all that it lacked, which may have come with another one. Then it counts again soon.
    fn is_mended(&mut self, there: &There, id: &SnapshotId) -> bool {
        let is_whole = there.snapshots.get(id).is_some_and(|copy| there.vault.open_snapshot(copy).is_ok());
        if is_whole {
            self.not_mended.forget(id);
            self.verifying.iter_mut().for_each(Verifying::look_soon);
        }
        is_whole
    }

    /// Copies a snapshot, or brings anew what its copy lacks.
    pub(super) fn copy_opened(&self, there: &There, id: &SnapshotId) -> Result<Result<SnapshotId, Damaged>, Failure> {
        let master_key = self.app.copies.vault()?.master_key().clone();
        // Opened for itself: it ends at once when it is to, and its index is not kept in memory in between.
        let source = Vault::open_with_master_key(Arc::new(OwnerStore::new(self.app, self.stop)), master_key)
            .map_err(|error| failure(format!("cannot open this site's repository: {}", in_full(&error))))?;
        let options = CopyOptions {
            selection: SnapshotSelection { ids: vec![id.to_string()], ..SnapshotSelection::default() },
            patience: SWAP_PATIENCE,
            // Who writes here must not have one snapshot stand for another: what it stands for goes with it.
            original_is_source: true,
            complete: true,
            // A prune here must not wait for a vault that is slow. What it takes away stays for its time of grace.
            no_lock_source: true,
            ..CopyOptions::default()
        };
        let report = match levee_vault::copy(&source, &there.vault, &options, &()) {
            Ok(report) => report,
            Err(error) if error.is_damage() => return Ok(Err(Damaged(in_full(&error)))),
            Err(error) => return Err(self.place.failure("copy to", &error)),
        };
        if let Some(to) = report.copied.first().and_then(|copied| copied.to) {
            tracing::debug!(app = %self.app.name, vault = %self.name, snapshot = %id.short(), report.bytes,
                report.packed_bytes, "copied to a further vault");
            return Ok(Ok(to));
        }
        // It was there already, since somebody else has copied it.
        let listed = there.vault.list_snapshots().map_err(|error| self.place.failure("list what is in", &error))?;
        let found = listed.or_warn().into_iter().find(|(_, snapshot)| snapshot.original == Some(id.0));
        found.map(|(id, _)| Ok(id)).ok_or_else(|| failure(format!("snapshot {} was not copied", id.short())))
    }
}
