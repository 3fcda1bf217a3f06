use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A number that grows each time the writer of an app changes.
///
/// Every stream, journal file and command carries it, and everyone refuses an older one. It starts
/// at 1 when an app is first applied; 0 is never valid on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch of an app that has never changed sites.
    pub const FIRST: Epoch = Epoch(1);

    /// The epoch after a change of writer.
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}
