//! Renewing object lock on what a further vault's snapshots refer to. What is new is locked as it is written.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use levee_model::control::Failure;
use levee_store::{Error, FileType, ObjectStore, RetryStore};
use levee_vault::{ToRetain, Vault};

use super::super::app::failure;
use super::place::Place;
use super::state::{FurtherState, Locked};
use super::{Further, There};

/// How long locks are renewed before copies have their turn again.
const TURN_MAX: Duration = Duration::from_secs(5);
/// It is renewed after this share of its time, so that no less than the rest of it is left at any moment.
const RENEWED_AFTER_PERCENT: i32 = 12;

/// A renewal that is under way.
pub struct Renewal {
    store: RetryStore<ObjectStore>,
    days: u16,
    begun: Timestamp,
    files: std::vec::IntoIter<(FileType, String)>,
}

impl Renewal {
    fn begin(place: &Place<'_>, vault: &Vault, days: u16) -> Result<Self, Failure> {
        let begun = Timestamp::now();
        let ToRetain { files, packs_left } =
            vault.files_to_retain().map_err(|error| place.failure("say what is in use in", &error))?;
        tracing::debug!(app = %place.app.name, vault = %place.name, files = files.len(), packs_left, days,
            "renewing object lock in a further vault");
        Ok(Self { store: place.object_store()?, days, begun, files: files.into_iter() })
    }
}

impl Further<'_> {
    /// Renews for a while, when it is time.
    pub fn renew_locks(&mut self, there: &There, state: &mut FurtherState, now: Timestamp) -> Result<(), Failure> {
        let Some(days) = self.spec.locked_for_days() else {
            self.renewal = None;
            return Ok(());
        };
        let is_due = state.locked.as_ref().is_none_or(|locked| is_due(locked, days, now));
        if self.renewal.is_none() && !is_due {
            return Ok(());
        }
        let mut renewal = match self.renewal.take() {
            Some(renewal) => renewal,
            None => Renewal::begin(&self.place, &there.vault, days)?,
        };
        let begun = Instant::now();
        while begun.elapsed() < TURN_MAX && !self.stop.is_stopped() {
            let Some((file_type, name)) = renewal.files.next() else {
                state.locked = Some(Locked { at: renewal.begun, days: renewal.days });
                return Ok(());
            };
            match renewal.store.attempt(|store| store.retain(file_type, &name, renewal.days)) {
                // Removed since the listing.
                Ok(_) | Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(self.place.failure("renew object lock in", &error.into())),
            }
        }
        self.renewal = Some(renewal);
        Ok(())
    }

    /// An error when what is in use was not locked anew for so long that some of it may be removable.
    pub fn locks_in_time(&self, state: &FurtherState, now: Timestamp) -> Result<(), Failure> {
        let (Some(days), Some(locked)) = (self.spec.locked_for_days(), &state.locked) else { return Ok(()) };
        let left = locked.runs_out().duration_since(now);
        match left < SignedDuration::from_hours(24 * i64::from(days)) / 2 {
            false => Ok(()),
            true => Err(failure(format!(
                "what is in vault {} is locked until {} only: object lock could not be renewed since {}; it goes on",
                self.name,
                locked.runs_out().strftime("%Y-%m-%d %H:%MZ"),
                locked.at.strftime("%Y-%m-%d %H:%MZ")
            ))),
        }
    }
}

fn is_due(locked: &Locked, days: u16, now: Timestamp) -> bool {
    let after = SignedDuration::from_hours(24 * i64::from(locked.days)) * RENEWED_AFTER_PERCENT / 100;
    let due_at = locked.at.checked_add(after).unwrap_or(Timestamp::MAX);
    // Longer than it was asked for before; or noted by a clock that was put back since.
    days > locked.days || now >= due_at || now < locked.at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_renewed_long_before_it_runs_out_and_when_it_is_to_be_longer() {
        let at = |hours: i64| Timestamp::from_second(1_800_000_000 + hours * 3600).unwrap();
        let locked = Locked { at: at(0), days: 30 };
        let check = |days: u16, hours: i64, expected: bool| assert_eq!(is_due(&locked, days, at(hours)), expected);
        check(30, 1, false);
        check(30, 86, false);
        check(30, 87, true);
        check(31, 1, true);
        check(7, 1, false);
        check(30, -1, true);
        assert_eq!(locked.runs_out(), at(30 * 24));
    }
}
