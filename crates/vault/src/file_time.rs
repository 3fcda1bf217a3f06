use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A moment as file systems keep it: seconds since 1970, and nanoseconds.
///
/// Written as Go's `time.RFC3339Nano` in UTC. The format holds the years 0 to 9999; what lies outside
/// is moved to the nearest year when it is written, as restic does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileTime {
    pub seconds: i64,
    /// Below 1,000,000,000, counted forwards also before 1970.
    pub nanoseconds: u32,
}

const DAY_SECONDS: i64 = 86_400;

impl FileTime {
    pub fn new(seconds: i64, nanoseconds: u32) -> Self {
        Self { seconds, nanoseconds: nanoseconds.min(999_999_999) }
    }

    pub(crate) fn one_nanosecond_earlier(self) -> Self {
        match self.nanoseconds.checked_sub(1) {
            Some(nanoseconds) => Self { nanoseconds, ..self },
            None => Self { seconds: self.seconds.saturating_sub(1), nanoseconds: 999_999_999 },
        }
    }

    /// The moment as a timestamp; the nearest one when it lies outside of what that can hold.
    pub fn to_timestamp(self) -> Timestamp {
        let nearest = if self.seconds < 0 { Timestamp::MIN } else { Timestamp::MAX };
        Timestamp::new(self.seconds, self.nanoseconds as i32).unwrap_or(nearest)
    }
}

impl From<Timestamp> for FileTime {
    fn from(timestamp: Timestamp) -> Self {
        let nanoseconds = timestamp.as_nanosecond();
        Self {
            seconds: nanoseconds.div_euclid(1_000_000_000) as i64,
            nanoseconds: nanoseconds.rem_euclid(1_000_000_000) as u32,
        }
    }
}

/// Days since 1970 of a date in the proleptic Gregorian calendar.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    // The year is counted from March, so that a leap day is its last.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Year, month and day of a number of days since 1970.
fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The longest text of a time: `2006-01-02T15:04:05.123456789Z`.
const TEXT_BYTES_MAX: usize = 30;

/// Puts the last digits of a number where they go.
fn put_digits(text: &mut [u8], mut value: u64) {
    for digit in text.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

impl FileTime {
    /// Writes the time as text: three times for each file of a snapshot, hence without the formatter.
    pub(crate) fn write_to(self, out: &mut Vec<u8>) {
        let mut text = *b"0000-00-00T00:00:00.000000000Z";
        const _: () = assert!(TEXT_BYTES_MAX == b"0000-00-00T00:00:00.000000000Z".len());
        let (year, month, day) = date_of(self.seconds.div_euclid(DAY_SECONDS));
        let second = self.seconds.rem_euclid(DAY_SECONDS);
        let fields = [
            (0..4, year.clamp(0, 9999)),
            (5..7, month),
            (8..10, day),
            (11..13, second / 3600),
            (14..16, second / 60 % 60),
            (17..19, second % 60),
        ];
        for (place, value) in fields {
            put_digits(&mut text[place], value.unsigned_abs());
        }
        put_digits(&mut text[20..29], u64::from(self.nanoseconds));
        // Without the zeros at the end, and without a point before nothing.
        let end = text[..29].iter().rposition(|byte| *byte != b'0').map_or(19, |last| last + 1);
        let end = if self.nanoseconds == 0 { 19 } else { end };
        out.extend_from_slice(&text[..end]);
        out.push(b'Z');
    }
}

impl fmt::Display for FileTime {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::with_capacity(TEXT_BYTES_MAX);
        self.write_to(&mut text);
        formatter.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

/// A text that is not a time as RFC 3339 writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not a time as RFC 3339 writes it")]
pub struct InvalidTime;

impl FromStr for FileTime {
    type Err = InvalidTime;

    fn from_str(text: &str) -> Result<Self, InvalidTime> {
        parse(text.as_bytes()).ok_or(InvalidTime)
    }
}

fn parse(text: &[u8]) -> Option<FileTime> {
    let (head, mut rest) = text.split_at_checked(19)?;
    let number = |from: usize, length: usize| -> Option<i64> {
        head[from..from + length]
            .iter()
            .try_fold(0, |value, &b| b.is_ascii_digit().then(|| value * 10 + i64::from(b - b'0')))
    };
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if separators.iter().any(|&(position, byte)| head[position] != byte) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
    let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut nanoseconds = 0;
    if let Some(fraction) = rest.strip_prefix(b".") {
        let digits = fraction.iter().take_while(|b| b.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        for index in 0..9 {
            nanoseconds = nanoseconds * 10 + fraction[..digits].get(index).map_or(0, |b| u32::from(b - b'0'));
        }
        rest = &fraction[digits..];
    }
    let offset_seconds = match rest {
        b"Z" => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] if [h1, h2, m1, m2].iter().all(|b| b.is_ascii_digit()) => {
            let digit = |b: &u8| i64::from(b - b'0');
            let seconds = (digit(h1) * 10 + digit(h2)) * 3600 + (digit(m1) * 10 + digit(m2)) * 60;
            if *sign == b'-' { -seconds } else { seconds }
        }
        _ => return None,
    };
    let seconds = days_of(year, month, day) * DAY_SECONDS + hour * 3600 + minute * 60 + second - offset_seconds;
    Some(FileTime { seconds, nanoseconds })
}

impl Serialize for FileTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FileTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(crate::id::FromText(std::marker::PhantomData))
    }
}

/// A moment with the distance from UTC that it is written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LocalTime {
    pub time: FileTime,
    pub offset: Offset,
}

impl LocalTime {
    /// The distance from UTC on this machine at a moment. RFC 3339 has no seconds in it.
    pub fn offset_here(time: Timestamp) -> Offset {
        let offset = TimeZone::system().to_offset(time);
        if offset.seconds() % 60 == 0 { offset } else { Offset::UTC }
    }
}

impl Serialize for LocalTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let distance_s = i64::from(self.offset.seconds());
        if distance_s == 0 {
            return self.time.serialize(serializer);
        }
        let shown = FileTime::new(self.time.seconds.saturating_add(distance_s), self.time.nanoseconds).to_string();
        let sign = if distance_s < 0 { '-' } else { '+' };
        let minutes = distance_s.abs() / 60;
        let local = shown.trim_end_matches('Z');
        serializer.collect_str(&format_args!("{local}{sign}{:02}:{:02}", minutes / 60, minutes % 60))
    }
}

impl<'de> Deserialize<'de> for LocalTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        let time = text.parse().map_err(D::Error::custom)?;
        Ok(Self { time, offset: offset_of(&text) })
    }
}

/// The distance from UTC at the end of a time.
fn offset_of(time: &str) -> Offset {
    let parse = || -> Option<Offset> {
        let tail = time.get(time.len().checked_sub(6)?..)?;
        let sign = match tail.as_bytes()[0] {
            b'+' => 1,
            b'-' => -1,
            _ => return None,
        };
        let (hours, minutes) = tail[1..].split_once(':')?;
        let seconds = hours.parse::<i32>().ok()? * 3600 + minutes.parse::<i32>().ok()? * 60;
        Offset::from_seconds(sign * seconds).ok()
    };
    parse().unwrap_or(Offset::UTC)
}

/// For `#[serde(with)]` on a `Timestamp` that is stored in this form.
pub(crate) mod as_timestamp {
    use super::*;

    pub fn serialize<S: Serializer>(timestamp: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        FileTime::from(*timestamp).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        FileTime::deserialize(deserializer).map(FileTime::to_timestamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_back_as_written() {
        let check = |seconds: i64, nanoseconds: u32, text: &str| {
            let time = FileTime::new(seconds, nanoseconds);
            assert_eq!(time.to_string(), text);
            assert_eq!(text.parse::<FileTime>(), Ok(time));
        };
        check(0, 0, "1970-01-01T00:00:00Z");
        check(-1, 999_999_999, "1969-12-31T23:59:59.999999999Z");
        check(951_782_400, 120_000_000, "2000-02-29T00:00:00.12Z");
        check(10_413_792_000, 0, "2300-01-01T00:00:00Z");
        check(-315_619_200, 1, "1960-01-01T00:00:00.000000001Z");
        check(-62_167_219_200, 0, "0000-01-01T00:00:00Z");
        check(253_402_300_799, 0, "9999-12-31T23:59:59Z");
        for days in (-700_000..2_900_000).step_by(97) {
            let (year, month, day) = date_of(days);
            assert_eq!(days_of(year, month, day), days);
        }
    }

    #[test]
    fn offsets_are_taken_off_and_nonsense_is_refused() {
        let parse = |text: &str| text.parse::<FileTime>();
        assert_eq!(parse("2026-11-20T13:00:00+02:00"), parse("2026-11-20T11:00:00Z"));
        assert_eq!(parse("2026-11-20T05:30:00.5-05:30"), parse("2026-11-20T11:00:00.5Z"));
        for bad in ["", "2026-11-20", "2026-11-20T11:00:00", "2026-11-20T11:00:00.Z", "2026-13-20T11:00:00Z"] {
            assert_eq!(parse(bad), Err(InvalidTime), "{bad}");
        }
    }

    #[test]
    fn offsets_are_taken_from_the_text() {
        let seconds = |text| offset_of(text).seconds();
        assert_eq!(seconds("2026-02-28T23:00:00.5+05:30"), 19_800);
        assert_eq!(seconds("2026-02-28T23:00:00-08:00"), -28_800);
        assert_eq!(seconds("2026-02-28T23:00:00Z"), 0);
        assert_eq!(seconds("ü"), 0);
    }

    #[test]
    fn years_outside_of_the_format_are_moved_into_it() {
        assert!(FileTime::new(i64::MAX / 2, 0).to_string().starts_with("9999-"));
        assert!(FileTime::new(-99_999_999_999, 0).to_string().starts_with("0000-"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "[0-9TZ:.+ü-]{0,40}") {
            let _ = text.parse::<FileTime>();
        }
    }
}
