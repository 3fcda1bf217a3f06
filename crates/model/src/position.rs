use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::postgres::{Lsn, SystemIdentifier, TimelineId};

/// A byte position in one lineage of a PostgreSQL log.
///
/// Positions of different lineages have no order: compare `system_identifier` and `timeline` first,
/// and stop and ask when they differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub struct LogPosition {
    pub system_identifier: SystemIdentifier,
    pub timeline: TimelineId,
    pub lsn: Lsn,
}

impl fmt::Display for LogPosition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} on timeline {}", self.lsn, self.timeline)
    }
}

/// Where one asset can be brought back to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Position {
    /// A position in a database's log.
    Log(LogPosition),
    /// A snapshot in a vault, by its full id, with the moment at which reading the source began.
    Snapshot { id: String, taken_at: Timestamp },
}

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Position::Log(position) => position.fmt(formatter),
            Position::Snapshot { id, taken_at } => {
                write!(formatter, "snapshot {} of {taken_at}", id.get(..8).unwrap_or(id))
            }
        }
    }
}
