//! PostgreSQL's own coordinates: log sequence numbers, timelines, system identifiers, WAL file names.
//!
//! Source: PostgreSQL's documentation, "WAL Internals", and `xlog_internal.h`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A log sequence number: a byte position in the write-ahead log of one lineage, printed `16/B374D848`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The first position of the segment that holds this one.
    pub fn segment_start(self, segment_size: SegmentSize) -> Lsn {
        Lsn(self.0 - self.0 % segment_size.bytes())
    }

    /// The number of bytes from `earlier` to here; 0 when `earlier` is later.
    pub fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&format!("{:X}/{:X}", self.0 >> 32, self.0 as u32))
    }
}

/// Text that is not an LSN of the form `16/B374D848`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a log sequence number: write two hexadecimal numbers with a slash, as in 16/B374D848")]
pub struct InvalidLsn(String);

impl FromStr for Lsn {
    type Err = InvalidLsn;
    fn from_str(text: &str) -> Result<Self, InvalidLsn> {
        let invalid = || InvalidLsn(text.chars().take(40).collect());
        let (high, low) = text.split_once('/').ok_or_else(invalid)?;
        let part = |digits: &str| {
            // from_str_radix would accept a sign.
            if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(invalid());
            }
            u64::from_str_radix(digits, 16).map_err(|_| invalid())
        };
        Ok(Lsn(part(high)? << 32 | part(low)?))
    }
}

impl TryFrom<String> for Lsn {
    type Error = InvalidLsn;
    fn try_from(text: String) -> Result<Self, InvalidLsn> {
        text.parse()
    }
}

impl From<Lsn> for String {
    fn from(lsn: Lsn) -> String {
        lsn.to_string()
    }
}

/// A timeline: a branch of history, numbered from 1; a promotion starts a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct TimelineId(pub u32);

impl fmt::Display for TimelineId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The identity that `initdb` gave a cluster; positions of different identities are never compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String)]
pub struct SystemIdentifier(pub u64);

impl fmt::Display for SystemIdentifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl FromStr for SystemIdentifier {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(SystemIdentifier)
    }
}

// As text, because JSON readers lose the low bits of large numbers.
impl TryFrom<String> for SystemIdentifier {
    type Error = std::num::ParseIntError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SystemIdentifier> for String {
    fn from(id: SystemIdentifier) -> String {
        id.to_string()
    }
}

/// The size of a WAL segment: a power of two from 1 MiB to 1 GiB, 16 MiB unless `initdb` was told otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct SegmentSize(u64);

/// A WAL segment size that PostgreSQL can't have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a WAL segment of {0} bytes is impossible: the size is a power of two from 1 MiB to 1 GiB")]
pub struct InvalidSegmentSize(u64);

impl SegmentSize {
    pub const DEFAULT: SegmentSize = SegmentSize(16 << 20);

    pub fn new(bytes: u64) -> Result<Self, InvalidSegmentSize> {
        if bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes) {
            Ok(Self(bytes))
        } else {
            Err(InvalidSegmentSize(bytes))
        }
    }

    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl TryFrom<u64> for SegmentSize {
    type Error = InvalidSegmentSize;
    fn try_from(bytes: u64) -> Result<Self, InvalidSegmentSize> {
        Self::new(bytes)
    }
}

impl From<SegmentSize> for u64 {
    fn from(size: SegmentSize) -> u64 {
        size.0
    }
}

/// The name of the WAL file that holds `lsn`: timeline, then the segment number in two parts.
pub fn wal_file_name(timeline: TimelineId, lsn: Lsn, segment_size: SegmentSize) -> String {
    let segments_per_id = 0x1_0000_0000 / segment_size.bytes();
    let segment = lsn.0 / segment_size.bytes();
    format!("{:08X}{:08X}{:08X}", timeline.0, segment / segments_per_id, segment % segments_per_id)
}

/// The timeline and first position that a WAL file name stands for; `None` when it is not one.
pub fn parse_wal_file_name(name: &str, segment_size: SegmentSize) -> Option<(TimelineId, Lsn)> {
    let upper_hex = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
    if name.len() != 24 || !name.bytes().all(upper_hex) {
        return None;
    }
    let part = |from: usize| u64::from_str_radix(&name[from..from + 8], 16).ok();
    let (timeline, id, index) = (part(0)?, part(8)?, part(16)?);
    let segments_per_id = 0x1_0000_0000 / segment_size.bytes();
    if index >= segments_per_id {
        return None;
    }
    Some((TimelineId(timeline as u32), Lsn((id * segments_per_id + index) * segment_size.bytes())))
}

/// The name of the file that tells where a timeline branched off.
pub fn history_file_name(timeline: TimelineId) -> String {
    format!("{:08X}.history", timeline.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsn_reads_back_as_written() {
        for text in ["0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF"] {
            assert_eq!(text.parse::<Lsn>().unwrap().to_string(), text);
        }
        for bad in ["", "/", "1", "1/", "+1/0", "1/123456789", "g/0"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }

    #[test]
    fn wal_file_names_follow_the_segment_size() {
        let check = |lsn: &str, mib: u64, name: &str| {
            let (size, lsn) = (SegmentSize::new(mib << 20).unwrap(), lsn.parse::<Lsn>().unwrap());
            assert_eq!(wal_file_name(TimelineId(1), lsn, size), name);
            assert_eq!(parse_wal_file_name(name, size), Some((TimelineId(1), lsn.segment_start(size))));
        };
        check("0/0", 16, "000000010000000000000000");
        check("1/12345678", 16, "000000010000000100000012");
        check("1/12345678", 64, "000000010000000100000004");
        assert_eq!(parse_wal_file_name("000000010000000000000100", SegmentSize::DEFAULT), None);
        assert_eq!(parse_wal_file_name("00000001000000000000000g", SegmentSize::DEFAULT), None);
    }
}
