//! The end of a cleanly stopped server's log, read from its data directory, for when the archive was cut off from
//! the other site while the server stopped.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use bytes::Bytes;
use jiff::Timestamp;
use levee_database::postgres::instance::ControlData;
use levee_database::postgres::{Lineage, LogChunk, LogSink, SinkError};
use levee_model::postgres::{Lsn, SegmentSize, TimelineId, wal_file_name};

use super::super::sink::WireSink;

/// A shutdown checkpoint's record, padded as records are: header 24, block header 2, `CheckPoint` 88, padding 6.
const SHUTDOWN_CHECKPOINT_BYTES: u64 = 120;
const PAGE_BYTES: u64 = 8192;
const PAGE_HEADER_BYTES: u64 = 24;
/// The header of a segment's first page.
const LONG_PAGE_HEADER_BYTES: u64 = 40;
const CHUNK_BYTES: u64 = 128 << 10;

/// What may be left to send.
pub struct Rest {
    folder: PathBuf,
    lineage: Lineage,
    segment_size: SegmentSize,
    checkpoint: Lsn,
    /// The end of the shutdown checkpoint's record, which is the last.
    pub end: Lsn,
}

impl Rest {
    pub fn of(data_directory: &Path, control: &ControlData) -> Rest {
        Rest {
            folder: data_directory.join("pg_wal"),
            lineage: Lineage { system_identifier: control.system_identifier, timeline: control.timeline },
            segment_size: control.segment_size,
            checkpoint: control.checkpoint,
            end: record_end(control.checkpoint, control.segment_size),
        }
    }

    /// Sends what the other site does not have yet, and returns where its durable log ends then.
    pub fn ship(&self, sink: &mut WireSink, deadline: Instant) -> Result<Lsn, SinkError> {
        let start = self.checkpoint.segment_start(self.segment_size);
        let mut at = sink.begin(self.lineage, self.segment_size, start)?;
        while at < self.end {
            let bytes = read(&self.folder, self.lineage.timeline, self.segment_size, at, self.end)?;
            let length = bytes.len() as u64;
            let (source_time, source_end) = (Timestamp::now(), self.end);
            sink.append(LogChunk { lsn: at, bytes: &bytes, source_time, source_end, may_wait: false })?;
            at = Lsn(at.0 + length);
        }
        while sink.durable() < self.end {
            if Instant::now() >= deadline {
                let reason =
                    format!("it has the log up to {}, and the last record ends at {}", sink.durable(), self.end);
                return Err(SinkError::Unavailable { reason });
            }
            sink.flush()?;
        }
        Ok(sink.durable())
    }
}

/// The next piece of log from a position on, at most up to the end of its segment.
fn read(folder: &Path, timeline: TimelineId, segment_size: SegmentSize, at: Lsn, end: Lsn) -> Result<Bytes, SinkError> {
    let path = folder.join(wal_file_name(timeline, at, segment_size));
    let start = at.segment_start(segment_size);
    let segment_end = start.0 + segment_size.bytes();
    let length = CHUNK_BYTES.min(segment_end - at.0).min(end.0 - at.0);
    let mut bytes = vec![0; length as usize];
    std::fs::File::open(&path).and_then(|file| file.read_exact_at(&mut bytes, at.0 - start.0)).map_err(|error| {
        SinkError::Refused {
            reason: format!(
                "the last of the log is needed from {at} on, and {} can't be read: {error}; start the database by an \
                 abort of the run, let the archive catch up, and try again",
                path.display()
            ),
        }
    })?;
    Ok(Bytes::from(bytes))
}

/// Where a shutdown checkpoint's record ends that begins here: it may go over the end of a page, whose successor
/// begins with a header.
fn record_end(start: Lsn, segment_size: SegmentSize) -> Lsn {
    let plain = start.0 + SHUTDOWN_CHECKPOINT_BYTES;
    let page_end = start.0 - start.0 % PAGE_BYTES + PAGE_BYTES;
    if plain <= page_end {
        return Lsn(plain);
    }
    let header = if page_end.is_multiple_of(segment_size.bytes()) { LONG_PAGE_HEADER_BYTES } else { PAGE_HEADER_BYTES };
    Lsn(plain + header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_over_the_end_of_a_page_is_longer_by_the_header() {
        let check = |start: u64, end: u64| assert_eq!(record_end(Lsn(start), SegmentSize::DEFAULT), Lsn(end));
        check(0x100_0028, 0x100_0028 + 120);
        check(0x100_2000 - 120, 0x100_2000);
        check(0x100_2000 - 112, 0x100_2000 + 8 + 24);
        check(0x200_0000 - 112, 0x200_0000 + 8 + 40);
    }

    #[test]
    fn log_is_read_up_to_the_end_of_its_segment() {
        let folder = tempfile::tempdir().unwrap();
        let size = SegmentSize::new(1 << 20).unwrap();
        let content: Vec<u8> = (0..1u32 << 20).map(|position| position as u8).collect();
        std::fs::write(folder.path().join("000000010000000000000003"), &content).unwrap();
        let (at, end) = (Lsn((4 << 20) - 10), Lsn((4 << 20) + 100));
        assert_eq!(read(folder.path(), TimelineId(1), size, at, end).unwrap(), content[content.len() - 10..]);
        let missing = read(folder.path(), TimelineId(1), size, Lsn(4 << 20), end).unwrap_err();
        assert!(missing.to_string().contains("000000010000000000000004"), "{missing}");
    }
}
