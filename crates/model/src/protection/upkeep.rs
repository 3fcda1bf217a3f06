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

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::protection::Due;

    fn upkeep(toml: &str) -> Upkeep {
        toml::from_str(toml).unwrap()
    }

    #[test]
    fn data_are_cleared_away_when_the_schedule_says_so() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let check = |toml: &str, now: &str, expected: Due| {
            let upkeep = upkeep(toml);
            let due = upkeep.prune_rhythm().due(Some(at("2026-11-20T12:00:00Z")), at(now), "shop");
            assert_eq!(due, expected, "{toml:?} at {now}");
        };
        let nightly = "prune_schedule = { hours = [3] }";
        check(nightly, "2026-11-21T02:59:00Z", Due::Later(at("2026-11-21T03:00:00Z")));
        check(nightly, "2026-11-21T03:00:00Z", Due::Now { planned: at("2026-11-21T03:00:00Z") });
        // On a Sunday, though more than a day has passed.
        let weekly = "prune_schedule = { hours = [3], weekdays = [\"sun\"] }";
        check(weekly, "2026-11-21T13:00:00Z", Due::Later(at("2026-11-22T03:00:00Z")));
        check(weekly, "2026-11-22T03:30:00Z", Due::Now { planned: at("2026-11-22T03:00:00Z") });
        // Without a schedule it is the period that counts, which is a day when nothing is said.
        check("", "2026-11-21T03:00:00Z", Due::Later(at("2026-11-21T12:00:00Z")));
        check("prune_every = \"6h\"", "2026-11-20T18:00:00Z", Due::Now { planned: at("2026-11-20T18:00:00Z") });
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let check = |toml: &str, expected: Option<&str>| {
            assert_eq!(upkeep(toml).problem().map(|(key, _)| key), expected, "{toml:?}");
        };
        check("", None);
        check("prune_every = \"6h\"", None);
        check("prune_schedule = { hours = [3] }", None);
        check("prune_every = \"6h\"\nprune_schedule = { hours = [3] }", Some("prune_schedule"));
        check("prune_every = \"0s\"", Some("prune_every"));
        check("verify_within = \"0s\"", Some("verify_within"));
        check("verify_bytes_per_second = \"0B\"", Some("verify_bytes_per_second"));
    }
}
