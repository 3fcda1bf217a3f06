//! Hours in which nothing is begun.

use std::fmt;
use std::str::FromStr;

use jiff::civil::Time;
use jiff::{Timestamp, ToSpan, Zoned};
use serde::{Deserialize, Serialize};

/// A day of the week, written `mon` to `sun`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Weekday {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl Weekday {
    const ALL: [(Weekday, &str); 7] = [
        (Weekday::Mon, "mon"),
        (Weekday::Tue, "tue"),
        (Weekday::Wed, "wed"),
        (Weekday::Thu, "thu"),
        (Weekday::Fri, "fri"),
        (Weekday::Sat, "sat"),
        (Weekday::Sun, "sun"),
    ];

    /// Monday is 0.
    fn days_since_monday(self) -> u8 {
        self as u8
    }

    /// Sunday is 0, as cron counts.
    pub fn days_since_sunday(self) -> u8 {
        (self as u8 + 1) % 7
    }

    fn parse(text: &str) -> Option<Weekday> {
        Self::ALL.iter().find(|(_, name)| *name == text).map(|(day, _)| *day)
    }
}

/// Text that is no window.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no window of time: write 08:00-18:00, 22:00-06:00 or mon-fri 08:00-18:00")]
pub struct InvalidWindow(String);

/// From a time of the day to another, on some or all weekdays. One that ends before it begins goes on into the next
/// day; its weekday is that of its beginning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Window {
    /// Bit 0 is Monday.
    days: u8,
    start: Time,
    /// Midnight is the end of the day.
    end: Time,
    text: String,
}

impl Window {
    /// When this window ends, if the moment is in it.
    pub(super) fn end_if_inside(&self, moment: &Zoned) -> Option<Timestamp> {
        let now = moment.timestamp();
        self.spans_near(moment).into_iter().find(|(start, end)| *start <= now && now < *end).map(|(_, end)| end)
    }

    /// From when to when it is closed on the days around this moment: all that begins or ends less than a day from it.
    pub(super) fn spans_near(&self, moment: &Zoned) -> Vec<(Timestamp, Timestamp)> {
        let today = moment.date();
        let span = |days_from_today: i64| {
            let day = today.checked_add(days_from_today.days()).ok()?;
            let weekday = day.weekday().to_monday_zero_offset();
            if self.days & 1 << weekday == 0 {
                return None;
            }
            let last_day = if self.end <= self.start { day.checked_add(1.day()).ok()? } else { day };
            let zone = moment.time_zone();
            let start = zone.to_zoned(day.to_datetime(self.start)).ok()?;
            let end = zone.to_zoned(last_day.to_datetime(self.end)).ok()?;
            Some((start.timestamp(), end.timestamp()))
        };
        // One that ended yesterday may have begun the day before.
        (-2..=1).filter_map(span).collect()
    }
}

impl FromStr for Window {
    type Err = InvalidWindow;

    fn from_str(text: &str) -> Result<Self, InvalidWindow> {
        let invalid = || InvalidWindow(text.chars().take(40).collect());
        let (days, times) = match text.trim().rsplit_once(' ') {
            Some((days, times)) => (parse_days(days.trim()).ok_or_else(invalid)?, times),
            None => (0b111_1111, text.trim()),
        };
        let (start, end) = times.split_once('-').ok_or_else(invalid)?;
        let start = parse_time(start).ok_or_else(invalid)?;
        let end = if end == "24:00" { Time::midnight() } else { parse_time(end).ok_or_else(invalid)? };
        Ok(Window { days, start, end, text: text.to_string() })
    }
}

fn parse_days(text: &str) -> Option<u8> {
    text.split(',').try_fold(0, |days, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) =
            (Weekday::parse(first.trim())?.days_since_monday(), Weekday::parse(last.trim())?.days_since_monday());
        // fri-mon goes over the end of the week.
        let length = (last + 7 - first) % 7;
        Some((0..=length).fold(days, |days, step| days | 1 << ((first + step) % 7)))
    })
}

fn parse_time(text: &str) -> Option<Time> {
    let (hour, minute) = text.split_once(':')?;
    let two_digits = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !two_digits(hour) || !two_digits(minute) {
        return None;
    }
    Time::new(hour.parse().ok()?, minute.parse().ok()?, 0, 0).ok()
}

impl TryFrom<String> for Window {
    type Error = InvalidWindow;
    fn try_from(text: String) -> Result<Self, InvalidWindow> {
        text.parse()
    }
}

impl From<Window> for String {
    fn from(window: Window) -> String {
        window.text
    }
}

impl fmt::Display for Window {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.text)
    }
}
