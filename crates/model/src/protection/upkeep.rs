//! What the recovery site does for the copies that it keeps, without being asked: removing what is no longer needed,
//! and reading what is stored again.

use serde::{Deserialize, Serialize};

use super::{Period, Rhythm, Schedule, Size};

const DAY_S: u64 = 24 * 3600;

/// How a site looks after an app's copies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Upkeep {
    /// How often the data of removed copies are cleared away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prune_every: Option<Period>,
    /// When they are, instead of `prune_every`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prune_schedule: Option<Schedule>,
    /// How long data that nothing refers to stay before they are deleted for good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delete_after: Option<Period>,
    /// Within what time everything stored is read again and its hashes checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify_within: Option<Period>,
    /// How much of it is read in a second, at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify_bytes_per_second: Option<Size>,
}

impl Upkeep {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// When data are cleared away: every day, when nothing else is said.
    pub fn prune_rhythm(&self) -> Rhythm<'_> {
        match &self.prune_schedule {
            Some(schedule) => Rhythm::At(schedule),
            None => Rhythm::Every(self.prune_every.unwrap_or(Period::from_seconds(DAY_S))),
        }
    }

    /// A day: longer than any clock is wrong.
    pub fn delete_after(&self) -> Period {
        self.delete_after.unwrap_or(Period::from_seconds(DAY_S))
    }

    pub fn verify_within(&self) -> Period {
        self.verify_within.unwrap_or(Period::from_seconds(30 * DAY_S))
    }

    /// 16 MiB: what a spinning disk spares beside its work.
    pub fn verify_bytes_per_second(&self) -> Size {
        self.verify_bytes_per_second.unwrap_or(Size::from_bytes(16 << 20))
    }

    /// What makes no sense, and where it stands.
    pub(super) fn problem(&self) -> Option<(&'static str, &'static str)> {
        if self.prune_every.is_some() && self.prune_schedule.is_some() {
            return Some(("prune_schedule", "say either prune_every or prune_schedule, not both"));
        }
        let zero = |period: &Option<Period>| period.is_some_and(|period| period.milliseconds() == 0);
        if zero(&self.prune_every) {
            return Some(("prune_every", "it must be longer than nothing"));
        }
        if zero(&self.verify_within) {
            return Some(("verify_within", "it must be longer than nothing"));
        }
        if self.verify_bytes_per_second.is_some_and(|size| size.bytes() == 0) {
            return Some(("verify_bytes_per_second", "with nothing a second, nothing is ever read"));
        }
        None
    }
}
