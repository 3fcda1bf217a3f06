//! Rates by time of day, as `rclone --bwlimit` writes them: `512k`, `08:00,512k 19:00,10M 23:00,off`,
//! `Mon-08:00,512k Fri-18:00,off`. A bare number counts KiB per second, as restic's `--limit-upload` does.

use std::fmt;
use std::str::FromStr;

use jiff::Zoned;
use serde::{Deserialize, Serialize};

const MINUTES_PER_DAY: u16 = 24 * 60;
const MINUTES_PER_WEEK: u16 = 7 * MINUTES_PER_DAY;
/// More would be a mistake: a week has as many hours.
const SLOTS_MAX: usize = 168;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// How many bytes a second may move at which time of the week, in local time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Timetable {
    /// As the operator wrote it.
    text: String,
    /// Sorted by the minute of the week at which a rate begins; never empty.
    slots: Vec<Slot>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Slot {
    minute_of_week: u16,
    /// `None` is unlimited.
    bytes_per_second: Option<u64>,
}

impl Timetable {
    /// `None` when there is no limit at this time.
    pub fn bytes_per_second_at(&self, time: &Zoned) -> Option<u64> {
        let day = u16::from(time.weekday().to_monday_zero_offset().unsigned_abs());
        let minute = u16::from(time.hour().unsigned_abs()) * 60 + u16::from(time.minute().unsigned_abs());
        self.at_minute(day * MINUTES_PER_DAY + minute)
    }

    /// The lowest rate of the week. `None` when there never is a limit.
    pub fn slowest_bytes_per_second(&self) -> Option<u64> {
        self.slots.iter().filter_map(|slot| slot.bytes_per_second).min()
    }

    fn at_minute(&self, minute_of_week: u16) -> Option<u64> {
        let begun = self.slots.iter().rev().find(|slot| slot.minute_of_week <= minute_of_week);
        // Before the first one of the week, last week's last one still holds.
        begun.or(self.slots.last()).and_then(|slot| slot.bytes_per_second)
    }
}

/// Why a timetable cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{part:?} is no bandwidth limit: write KiB per second as in 512, a rate as in 10M, or a timetable as in \"08:00,512k 19:00,10M 23:00,off\""
)]
pub struct TimetableError {
    part: String,
}

impl FromStr for Timetable {
    type Err = TimetableError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |part: &str| TimetableError { part: part.chars().take(40).collect() };
        let mut slots = Vec::new();
        if !text.contains(',') {
            let bytes_per_second = rate(text.trim()).ok_or_else(|| wrong(text))?;
            return Ok(Self { text: text.into(), slots: vec![Slot { minute_of_week: 0, bytes_per_second }] });
        }
        for part in text.split_whitespace() {
            let (time, speed) = part.split_once(',').ok_or_else(|| wrong(part))?;
            let bytes_per_second = rate(speed).ok_or_else(|| wrong(part))?;
            let minutes = minutes_of_week(time).ok_or_else(|| wrong(part))?;
            slots.extend(minutes.into_iter().map(|minute_of_week| Slot { minute_of_week, bytes_per_second }));
        }
        slots.sort();
        let is_twice = slots.windows(2).any(|pair| pair[0].minute_of_week == pair[1].minute_of_week);
        if slots.is_empty() || slots.len() > SLOTS_MAX || is_twice {
            return Err(wrong(text));
        }
        Ok(Self { text: text.into(), slots })
    }
}

impl TryFrom<String> for Timetable {
    type Error = TimetableError;

    fn try_from(text: String) -> Result<Self, TimetableError> {
        text.parse()
    }
}

impl From<Timetable> for String {
    fn from(timetable: Timetable) -> String {
        timetable.text
    }
}

impl fmt::Display for Timetable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.text)
    }
}

/// `Some(None)` is "off": no limit.
fn rate(text: &str) -> Option<Option<u64>> {
    if text.eq_ignore_ascii_case("off") {
        return Some(None);
    }
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "b" => 1,
        "" | "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        _ => return None,
    };
    // A limit of nothing would stand still for ever.
    let rate = digits.parse::<u64>().ok().filter(|number| *number > 0)?.checked_mul(unit)?;
    Some(Some(rate))
}

/// `08:00` begins every day, `Fri-18:00` on one.
fn minutes_of_week(text: &str) -> Option<Vec<u16>> {
    let (day, time) = match text.split_once('-') {
        Some((day, time)) => (Some(DAYS.iter().position(|name| name.eq_ignore_ascii_case(day))?), time),
        None => (None, text),
    };
    let (hour, minute) = time.split_once(':')?;
    let number = |text: &str, below: u16| text.parse::<u16>().ok().filter(|number| *number < below);
    let minute_of_day = number(hour, 24)? * 60 + number(minute, 60)?;
    let first = day.map_or(0, |day| day as u16 * MINUTES_PER_DAY) + minute_of_day;
    Some(match day {
        Some(_) => vec![first],
        None => (first..MINUTES_PER_WEEK).step_by(usize::from(MINUTES_PER_DAY)).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_by_the_hour() {
        let check = |text: &str, minute_of_week: u16, expected: Option<u64>| {
            let timetable: Timetable = text.parse().unwrap();
            assert_eq!(timetable.at_minute(minute_of_week), expected, "{text} at {minute_of_week}");
        };
        check("512", 0, Some(512 << 10));
        check("10M", 5000, Some(10 << 20));
        check("700b", 5000, Some(700));
        check("off", 5000, None);
        let day = "08:00,512k 19:00,10M 23:00,off";
        check(day, 8 * 60, Some(512 << 10));
        check(day, 8 * 60 - 1, None);
        check(day, 3 * MINUTES_PER_DAY + 22 * 60, Some(10 << 20));
        let week = "Mon-08:00,1k Fri-18:00,off";
        check(week, 0, None);
        check(week, 8 * 60, Some(1 << 10));
        check(week, 4 * MINUTES_PER_DAY + 18 * 60, None);
        let thursday: Zoned = "2026-11-26T09:30:00[UTC]".parse().unwrap();
        let timetable: Timetable = "Thu-09:00,5k Thu-10:00,off".parse().unwrap();
        assert_eq!(timetable.bytes_per_second_at(&thursday), Some(5 << 10));
        let slowest = |text: &str| text.parse::<Timetable>().unwrap().slowest_bytes_per_second();
        assert_eq!((slowest(day), slowest("off")), (Some(512 << 10), None));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "0",
            "-5",
            "fast",
            "8:00",
            "25:00,5",
            "08:60,5",
            "Foo-08:00,5",
            "08:00,5 08:00,6",
            "08:00,",
            "5T",
            "99999999999999999999",
        ] {
            assert!(text.parse::<Timetable>().is_err(), "{text}");
        }
    }
}
