//! Clearing away the data of removed snapshots, so that their space comes back.
//!
//! A prune works beside backups, and stops them only for the moment of its swap. It is done by the repository's owner
//! alone: to the writer the repository is append-only.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use levee_database::StopSignal;
use levee_model::control::Failure;
use levee_model::protection::{Due, Upkeep};
use levee_store::{FileType, LocalStore, Store};
use levee_vault::{PruneOptions, PruneReport, SWAP_PATIENCE, Vault, prune as vault_prune};
use serde::{Deserialize, Serialize};

use super::super::app::{App, failure, in_full, transient};
use super::super::owner_store::OwnerStore;
use super::state::{DamagedPack, UpkeepState, pack_ids};

/// After a failure, and after a wait for a long backup that was in vain: twice as long each time, within these bounds.
/// What failed at once may work in a moment, as on a full disk that was given room.
const RETRY_AFTER_MIN: SignedDuration = SignedDuration::from_secs(10);
const RETRY_AFTER_MAX: SignedDuration = SignedDuration::from_mins(10);
/// A lock that was not refreshed for so long is nobody's, as restic has it.
const LOCK_STALE_AFTER: SignedDuration = SignedDuration::from_mins(30);
/// How much is rewritten at once: enough to keep up, and little enough to end within minutes.
const REPACK_BYTES_MAX: u64 = 8 << 30;
/// Without anything removed there may still be what broken-off backups have left.
const PRUNE_ANYWAY_AFTER: SignedDuration = SignedDuration::from_hours(30 * 24);

/// When a prune that failed is tried again.
pub struct Retry {
    at: Timestamp,
    /// The wait after the next failure.
    pause: SignedDuration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { at: Timestamp::MIN, pause: RETRY_AFTER_MIN }
    }
}

impl Retry {
    pub fn is_time(&self, now: Timestamp) -> bool {
        // A clock that was put back must not hold this up: it was ahead when this failed, and perhaps therefore.
        now >= self.at || self.at.duration_since(now) > RETRY_AFTER_MAX
    }

    pub fn note(&mut self, has_worked: bool, now: Timestamp) {
        if has_worked {
            *self = Self::default();
        } else {
            self.at = now.checked_add(self.pause).unwrap_or(Timestamp::MAX);
            self.pause = (self.pause * 2).min(RETRY_AFTER_MAX);
        }
    }
}

/// How far clearing away has come in one repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clearing {
    /// When data were last cleared away; when it was first thought of, before the first time.
    pub pruned_at: Option<Timestamp>,
    /// Snapshots have been removed since.
    pub unpruned: bool,
    /// Packs wait for their time of grace to end, the first until then.
    pub waiting_until: Option<Timestamp>,
}

impl Clearing {
    /// The first time comes after the first period. Whether this was when it began.
    pub fn begin(&mut self, now: Timestamp) -> bool {
        let begins = self.pruned_at.is_none();
        self.pruned_at.get_or_insert(now);
        begins
    }

    pub fn is_due(&self, upkeep: &Upkeep, now: Timestamp, salt: &str) -> bool {
        let Some(pruned_at) = self.pruned_at else { return false };
        let is_time = matches!(upkeep.prune_rhythm().due(Some(pruned_at), now, salt), Due::Now { .. });
        let has_work = self.unpruned
            || self.waiting_until.is_some_and(|until| until <= now)
            || now.duration_since(pruned_at) >= PRUNE_ANYWAY_AFTER;
        is_time && has_work
    }

    pub fn pruned(&mut self, report: &PruneReport, now: Timestamp) {
        *self = Self { pruned_at: Some(now), unpruned: false, waiting_until: report.waiting_until };
    }
}

/// How data are cleared away, in whichever repository. Of what stands in one of the `damaged` packs another copy stays.
pub fn options(upkeep: &Upkeep, damaged: &[DamagedPack]) -> PruneOptions {
    PruneOptions {
        damaged_packs: pack_ids(damaged),
        max_repack_bytes: Some(REPACK_BYTES_MAX),
        grace: SignedDuration::try_from(upkeep.delete_after().duration()).unwrap_or(SignedDuration::MAX),
        patience: SWAP_PATIENCE,
        ..PruneOptions::default()
    }
}

/// What could not be read on the way.
pub fn unread(report: &PruneReport) -> Result<(), Failure> {
    match report.problems.first.first() {
        None => Ok(()),
        Some(problem) => Err(failure(format!(
            "{} packs could not be read while old data were cleared away, first: {}: {}; `levee vault check` names all",
            report.problems.count,
            problem.path.display(),
            problem.message
        ))),
    }
}

pub fn prune(
    app: &Arc<App>,
    upkeep: &Upkeep,
    state: &mut UpkeepState,
    now: Timestamp,
    stop: &StopSignal,
) -> Result<(), Failure> {
    let store = LocalStore::new(app.folder.repository());
    remove_stale_locks(&store, now)?;
    // Durable before anything is moved.
    (state.moved_from, state.moved_until) = (Some(now), None);
    state.write(&app.folder)?;
    let shared = app.copies.vault()?;
    let cannot = |error| failure(format!("cannot clear old data away: {}", in_full(&error)));
    // Opened for itself: it ends at once when it is to, and its index is not kept in memory in between.
    let own_store = Arc::new(OwnerStore::new(app, stop));
    let vault = Vault::open_with_master_key(own_store, shared.master_key().clone()).map_err(cannot)?;
    let pruned = vault_prune(&vault, &options(upkeep, &state.damaged), now, &());
    state.moved_until = Some(Timestamp::now());
    state.write(&app.folder)?;
    let report = match pruned {
        Ok(report) => report,
        Err(error @ levee_vault::Error::Locked { .. }) => {
            // A base backup may take hours; this comes again.
            tracing::info!(app = %app.name, "no prune now: {}", in_full(&error));
            return Err(transient(format!("old data are not cleared away yet: {}", in_full(&error))));
        }
        Err(error) => return Err(cannot(error)),
    };
    // Whatever reads from the repository next must not look for packs that are gone.
    shared.refresh_index().map_err(cannot)?;
    tracing::info!(app = %app.name, report.figures.packs_removed, report.figures.packs_repacked,
        report.packs_deleted, report.deleted_bytes, report.packs_waiting, report.waiting_bytes, "cleared old data away");
    state.clearing.pruned(&report, now);
    state.write(&app.folder)?;
    unread(&report)
}

/// A writer that was killed has left its lock behind. Its age is told by when it was received: a lock names its own
/// time, and one from the future would keep all space for ever.
fn remove_stale_locks(store: &LocalStore, now: Timestamp) -> Result<(), Failure> {
    let cannot = |error: levee_store::Error| failure(format!("cannot remove a stale lock: {}", in_full(&error)));
    for lock in store.received(FileType::Lock).map_err(cannot)? {
        if now.duration_since(lock.received_at) > LOCK_STALE_AFTER {
            match store.remove(FileType::Lock, &lock.name) {
                Ok(()) => tracing::info!(lock = lock.name, "removed a stale lock"),
                Err(levee_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(cannot(error)),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_rests_longer_each_time_and_no_clock_makes_it_rest_for_good() {
        let now: Timestamp = "2026-11-26T12:00:00Z".parse().unwrap();
        let after = |seconds: i64| now + SignedDuration::from_secs(seconds);
        let mut retry = Retry::default();
        assert!(retry.is_time(now) && retry.is_time(Timestamp::MIN));
        retry.note(false, now);
        assert!(!retry.is_time(after(9)) && retry.is_time(after(10)));
        retry.note(false, after(10));
        assert!(!retry.is_time(after(29)) && retry.is_time(after(30)));
        // It failed by a clock that was a day ahead, as services with signatures refuse it.
        retry.note(false, after(24 * 3600));
        assert!(retry.is_time(after(40)));
        retry.note(true, after(40));
        assert!(retry.is_time(after(40)));
    }

    #[test]
    fn a_prune_comes_in_its_rhythm_and_only_when_there_is_work() {
        let now: Timestamp = "2026-11-26T12:00:00Z".parse().unwrap();
        let check = |pruned_hours_ago: i64, unpruned: bool, waiting_hours: Option<i64>, due: bool| {
            let clearing = Clearing {
                pruned_at: Some(now - SignedDuration::from_hours(pruned_hours_ago)),
                unpruned,
                waiting_until: waiting_hours.map(|hours| now + SignedDuration::from_hours(hours)),
            };
            let found = clearing.is_due(&Upkeep::default(), now, "shop");
            assert_eq!(found, due, "{pruned_hours_ago} {unpruned} {waiting_hours:?}");
        };
        check(23, true, None, false);
        check(25, true, None, true);
        check(25, false, None, false);
        check(25, false, Some(1), false);
        check(25, false, Some(-1), true);
        check(24 * 31, false, None, true);
        let mut begun = Clearing { unpruned: true, ..Clearing::default() };
        assert!(!begun.is_due(&Upkeep::default(), now, "shop"), "nothing says since when");
        assert!(begun.begin(now) && !begun.begin(now));
        assert!(begun.is_due(&Upkeep::default(), now + SignedDuration::from_hours(25), "shop"));
    }
}
