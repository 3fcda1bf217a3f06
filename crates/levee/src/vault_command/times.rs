//! Times as people write them on the command line.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// The forms in which restic takes a time.
const FORMATS: [&str; 2] = ["%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M"];

/// A moment in this machine's time zone, or with its own.
pub fn parse_time(text: &str) -> Result<Timestamp, String> {
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Ok(timestamp);
    }
    let local = |time: DateTime| time.to_zoned(TimeZone::system()).map(|time| time.timestamp());
    let with_time = FORMATS.iter().find_map(|format| DateTime::strptime(format, text).ok());
    let date = || text.parse::<jiff::civil::Date>().ok().map(|date| date.at(0, 0, 0, 0));
    with_time
        .or_else(date)
        .and_then(|time| local(time).ok())
        .ok_or_else(|| "write it as in '2006-01-02 15:04:05' or 2006-01-02T15:04:05Z".into())
}
