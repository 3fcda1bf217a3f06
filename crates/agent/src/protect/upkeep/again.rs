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

/// So many in a row that can't be read end a turn: it may be the disk, and not these.
const UNREADABLE_IN_A_ROW_MAX: usize = 8;

/// What reading something again has shown.
pub enum Found {
    Sound,
    Damaged {
        problem: String,
    },
    /// It could not be read, which says nothing about it, and nothing about the others: who may read is set wrong, for one.
    Unreadable {
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
    /// When nothing can be read there just now.
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

    /// Reads for a while what is due. What can't be read is noted and passed over: it must not keep the others waiting.
    pub fn read_due(&self, stored: &mut impl Stored, record: &mut Record, stop: &StopSignal) -> Result<(), Failure> {
        let begun = Instant::now();
        let ages = stored.ages();
        let due: Vec<(Id, u64)> = self
            .pace()
            .due(&ages, Timestamp::now())
            .into_iter()
            .filter(|age| !record.is_put_off(&age.id, begun))
            .map(|age| (age.id, age.bytes))
            .collect();
        drop(ages);
        let mut unreadable_in_a_row = 0;
        for (id, bytes) in due {
            let is_over = begun.elapsed() >= self.turn_max || unreadable_in_a_row == UNREADABLE_IN_A_ROW_MAX;
            if is_over || stop.is_stopped() {
                break;
            }
            let read_begun = Instant::now();
            let found = match stored.read(&id) {
                Ok(Found::Unreadable { .. }) | Err(_) if stop.is_stopped() => break,
                found => found?,
            };
            let now = Timestamp::now();
            match found {
                Found::Unreadable { problem } => {
                    record.note_unreadable(id, problem, read_begun);
                    unreadable_in_a_row += 1;
                    continue;
                }
                Found::Sound => {
                    record.note(id, now)?;
                    stored.note(&id, now, None);
                }
                Found::Damaged { problem } => stored.note(&id, now, Some(problem)),
                Found::Gone => {}
            }
            unreadable_in_a_row = 0;
            record.note_readable(&id);
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const COUNT: u8 = 40;

    /// Packs of which some can't be read.
    struct Packs {
        ages: Vec<PackAge>,
        unreadable: BTreeSet<Id>,
        asked: Vec<Id>,
    }

    impl Stored for Packs {
        fn ages(&self) -> Vec<PackAge> {
            self.ages.clone()
        }

        fn read(&mut self, id: &Id) -> Result<Found, Failure> {
            self.asked.push(*id);
            Ok(match self.unreadable.contains(id) {
                true => Found::Unreadable { problem: "permission denied".into() },
                false => Found::Sound,
            })
        }

        fn note(&mut self, id: &Id, at: Timestamp, problem: Option<String>) {
            let age = self.ages.iter_mut().find(|age| age.id == *id).unwrap();
            note(age, at, problem.as_deref());
        }
    }

    #[test]
    fn what_cannot_be_read_keeps_nothing_else_from_being_read() {
        let folder = tempfile::tempdir().unwrap();
        let mut record = Record::open(folder.path().join("rereads")).unwrap();
        let id = |number: u8| Id::from_bytes([number; 32]);
        let age = |number: u8| PackAge {
            id: id(number),
            bytes: 0,
            stored_at: Timestamp::now(),
            verified_at: None,
            damaged_at: None,
        };
        // They come first: of packs that were never read, the ids say the order.
        let unreadable: BTreeSet<Id> = (0..20).map(id).collect();
        let mut packs = Packs { ages: (0..COUNT).map(age).collect(), unreadable, asked: Vec::new() };
        let allowance = Allowance {
            within: Period::from_seconds(3600),
            bytes_per_second: Size::from_bytes(1 << 30),
            turn_max: Duration::from_secs(60),
        };
        let turn = |packs: &mut Packs, record: &mut Record| {
            packs.asked.clear();
            allowance.read_due(packs, record, &StopSignal::new().unwrap()).unwrap();
            packs.asked.len()
        };
        // Where all of some fail it may be the disk.
        assert_eq!(turn(&mut packs, &mut record), UNREADABLE_IN_A_ROW_MAX);
        assert_eq!(turn(&mut packs, &mut record), UNREADABLE_IN_A_ROW_MAX);
        // Four more, and all that can be read.
        assert_eq!(turn(&mut packs, &mut record), 4 + 20);
        assert_eq!(turn(&mut packs, &mut record), 0);
        assert!(packs.ages.iter().all(|age| age.verified_at.is_some() != packs.unreadable.contains(&age.id)));
        let said = record.all_readable("packs").unwrap_err().message;
        assert!(said.contains("20 of the stored packs") && said.contains("permission denied"), "{said}");
        // They are gone.
        record.retain(&(20..COUNT).map(id).collect()).unwrap();
        record.all_readable("packs").unwrap();
    }
}
