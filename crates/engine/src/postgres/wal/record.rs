use levee_model::postgres::{Lsn, TimelineId};

use super::page::{long, word};
use super::{Mark, MarkKind};
use crate::postgres::from_postgres_time;

pub(super) const RECORD_HEADER_SIZE: usize = 24;
/// Longer than PostgreSQL's own bound for a record (`XLogRecordMaxSize`, 1020 MiB).
pub(super) const RECORD_SIZE_MAX: u32 = 1 << 30;

const XLOG: u8 = 0;
const TRANSACTION: u8 = 1;

const INFO_SHUTDOWN_CHECKPOINT: u8 = 0x00;
const INFO_SWITCH: u8 = 0x40;
const INFO_RESTORE_POINT: u8 = 0x70;
const INFO_END_OF_RECOVERY: u8 = 0x90;

const TRANSACTION_KIND: u8 = 0x70;
const TRANSACTION_HAS_INFO: u8 = 0x80;
const KIND_COMMIT: u8 = 0x00;
const KIND_ABORT: u8 = 0x20;
const KIND_COMMIT_PREPARED: u8 = 0x30;
const KIND_ABORT_PREPARED: u8 = 0x40;

/// The fixed part at the start of a record.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecordHeader {
    xid: u32,
    pub(super) previous: Lsn,
    info: u8,
    manager: u8,
    pub(super) checksum: u32,
}

impl RecordHeader {
    pub(super) fn parse(bytes: &[u8; RECORD_HEADER_SIZE]) -> Option<Self> {
        Some(Self {
            xid: word(bytes, 4)?,
            previous: Lsn(long(bytes, 8)?),
            info: bytes[16],
            manager: bytes[17],
            checksum: word(bytes, 20)?,
        })
    }

    pub(super) fn is_switch(&self) -> bool {
        self.manager == XLOG && self.info & 0xF0 == INFO_SWITCH
    }

    /// Whether the record's content is needed to make a mark of it.
    pub(super) fn is_wanted(&self) -> bool {
        match self.manager {
            XLOG => [INFO_SHUTDOWN_CHECKPOINT, INFO_SWITCH, INFO_RESTORE_POINT, INFO_END_OF_RECOVERY]
                .contains(&(self.info & 0xF0)),
            TRANSACTION => [KIND_COMMIT, KIND_ABORT, KIND_COMMIT_PREPARED, KIND_ABORT_PREPARED]
                .contains(&(self.info & TRANSACTION_KIND)),
            _ => false,
        }
    }

    /// The mark that the record is; `body` is what follows the header, and may be cut short.
    pub(super) fn mark(&self, body: &[u8], end: Lsn, version: u32) -> Option<Mark> {
        // A switch is a header alone.
        let data = main_data(body).unwrap_or_default();
        let time = |at: usize| from_postgres_time(long(data, at)? as i64);
        let mark = |time, kind| Some(Mark { lsn: end, time, kind });
        match (self.manager, self.info & 0xF0) {
            (XLOG, INFO_SHUTDOWN_CHECKPOINT) => {
                // `CheckPoint.time`, in seconds since 1970.
                let time = long(data, 64).and_then(|seconds| jiff::Timestamp::from_second(seconds as i64).ok());
                mark(time, MarkKind::ShutdownCheckpoint)
            }
            (XLOG, INFO_SWITCH) => mark(None, MarkKind::Switch),
            (XLOG, INFO_RESTORE_POINT) => {
                let name = data.get(8..)?;
                let name_end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
                let name = String::from_utf8_lossy(&name[..name_end]).into_owned();
                mark(time(0), MarkKind::RestorePoint { name })
            }
            (XLOG, INFO_END_OF_RECOVERY) => {
                mark(time(0), MarkKind::EndOfRecovery { timeline: TimelineId(word(data, 8)?) })
            }
            (TRANSACTION, _) => {
                let kind = self.info & TRANSACTION_KIND;
                let xid = if kind == KIND_COMMIT_PREPARED || kind == KIND_ABORT_PREPARED {
                    prepared_xid(data, self.info, version)
                } else {
                    Some(self.xid)
                };
                let commits = kind == KIND_COMMIT || kind == KIND_COMMIT_PREPARED;
                mark(time(0), if commits { MarkKind::Commit { xid } } else { MarkKind::Abort { xid } })
            }
            _ => None,
        }
    }
}

/// Finds a record's main data behind the headings of its blocks. The records that are wanted refer to no block, so
/// that only the headings without one are known here; `None` for anything else.
fn main_data(mut body: &[u8]) -> Option<&[u8]> {
    const SHORT: u8 = 255;
    const LONG: u8 = 254;
    const ORIGIN: u8 = 253;
    const TOP_LEVEL_XID: u8 = 252;
    loop {
        let (id, rest) = body.split_first()?;
        match *id {
            SHORT => return rest.get(1..),
            LONG => return rest.get(4..),
            ORIGIN => body = rest.get(2..)?,
            TOP_LEVEL_XID => body = rest.get(4..)?,
            _ => return None,
        }
    }
}

/// The transaction that a COMMIT PREPARED or ROLLBACK PREPARED ended: behind the optional parts of `xl_xact_commit`
/// and `xl_xact_abort`, in the order of `xinfo`'s parsing.
fn prepared_xid(data: &[u8], info: u8, version: u32) -> Option<u32> {
    const HAS_DATABASE: u32 = 1 << 0;
    const HAS_SUBTRANSACTIONS: u32 = 1 << 1;
    const HAS_RELATIONS: u32 = 1 << 2;
    const HAS_INVALIDATIONS: u32 = 1 << 3;
    const HAS_PREPARED: u32 = 1 << 4;
    const HAS_DROPPED_STATISTICS: u32 = 1 << 8;
    if info & TRANSACTION_HAS_INFO == 0 {
        return None;
    }
    let flags = word(data, 8)?;
    if flags & HAS_PREPARED == 0 {
        return None;
    }
    let mut at = 12;
    if flags & HAS_DATABASE != 0 {
        at += 8;
    }
    let counted = [
        (HAS_SUBTRANSACTIONS, 4, true),
        (HAS_RELATIONS, 12, true),
        (HAS_DROPPED_STATISTICS, 12, version >= 15),
        (HAS_INVALIDATIONS, 16, true),
    ];
    for (flag, item_size, exists) in counted {
        if exists && flags & flag != 0 {
            let count = usize::try_from(word(data, at)?).ok()?;
            at = at.checked_add(4)?.checked_add(count.checked_mul(item_size)?)?;
        }
    }
    word(data, at)
}

/// The checksum of a record: over its body, then over its header up to the checksum itself.
pub(super) fn checksum_with_header(body: u32, header: &[u8; RECORD_HEADER_SIZE]) -> u32 {
    crc32c::crc32c_append(body, &header[..20])
}

/// The length of a whole record, which comes first in its header.
pub(super) fn total_size(bytes: &[u8]) -> Option<u32> {
    word(bytes, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prepared_transaction_is_found_behind_the_optional_parts() {
        let mut data = vec![0; 8];
        data.extend((0b1_0001_1111u32).to_le_bytes());
        data.extend([0; 8]);
        data.extend(2u32.to_le_bytes());
        data.extend([0; 8]);
        data.extend(1u32.to_le_bytes());
        data.extend([0; 12]);
        data.extend(1u32.to_le_bytes());
        data.extend([0; 12]);
        data.extend(1u32.to_le_bytes());
        data.extend([0; 16]);
        data.extend(4711u32.to_le_bytes());
        assert_eq!(prepared_xid(&data, TRANSACTION_HAS_INFO, 15), Some(4711));
        assert_eq!(prepared_xid(&data[..40], TRANSACTION_HAS_INFO, 15), None);
    }
}
