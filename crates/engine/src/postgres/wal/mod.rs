//! The write-ahead log: finding commits, restore points and other marks in a stream of its bytes.
//!
//! Source: PostgreSQL's `xlog_internal.h`, `xlogrecord.h`, `xact.h` and `pg_control.h`, 13 to 17, little-endian.

mod decoder;
mod page;
mod record;

use jiff::Timestamp;
use levee_model::postgres::{Lsn, TimelineId};

pub use decoder::WalDecoder;
pub use page::{PageError, PageHeader, WAL_PAGE_SIZE};

/// A place in the log that recovery can stop at, or that says something about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The end of the record: recovery that has reached it contains what it marks.
    pub lsn: Lsn,
    /// On the source's clock, as the record has it. `None` when it has none.
    pub time: Option<Timestamp>,
    pub kind: MarkKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MarkKind {
    /// `xid` is that of the top-level transaction; `None` when a prepared one's could not be found in its record.
    Commit {
        xid: Option<u32>,
    },
    Abort {
        xid: Option<u32>,
    },
    /// Made by `pg_create_restore_point`.
    RestorePoint {
        name: String,
    },
    /// The server was stopped cleanly: nothing is written after it on this timeline until it starts again.
    ShutdownCheckpoint,
    /// The rest of the segment is empty.
    Switch,
    /// A server that was promoted has begun this timeline.
    EndOfRecovery {
        timeline: TimelineId,
    },
}

/// What decoding came upon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    Mark(Mark),
    /// The log could not be followed from `at` on. Decoding goes on at the next segment; the marks in between are
    /// not known.
    LostSync {
        at: Lsn,
        reason: LostSync,
    },
}

/// Why the log could not be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LostSync {
    #[error("a page's header is wrong: {0}")]
    Page(#[from] PageError),
    #[error("the log ends in zeros")]
    Zeros,
    #[error("a record has an impossible length")]
    RecordLength,
    #[error("a record does not follow the one before")]
    RecordOrder,
    #[error("a record's checksum is wrong")]
    RecordChecksum,
    #[error("a record is not continued as it should be")]
    Continuation,
}
