//! Reading again what is stored: what is due, for a while, and no faster than it may be.
//!
//! What is read, and what its damage means, those know who keep it: packs here, segments of log, packs in a further vault.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use levee_database::StopSignal;
use levee_model::control::Failure;
use levee_model::protection::{Period, Size, Upkeep};
use levee_vault::Id;
use levee_vault::reread::{Pace, PackAge, Reread};

use super::super::app::failure;
use super::record::Record;

/// What reading something again has shown.
pub enum Found {
    Sound,
    Damaged {
        problem: String,
    },
    /// It is there no more; the next listing knows.
    Gone,
}

impl From<Reread> for Found {
    fn from(read: Reread) -> Self {
        match read {
            Reread::Sound { .. } => Found::Sound,
            Reread::Damaged { problems } => Found::Damaged { problem: problems.into_iter().next().unwrap_or_default() },
            Reread::Gone => Found::Gone,
        }
    }
}

/// What is read again.
pub trait Stored {
    /// What is there, and when each was last read.
    fn ages(&self) -> Vec<PackAge>;

    /// Reads one from where it is stored, and not from memory.
    ///
    /// # Errors
    /// When it could not be read, which says nothing about it.
    fn read(&mut self, id: &Id) -> Result<Found, Failure>;

    /// What was found when it was read.
    fn note(&mut self, id: &Id, at: Timestamp, problem: Option<String>);
}

/// How soon everything is to be read, and how fast it may be.
pub struct Allowance {
    pub within: Period,
    pub bytes_per_second: Size,
    /// How long is read before something else has its turn.
    pub turn_max: Duration,
}

impl Allowance {
    /// For what this site keeps.
    pub fn of(upkeep: &Upkeep, turn_max: Duration) -> Self {
        Self { within: upkeep.verify_within(), bytes_per_second: upkeep.verify_bytes_per_second(), turn_max }
    }

    fn pace(&self) -> Pace {
        Pace { within: SignedDuration::try_from(self.within.duration()).unwrap_or(SignedDuration::MAX) }
    }

    /// Reads for a while what is due.
    pub fn read_due(&self, stored: &mut impl Stored, record: &mut Record, stop: &StopSignal) -> Result<(), Failure> {
        let begun = Instant::now();
        let ages = stored.ages();
        let due: Vec<(Id, u64)> =
            self.pace().due(&ages, Timestamp::now()).into_iter().map(|age| (age.id, age.bytes)).collect();
        drop(ages);
        for (id, bytes) in due {
            if begun.elapsed() >= self.turn_max || stop.is_stopped() {
                break;
            }
            let read_begun = Instant::now();
            let found = match stored.read(&id) {
                Ok(found) => found,
                Err(_) if stop.is_stopped() => break,
                Err(failure) => return Err(failure),
            };
            let now = Timestamp::now();
            match found {
                Found::Sound => {
                    record.note(id, now)?;
                    stored.note(&id, now, None);
                }
                Found::Damaged { problem } => stored.note(&id, now, Some(problem)),
                Found::Gone => {}
            }
            let wanted = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second.bytes() as f64);
            if stop.wait(wanted.saturating_sub(read_begun.elapsed())) {
                break;
            }
        }
        Ok(())
    }

    /// An error when not everything is read within the time that is asked for, or can't be. The name is a plural, as in
    /// "of 12 stored packs".
    pub fn in_time(&self, name: &str, ages: &[PackAge]) -> Result<(), Failure> {
        let (pace, within, limit) = (self.pace(), self.within, self.bytes_per_second);
        let total: u64 = ages.iter().map(|age| age.bytes).sum();
        if pace.bytes_per_second(total) > limit.bytes() as f64 {
            return Err(failure(format!(
                "{total} bytes of {name} are stored, and with {limit} a second they can't all be read again within {within}: \
                 raise upkeep.verify_bytes_per_second or verify_within"
            )));
        }
        match pace.overdue(ages, Timestamp::now()).count() {
            0 => Ok(()),
            overdue => Err(failure(format!(
                "{overdue} of {} stored {name} have not been read again within {within}; it goes on",
                ages.len()
            ))),
        }
    }
}

/// Notes in what is known of one what reading it has shown.
pub fn note(age: &mut PackAge, at: Timestamp, problem: Option<&str>) {
    match problem {
        None => (age.verified_at, age.damaged_at) = (Some(at), None),
        Some(_) => age.damaged_at = Some(at),
    }
}
