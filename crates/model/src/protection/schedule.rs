//! When copies are taken: chosen hours and weekdays as snapshot policies of clouds have them, or a cron pattern, in a
//! time zone, with jitter and hours in which nothing is begun.
//!
//! Nothing here reads a clock: `now` is an argument, and the answer is the same for the same arguments.

mod window;

use std::str::FromStr;
use std::time::Duration;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Period;
pub use window::{Weekday, Window};

/// A jitter beyond this would make a daily schedule meaningless.
const JITTER_MAX: Duration = Duration::from_secs(12 * 3600);
/// How many windows may follow upon each other before a schedule counts as closed for good.
const WINDOWS_MAX: usize = 64;

/// A schedule, as it stands in the protection file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Schedule {
    written: Written,
    cron: Pattern,
    time_zone: TimeZone,
}

/// The keys of a schedule in the protection file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    /// Hours of the day, 0 to 23.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    hours: Vec<u8>,
    /// Minutes past each of the hours.
    #[serde(default, skip_serializing_if = "is_zero")]
    minute: u8,
    /// Every day when none is given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    weekdays: Vec<Weekday>,
    /// Five fields, instead of hours and weekdays: minute, hour, day of the month, month, day of the week.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cron: Option<String>,
    /// As in the IANA database: `Europe/Berlin`.
    #[serde(default = "utc")]
    time_zone: String,
    /// Each run begins up to this much later than planned, another time for each asset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jitter: Option<Period>,
    /// When nothing is begun: `08:00-18:00`, or `mon-fri 08:00-18:00`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    blackout: Vec<Window>,
}

fn utc() -> String {
    "UTC".into()
}

// serde hands over a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(minute: &u8) -> bool {
    *minute == 0
}

/// A cron pattern that compares by its text.
#[derive(Clone, Debug)]
struct Pattern(Cron);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

/// Why a schedule was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSchedule {
    #[error("a schedule needs either `hours` (with `weekdays` and `minute`) or `cron`, and not both")]
    EitherHoursOrCron,
    #[error("{0} is not an hour of the day: write 0 to 23")]
    Hour(u8),
    #[error("{0} is not a minute of an hour: write 0 to 59")]
    Minute(u8),
    #[error("{pattern:?} is not a cron pattern of five fields: {reason}")]
    Cron { pattern: String, reason: String },
    #[error("there is no time zone {0:?}: write a name of the IANA database, as in Europe/Berlin")]
    TimeZone(String),
    #[error("a jitter of {0} is too long: at most 12h")]
    Jitter(Period),
    #[error("the schedule has no time at which a copy could begin")]
    Never,
}

/// When the next copy begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Now; `planned` is in the past when the run was missed and is caught up.
    Now {
        planned: Timestamp,
    },
    Later(Timestamp),
}

impl TryFrom<Written> for Schedule {
    type Error = InvalidSchedule;

    fn try_from(written: Written) -> Result<Self, InvalidSchedule> {
        let pattern = written.pattern()?;
        let time_zone = TimeZone::get(&written.time_zone)
            .map_err(|_| InvalidSchedule::TimeZone(written.time_zone.chars().take(60).collect()))?;
        if let Some(jitter) = written.jitter.filter(|jitter| jitter.duration() > JITTER_MAX) {
            return Err(InvalidSchedule::Jitter(jitter));
        }
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(&pattern).map_err(|error| InvalidSchedule::Cron {
            pattern: pattern.chars().take(60).collect(),
            reason: error.to_string(),
        })?;
        let schedule = Schedule { written, cron: Pattern(cron), time_zone };
        // A 30th of February, or a day that is closed as a whole, is found out here and not in the night.
        match schedule.next_after(Timestamp::UNIX_EPOCH) {
            Some(first) if schedule.opens_at(first).is_some() => Ok(schedule),
            _ => Err(InvalidSchedule::Never),
        }
    }
}

impl From<Schedule> for Written {
    fn from(schedule: Schedule) -> Written {
        schedule.written
    }
}

impl Written {
    fn pattern(&self) -> Result<String, InvalidSchedule> {
        if let Some(cron) = &self.cron {
            let alone = self.hours.is_empty() && self.weekdays.is_empty() && self.minute == 0;
            return if alone { Ok(cron.clone()) } else { Err(InvalidSchedule::EitherHoursOrCron) };
        }
        if self.hours.is_empty() {
            return Err(InvalidSchedule::EitherHoursOrCron);
        }
        if let Some(hour) = self.hours.iter().find(|hour| **hour > 23) {
            return Err(InvalidSchedule::Hour(*hour));
        }
        if self.minute > 59 {
            return Err(InvalidSchedule::Minute(self.minute));
        }
        let hours: Vec<String> = self.hours.iter().map(u8::to_string).collect();
        let days: Vec<String> = self.weekdays.iter().map(|day| day.days_since_sunday().to_string()).collect();
        let days = if days.is_empty() { "*".into() } else { days.join(",") };
        Ok(format!("{} {} * * {days}", self.minute, hours.join(",")))
    }
}

impl FromStr for Schedule {
    type Err = InvalidSchedule;

    /// A cron pattern in UTC.
    fn from_str(pattern: &str) -> Result<Self, InvalidSchedule> {
        Written {
            hours: Vec::new(),
            minute: 0,
            weekdays: Vec::new(),
            cron: Some(pattern.into()),
            time_zone: utc(),
            jitter: None,
            blackout: Vec::new(),
        }
        .try_into()
    }
}

impl Schedule {
    /// Whether a copy is due, when the last one was begun at `last_begun`. `salt` is the asset's name: it spreads the
    /// jitter. A run that was missed is due at once, and only once, however many were missed. The very first is due
    /// at once too: what has no copy yet does not wait for the night.
    ///
    /// A last one in the future, from a clock that was ahead, counts as none. It says nothing about the moments that were
    /// missed, and taken for one that began `now` it would move on with the clock, so that nothing ever came due.
    pub fn due(&self, last_begun: Option<Timestamp>, now: Timestamp, salt: &str) -> Due {
        let last_begun = last_begun.filter(|last| *last <= now);
        let planned = match last_begun {
            None => Some(now),
            Some(last) => self.next_after(last),
        };
        let Some(planned) = planned else {
            // Checked when it was read: there is always a next one, but for the end of time.
            return Due::Later(Timestamp::MAX);
        };
        let delayed = match last_begun {
            None => planned,
            Some(_) => planned.checked_add(self.jitter(planned, salt)).unwrap_or(Timestamp::MAX),
        };
        // Of runs that are in the past the latest is the one that is caught up; they may all lie in a closed window.
        let at = self.opens_at(delayed.max(now)).unwrap_or(Timestamp::MAX);
        if at <= now { Due::Now { planned } } else { Due::Later(at) }
    }

    /// The first planned moment after this one.
    pub fn next_after(&self, moment: Timestamp) -> Option<Timestamp> {
        let start = self.local(moment);
        Some(self.cron.0.find_next_occurrence(&start, false).ok()?.timestamp())
    }

    fn local(&self, moment: Timestamp) -> Zoned {
        moment.to_zoned(self.time_zone.clone())
    }

    /// The same for the same asset and moment, so that a restart changes nothing.
    fn jitter(&self, planned: Timestamp, salt: &str) -> SignedDuration {
        let Some(jitter) = self.written.jitter.filter(|jitter| jitter.milliseconds() > 0) else {
            return SignedDuration::ZERO;
        };
        let hash = Sha256::new().chain_update(salt).chain_update(planned.as_second().to_be_bytes()).finalize();
        let number = hash.iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        SignedDuration::from_millis((number % jitter.milliseconds()) as i64)
    }

    /// This moment, or the end of the closed windows in which it lies.
    fn opens_at(&self, moment: Timestamp) -> Option<Timestamp> {
        let mut at = moment;
        for _ in 0..WINDOWS_MAX {
            let local = self.local(at);
            match self.written.blackout.iter().filter_map(|window| window.end_if_inside(&local)).max() {
                None => return Some(at),
                Some(end) => at = end,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
