//! The journal's behaviour, through its public interface and through stock `age` and `zstd`.

mod copying;
mod damage;
mod epochs;
mod full_disk;
mod kill;
mod latency;
mod marks;
mod rereading;
mod retention;
mod stock_tools;
mod writing;

use std::path::Path;

use jiff::Timestamp;
use levee_journal::{Identity, JournalKeys, Lineage, LogJournal};
use levee_model::Epoch;
use levee_model::postgres::{Lsn, SegmentSize, SystemIdentifier, TimelineId};

pub const SYSTEM: SystemIdentifier = SystemIdentifier(7_300_000_000_000_000_001);
pub const TIMELINE: TimelineId = TimelineId(1);
pub const SEGMENT: u64 = 1 << 20;
/// The first position of the test logs: the start of a segment.
pub const START: Lsn = Lsn(3 * SEGMENT);

/// The lineage of the tests, at an epoch.
pub fn lineage(epoch: u64) -> Lineage {
    Lineage {
        system_identifier: SYSTEM,
        timeline: TIMELINE,
        epoch: Epoch(epoch),
        segment_size: SegmentSize::new(SEGMENT).unwrap(),
    }
}

pub fn keys(identity: &Identity) -> JournalKeys {
    JournalKeys::of_identity(identity.clone())
}

pub fn open(dir: &Path, identity: &Identity) -> LogJournal {
    LogJournal::open(dir, keys(identity)).unwrap()
}

/// Log that tells its position: the same bytes every time, and as compressible as real log.
pub fn log(from: Lsn, length: usize) -> Vec<u8> {
    let byte = |position: u64| {
        let word = (position / 8).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
        word.to_le_bytes()[(position % 8) as usize] & if position % 64 < 32 { 0xFF } else { 0x03 }
    };
    (from.0..from.0 + length as u64).map(byte).collect()
}

pub fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

/// Everything that can be read from a position on must be the log that belongs there.
pub fn check_log(journal: &LogJournal, from: Lsn, end: Lsn) {
    let mut reader = journal.reader(SYSTEM, TIMELINE, from).unwrap();
    let mut position = from;
    while let Some((lsn, part)) = reader.next_part().unwrap() {
        assert_eq!(lsn, position);
        assert!(part == log(lsn, part.len()), "wrong log at {lsn}");
        position = Lsn(lsn.0 + part.len() as u64);
    }
    assert_eq!(position, end);
}

pub fn files(dir: &Path) -> Vec<String> {
    let folder = dir.join(SYSTEM.to_string()).join("00000001");
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
