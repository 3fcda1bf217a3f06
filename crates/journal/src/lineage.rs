use jiff::Timestamp;
use levee_model::Epoch;
use levee_model::postgres::{Lsn, SegmentSize, SystemIdentifier, TimelineId};

/// Whose log this is, and who writes it. Positions are compared only inside one
/// (`system_identifier`, `timeline`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lineage {
    pub system_identifier: SystemIdentifier,
    pub timeline: TimelineId,
    /// The epoch of the app's writer; it is in the files' names and headers.
    pub epoch: Epoch,
    pub segment_size: SegmentSize,
}

/// An unbroken stretch of one timeline's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub start: Lsn,
    /// Everything before this position is durable here.
    pub durable_end: Lsn,
    /// The moment on the source's clock up to which everything is contained, as far as it is known.
    pub as_of: Option<Timestamp>,
    pub segment_size: SegmentSize,
}
