//! The journal of a database's log: bytes at a position, kept so that any moment can be rebuilt.
//!
//! A journal is a folder per asset. Inside, the log is named by system identifier, timeline, epoch and
//! range. A whole segment is a *closed* file: the database's own log file as zstd frames inside the
//! `age` format, so that `age -d -i KEY FILE | zstd -d` gives it back without Levee. The end of the
//! log is the *open tail*: records sealed one by one, each flush one `fdatasync`.
//!
//! What holds at all times:
//! - What `flush` has returned is durable, and is never cut afterwards; when it is damaged, reading says
//!   so by name.
//! - Logs concatenate. They never merge, thin, or go on past a gap.
//! - Whoever has sealed an epoch will not see a flush of an older one succeed any more.
//! - One process writes; any number of processes read beside it, and see only what is durable.
//!
//! The byte layout is in `docs/formats/journal.md`.

mod background;
mod closed;
mod copying;
mod durable;
mod epoch;
mod error;
mod find_marks;
mod format;
mod journal;
mod keys;
mod layout;
mod lineage;
mod live;
mod mark_files;
mod marks;
mod read;
mod records;
mod retention;
mod source_clock;
mod stored;
mod tail;
mod writer;

pub use copying::{FileToCopy, SegmentPlace};
pub use error::{Error, Result};
pub use find_marks::{FindMarks, MarkFinder};
pub use journal::LogJournal;
pub use keys::{Identity, JournalKeys, Recipient};
pub use lineage::{Extent, Lineage};
pub use marks::{Mark, MarkBlock, MarkKind, TimeCandidate, TimeLookup};
pub use read::{LogReader, SegmentBytes};
pub use retention::{KeepRange, Pin, TrimReport};
pub use stored::{ClosedSegment, RereadSegment};
pub use writer::LogWriter;
