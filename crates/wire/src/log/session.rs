use bytes::Bytes;
use jiff::Timestamp;
use levee_model::control::Signed;
use levee_model::postgres::{Lsn, SegmentSize, SystemIdentifier, TimelineId};
use levee_model::{AssetId, Epoch};
use serde::{Deserialize, Serialize};

/// How a sender opens a log stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOpen {
    pub asset: AssetId,
    pub epoch: Epoch,
    /// The sender's grant as writer of the app at this epoch.
    pub grant: Signed,
    pub system_identifier: SystemIdentifier,
    pub timeline: TimelineId,
    pub segment_size: SegmentSize,
    /// Where the source can start when the receiver has nothing yet.
    pub source_start: Lsn,
    /// The log between what the receiver has and `source_start` is gone for good: go on behind the gap.
    pub after_gap: bool,
}

/// A piece of log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogChunk {
    /// The position of the first byte.
    pub lsn: Lsn,
    /// At most `CHUNK_BYTES_MAX`.
    pub bytes: Bytes,
    /// The source's clock when it sent this.
    pub source_time: Timestamp,
    /// Where the source's log ended then.
    pub source_end: Lsn,
    /// No commit waits until it is durable: it may take up to `levee_model::FLUSH_INTERVAL`.
    pub may_wait: bool,
}

/// A log could not be taken, or no longer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LogRefusal {
    pub reason: RefusalReason,
    /// What was refused, why, and what the operator can do.
    pub message: String,
}

impl LogRefusal {
    pub fn new(reason: RefusalReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// What a sender can decide by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalReason {
    /// The receiver knows a higher epoch: the sender may not write any more.
    StaleEpoch,
    /// The grant does not cover this, is not this sender's, or its certificate is revoked.
    NotGranted,
    /// The receiver has not been told of this asset yet; worth trying again.
    NotReady,
    /// Another system identifier, or a timeline that does not follow from what is here.
    UnknownLineage,
    /// The chunk does not start where the log here ends.
    Gap,
    /// The receiver's storage failed.
    Storage,
    /// The sender broke the protocol.
    Protocol,
}

impl RefusalReason {
    /// The word on the wire.
    pub fn code(self) -> &'static str {
        match self {
            RefusalReason::StaleEpoch => "stale_epoch",
            RefusalReason::NotGranted => "not_granted",
            RefusalReason::NotReady => "not_ready",
            RefusalReason::UnknownLineage => "unknown_lineage",
            RefusalReason::Gap => "gap",
            RefusalReason::Storage => "storage",
            RefusalReason::Protocol => "protocol",
        }
    }

    pub(crate) fn from_code(code: &str) -> RefusalReason {
        const ALL: [RefusalReason; 6] = [
            RefusalReason::StaleEpoch,
            RefusalReason::NotGranted,
            RefusalReason::NotReady,
            RefusalReason::UnknownLineage,
            RefusalReason::Gap,
            RefusalReason::Storage,
        ];
        ALL.into_iter().find(|reason| reason.code() == code).unwrap_or(RefusalReason::Protocol)
    }
}

/// The receiving end of one log stream. All calls block, and come from one thread, in order.
pub trait LogSession: Send {
    /// Where the sender has to go on: the end of what is durable here, or its own start.
    fn resume_lsn(&self) -> Lsn;

    /// Whether there was log here already that ends where the sender goes on.
    fn has_log(&self) -> bool;

    /// Takes a piece; it need not be durable when this returns.
    fn append(&mut self, chunk: LogChunk) -> Result<(), LogRefusal>;

    /// Keeps a timeline's history file, durably.
    fn history(&mut self, timeline: TimelineId, content: &[u8]) -> Result<(), LogRefusal>;

    /// The source had written nothing beyond `source_end` at this moment of its clock.
    fn source_time(&mut self, as_of: Timestamp, source_end: Lsn) -> Result<(), LogRefusal>;

    /// Makes everything taken so far durable and returns where it ends.
    fn flush(&mut self) -> Result<Lsn, LogRefusal>;
}
