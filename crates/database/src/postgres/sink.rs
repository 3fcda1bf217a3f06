use std::os::fd::BorrowedFd;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use levee_model::postgres::{Lsn, SegmentSize, SystemIdentifier, TimelineId};

use crate::StopSignal;

/// One branch of one cluster's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lineage {
    pub system_identifier: SystemIdentifier,
    pub timeline: TimelineId,
}

/// The next bytes of a log.
#[derive(Clone, Copy, Debug)]
pub struct LogChunk<'a> {
    /// Where the first byte lies.
    pub lsn: Lsn,
    /// Empty when only the source's time is passed on.
    pub bytes: &'a Bytes,
    /// A moment on the source's clock at which the source's durable log ended at `source_end`: whoever has
    /// everything before `source_end` has everything that was committed up to then.
    pub source_time: Timestamp,
    pub source_end: Lsn,
    /// No commit waits until this is durable: it may take up to `levee_model::FLUSH_INTERVAL`.
    pub may_wait: bool,
}

/// The log that a source has.
#[derive(Clone, Copy, Debug)]
pub struct SourceLog<'a> {
    pub system_identifier: SystemIdentifier,
    /// The timelines that its own one comes from, oldest first, each with the position at which it was left.
    pub ancestors: &'a [(TimelineId, Lsn)],
    pub segment_size: SegmentSize,
    /// It keeps everything from here on.
    pub start: Lsn,
}

/// Why a sink did not take the log.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// It can't be reached, or has no room now; the archive tries again.
    #[error("{reason}")]
    Unavailable { reason: String },
    /// It will not take this log however often it is asked, for example because a newer epoch has begun.
    #[error("refused: {reason}")]
    Refused { reason: String },
}

/// Where a continuous archive puts the log.
///
/// The archive is its only user, from one thread: `history` for every timeline after the first, `begin`, then
/// `append` in order without a hole; after a failure, or when the source changes its timeline, from `begin` again.
pub trait LogSink: Send {
    /// The timeline to go on with: the newest of which the sink has anything, so that the rest of an older timeline
    /// is fetched before a newer one begins. `None` starts at the source's own timeline.
    fn newest_timeline(&mut self, source: &SourceLog<'_>) -> Result<Option<TimelineId>, SinkError>;

    /// Answers where to go on: the end of what is durable of this lineage, or `source_start`, always the first
    /// position of a segment, when there is nothing yet.
    fn begin(&mut self, lineage: Lineage, segment_size: SegmentSize, source_start: Lsn) -> Result<Lsn, SinkError>;

    /// The file that tells where a timeline branched off. May come again.
    fn history(
        &mut self,
        system_identifier: SystemIdentifier,
        timeline: TimelineId,
        content: &[u8],
    ) -> Result<(), SinkError>;

    /// May wait when a bounded queue is full, but not for longer than PostgreSQL's wal_sender_timeout. What may wait
    /// itself can be kept back until `flush_due`, so that several pieces go on together.
    fn append(&mut self, chunk: LogChunk<'_>) -> Result<(), SinkError>;

    /// Everything that has come for now was appended: makes durable what is due, or sends on what was kept back. Called
    /// at least every 100 ms while a stream is open.
    fn flush_due(&mut self) -> Result<(), SinkError>;

    /// Somebody waits until everything that was appended is durable: the source stops, or the stream has ended.
    fn flush(&mut self) -> Result<(), SinkError>;

    /// The end of what is durable of the lineage that was begun last. This is what PostgreSQL is told.
    fn durable(&self) -> Lsn;

    /// Waits until `server`, where it is given, is readable, the archive is to stop, `durable` has moved or the time is
    /// over; it may be over early. An error that `append` has not returned yet is returned here.
    ///
    /// The sink waits, and not the archive, so that one thread is enough for both: a commit that waits for another site
    /// then wakes it twice, and nobody else on this machine.
    fn wait(&mut self, server: Option<BorrowedFd<'_>>, stop: &StopSignal, timeout: Duration) -> Result<(), SinkError>;
}
