//! What is kept by whoever owns a repository that others write to.
//!
//! A writer may be in an attacker's hands, and everything inside a snapshot is the writer's word: its time, its host,
//! its tags. What counts is when the owner received it and from whom. With forged times nothing can be made old, and
//! what one writer sends pushes nothing of another's out.

use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};

use super::policy::Dated;
use super::{Policy, SnapshotId};

/// A snapshot as its receiver knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    pub id: SnapshotId,
    pub received_at: Timestamp,
    /// Who sent it, as the receiver has authenticated it.
    pub writer: String,
}

/// Which of the snapshots of one source stay. One stays when any of these keeps it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RetainReceived {
    /// Counted for each writer on its own, in pieces of time of UTC. What it says of tags counts nothing.
    pub policy: Policy,
    /// Everything that is younger, counted back from the newest: nothing goes while nothing comes.
    pub younger_than: Option<SignedDuration>,
    /// What came before one of these moments is kept as well as it would have been then.
    pub as_before: Vec<Timestamp>,
}

impl RetainReceived {
    /// The snapshots that go. The newest always stays.
    pub fn leaving(&self, arrivals: &[Arrival], now: Timestamp) -> Vec<SnapshotId> {
        let Some(newest) = arrivals.iter().max_by_key(|arrival| (arrival.received_at, arrival.id)) else {
            return Vec::new();
        };
        let mut kept = self.kept(arrivals, now);
        kept.insert(newest.id);
        for moment in &self.as_before {
            let before: Vec<Arrival> =
                arrivals.iter().filter(|arrival| arrival.received_at < *moment).cloned().collect();
            kept.extend(self.kept(&before, *moment));
            // What would have been restored then.
            kept.extend(before.iter().max_by_key(|arrival| (arrival.received_at, arrival.id)).map(|last| last.id));
        }
        arrivals.iter().map(|arrival| arrival.id).filter(|id| !kept.contains(id)).collect()
    }

    fn kept(&self, arrivals: &[Arrival], now: Timestamp) -> BTreeSet<SnapshotId> {
        let mut kept = BTreeSet::new();
        let newest_at = arrivals.iter().map(|arrival| arrival.received_at).max().unwrap_or(now).min(now);
        if let Some(age) = self.younger_than {
            let from = newest_at.checked_sub(age).unwrap_or(Timestamp::MIN);
            kept.extend(arrivals.iter().filter(|arrival| arrival.received_at > from).map(|arrival| arrival.id));
        }
        let mut by_writer: BTreeMap<&str, Vec<&Arrival>> = BTreeMap::new();
        for arrival in arrivals {
            by_writer.entry(&arrival.writer).or_default().push(arrival);
        }
        for mut sent in by_writer.into_values() {
            sent.sort_by_key(|arrival| std::cmp::Reverse((arrival.received_at, arrival.id)));
            let dated: Vec<Dated<'_>> = sent
                .iter()
                .map(|arrival| Dated { time: arrival.received_at, offset: Offset::UTC, snapshot: None })
                .collect();
            let verdicts = self.policy.apply(&dated, now);
            kept.extend(sent.iter().zip(verdicts).filter(|(_, why)| why.is_some()).map(|(arrival, _)| arrival.id));
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::super::Keep;
    use super::*;
    use crate::Id;

    const NOW: &str = "2026-11-26T12:00:00Z";

    fn id(number: usize) -> SnapshotId {
        SnapshotId(Id::from_bytes([number as u8; 32]))
    }

    fn hours_ago(hours: i64) -> Timestamp {
        NOW.parse::<Timestamp>().unwrap() - SignedDuration::from_hours(hours)
    }

    /// Arrivals numbered from 0, as (hours ago, writer); the numbers of those that stay.
    fn check(retain: &RetainReceived, arrivals: &[(i64, &str)], stay: &[usize]) {
        let arrivals: Vec<Arrival> = arrivals
            .iter()
            .enumerate()
            .map(|(number, (hours, writer))| Arrival {
                id: id(number),
                received_at: hours_ago(*hours),
                writer: writer.to_string(),
            })
            .collect();
        let leaving = retain.leaving(&arrivals, NOW.parse().unwrap());
        let left: Vec<usize> = (0..arrivals.len()).filter(|number| !leaving.contains(&id(*number))).collect();
        assert_eq!(left, stay, "{retain:?}");
    }

    fn younger_than(hours: i64) -> RetainReceived {
        RetainReceived { younger_than: Some(SignedDuration::from_hours(hours)), ..RetainReceived::default() }
    }

    #[test]
    fn age_is_counted_back_from_the_newest() {
        check(&younger_than(24), &[(49, "e1"), (47, "e1"), (25, "e1"), (1, "e1")], &[3]);
        check(&younger_than(48), &[(49, "e1"), (47, "e1"), (25, "e1"), (1, "e1")], &[1, 2, 3]);
        // The writer has been away for a month, or this clock was set forward: nothing goes.
        check(&younger_than(24), &[(800, "e1"), (790, "e1"), (780, "e1")], &[0, 1, 2]);
        // A clock that was put back: what seems to come from the future stays, and makes nothing old.
        check(&younger_than(24), &[(23, "e1"), (-900, "e1")], &[0, 1]);
        check(&younger_than(24), &[], &[]);
    }

    #[test]
    fn pieces_of_time_are_counted_by_what_was_received() {
        let policy = Policy { daily: Keep::Count(2), last: Keep::Count(1), ..Policy::default() };
        let retain = RetainReceived { policy, ..RetainReceived::default() };
        check(&retain, &[(49, "e1"), (48, "e1"), (30, "e1"), (29, "e1"), (2, "e1"), (1, "e1")], &[3, 5]);
        let weekly =
            RetainReceived { policy: Policy { weekly: Keep::Count(2), ..Policy::default() }, ..younger_than(3) };
        check(&weekly, &[(24 * 15, "e1"), (24 * 8, "e1"), (24 * 7, "e1"), (2, "e1"), (1, "e1")], &[2, 3, 4]);
    }

    #[test]
    fn a_flood_of_one_writer_pushes_nothing_of_another_out() {
        let policy = Policy { last: Keep::Count(2), ..Policy::default() };
        let retain = RetainReceived { policy, ..RetainReceived::default() };
        let flood = [(30, "e1"), (29, "e1"), (28, "e1"), (5, "w1"), (4, "w1"), (3, "w1"), (2, "w1")];
        check(&retain, &flood, &[1, 2, 5, 6]);
    }

    #[test]
    fn what_came_before_a_moment_is_kept_as_it_was_then() {
        let arrivals = [(100, "e1"), (50, "e1"), (40, "e1"), (3, "e1"), (2, "e1"), (1, "e1")];
        check(&younger_than(12), &arrivals, &[3, 4, 5]);
        let held = RetainReceived { as_before: vec![hours_ago(30)], ..younger_than(12) };
        check(&held, &arrivals, &[1, 2, 3, 4, 5]);
    }
}
