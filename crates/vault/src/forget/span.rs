//! Spans of time as restic writes them: `1y5m7d2h`.

use std::fmt;
use std::str::FromStr;

use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp, ToSpan};

/// Years, months, days and hours. An empty one is no span at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub years: u32,
    pub months: u32,
    pub days: u32,
    pub hours: u32,
}

/// A text that is not a span.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no span of time: write years, months, days and hours as in 1y5m7d2h")]
pub struct InvalidSpan {
    text: String,
}

impl Span {
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    /// This long before a moment, counted back on the calendar of that place: months first, and a day that a
    /// month doesn't have runs over into the next, as Go has it.
    pub(super) fn before(&self, time: Timestamp, offset: Offset) -> Timestamp {
        // A place whose clocks change keeps its own time of day; for another only its distance is known.
        let here = TimeZone::system();
        let zone = if here.to_offset(time) == offset { here } else { TimeZone::fixed(offset) };
        let zoned = time.to_zoned(zone.clone());
        let month_start = zoned.datetime().with().day(1).build();
        let earlier = month_start
            .and_then(|start| start.checked_sub(i64::from(self.years).years().months(i64::from(self.months))))
            .and_then(|start| start.checked_add((i64::from(zoned.day()) - 1 - i64::from(self.days)).days()))
            .and_then(|moment| zone.to_timestamp(moment))
            .and_then(|moment| moment.checked_sub(SignedDuration::from_hours(i64::from(self.hours))));
        earlier.unwrap_or(Timestamp::MIN)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (value, unit) in [(self.years, 'y'), (self.months, 'm'), (self.days, 'd'), (self.hours, 'h')] {
            if value > 0 {
                write!(formatter, "{value}{unit}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Span {
    type Err = InvalidSpan;

    fn from_str(text: &str) -> Result<Self, InvalidSpan> {
        let invalid = || InvalidSpan { text: text.into() };
        let mut span = Self::default();
        let mut rest = text;
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(invalid)?;
            let value: u32 = rest[..end].parse().map_err(|_| invalid())?;
            let unit = match rest.as_bytes()[end] {
                b'y' => &mut span.years,
                b'm' => &mut span.months,
                b'd' => &mut span.days,
                b'h' => &mut span.hours,
                _ => return Err(invalid()),
            };
            *unit = value;
            rest = &rest[end + 1..];
        }
        Ok(span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_written_as_restic_does() {
        let check = |text: &str, expected: Option<[u32; 4]>| {
            let span: Result<Span, _> = text.parse();
            let parts = span.as_ref().ok().map(|span| [span.years, span.months, span.days, span.hours]);
            assert_eq!(parts, expected, "{text}");
            if let Ok(span) = span {
                assert_eq!(span.to_string().parse::<Span>().unwrap(), span);
            }
        };
        check("1y5m7d2h", Some([1, 5, 7, 2]));
        check("2h1y", Some([1, 0, 0, 2]));
        check("", Some([0, 0, 0, 0]));
        for bad in ["1", "d", "1w", "-1d", "1d ", "99999999999d", "1ü"] {
            check(bad, None);
        }
    }

    #[test]
    fn counting_back_runs_over_short_months() {
        let check = |from: &str, span: &str, expected: &str| {
            let time: Timestamp = from.parse().unwrap();
            let span: Span = span.parse().unwrap();
            let expected: Timestamp = expected.parse().unwrap();
            assert_eq!(span.before(time, Offset::constant(2)), expected, "{from} {span}");
        };
        check("2026-05-20T10:00:00Z", "1y2m3d4h", "2025-03-17T06:00:00Z");
        check("2026-03-31T10:00:00Z", "1m", "2026-03-03T10:00:00Z");
        check("2026-03-31T10:00:00Z", "1m3d", "2026-02-28T10:00:00Z");
        // At two hours east it is already the first of March.
        check("2026-02-28T23:00:00Z", "1m", "2026-01-31T23:00:00Z");
    }
}
