//! When copies are taken: chosen hours and weekdays as snapshot policies of clouds have them, or a cron pattern, in a
//! time zone, with jitter and hours in which nothing is begun.
//!
//! Nothing here reads a clock: `now` is an argument, and the answer is the same for the same arguments.

mod window;

use std::str::FromStr;
use std::time::Duration;

use croner::parser::{CronParser, Seconds, Year};
use croner::{Cron, CronDateTime};
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, Zoned};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Period;
pub use window::{Weekday, Window};

/// A jitter beyond this would make a daily schedule meaningless.
const JITTER_MAX: Duration = Duration::from_secs(12 * 3600);
/// How many windows may follow upon each other before a schedule counts as closed for good.
const WINDOWS_MAX: usize = 64;
/// With all of these a pattern goes by real time and not by the clock on the wall.
const HOURS_OF_A_DAY: usize = 24;
/// How many moments of a wall's clock are passed over that a clock put back shows a second time: at most one a minute, in
/// a day, which is more than any clock was ever put back.
const REPEATED_MAX: usize = 24 * 60;

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

impl Pattern {
    /// Whether it is meant in every hour: then an hour that the clock leaves out is none, and one that it shows twice is two.
    fn goes_by_real_time(&self) -> bool {
        self.0.pattern.hours.values().len() == HOURS_OF_A_DAY
    }

    fn next_after<T: CronDateTime>(&self, start: &T) -> Option<T> {
        self.0.find_next_occurrence(start, false).ok()
    }
}

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
    /// What a blackout holds up begins behind it, each asset at another time within the jitter.
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
        let at = match last_begun {
            None => self.opens_at(now),
            Some(_) => {
                let is_open = self.opens_at(planned) == Some(planned);
                self.begins_at(if is_open { self.spread(planned, salt) } else { planned }, now, salt)
            }
        };
        let at = at.unwrap_or(Timestamp::MAX);
        if at <= now { Due::Now { planned } } else { Due::Later(at) }
    }

    /// The first planned moment after this one. One that a change of the clocks leaves out is when the clock is put
    /// forward, and one that comes twice is the earlier of the two; what is meant in every hour goes by real time.
    pub fn next_after(&self, moment: Timestamp) -> Option<Timestamp> {
        let start = self.local(moment);
        if self.cron.goes_by_real_time() {
            return Some(self.cron.next_after(&start)?.timestamp());
        }
        // croner does so only for patterns of a single time of the day. So it is asked about the clock on the wall alone,
        // and when that shows what was found is up to the time zone.
        let mut on_the_wall = start.datetime();
        for _ in 0..REPEATED_MAX {
            on_the_wall = self.cron.next_after(&on_the_wall)?;
            let planned = self.shown_at(on_the_wall)?;
            if planned > moment {
                return Some(planned);
            }
        }
        None
    }

    /// When a clock on the wall shows this first, or passes over it.
    fn shown_at(&self, wall: DateTime) -> Option<Timestamp> {
        let moment = self.time_zone.to_ambiguous_timestamp(wall);
        let is_left_out = matches!(moment.offset(), AmbiguousOffset::Gap { .. });
        // Where it is left out, that lies before the change.
        let earlier = moment.earlier().ok()?;
        if is_left_out { Some(self.time_zone.following(earlier).next()?.timestamp()) } else { Some(earlier) }
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

    /// When a run begins, as of `now`, that is due from `due_from` on.
    fn begins_at(&self, due_from: Timestamp, now: Timestamp, salt: &str) -> Option<Timestamp> {
        // Of runs that are in the past the latest is the one that is caught up; they may all lie in a closed window.
        let open = self.opens_at(due_from.max(now))?;
        let Some(opened) = self.opened_at(open).filter(|opened| *opened > due_from) else { return Some(open) };
        // All that this window has held up would begin in the same second.
        Some(self.spread(opened, salt).max(open))
    }

    /// Up to the jitter later than this moment, which is open. Hours that are over before that must not pass unused.
    fn spread(&self, open: Timestamp, salt: &str) -> Timestamp {
        let later = open.checked_add(self.jitter(open, salt)).unwrap_or(Timestamp::MAX);
        if self.closes_within(open, later) { open } else { later }
    }

    /// When the last closed window before this open moment ended.
    fn opened_at(&self, moment: Timestamp) -> Option<Timestamp> {
        self.windows_near(moment).into_iter().map(|(_, end)| end).filter(|end| *end <= moment).max()
    }

    /// Whether a closed window begins between these moments, which lie at most a jitter apart.
    fn closes_within(&self, from: Timestamp, until: Timestamp) -> bool {
        self.windows_near(from).into_iter().any(|(start, _)| from <= start && start <= until)
    }

    fn windows_near(&self, moment: Timestamp) -> Vec<(Timestamp, Timestamp)> {
        let local = self.local(moment);
        self.written.blackout.iter().flat_map(|window| window.spans_near(&local)).collect()
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
