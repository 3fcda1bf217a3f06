//! What is kept by whoever owns a repository that others write to.
//!
//! A writer may be in an attacker's hands, and everything inside a snapshot is the writer's word: its time, its host,
//! its tags. What counts is when the owner received it and from whom. With forged times nothing can be made old, and
//! what one writer sends pushes nothing of another's out.
//!
//! The owner's own clock may be wrong as well, and what it removes then does not come back. So no more time has passed
//! than the writer's copies say too: the word of a writer makes nothing older, but it can keep what would go.
//!
//! ```text
//! this clock is ahead     what comes is stamped with a time at which, by its writer, it was not taken yet for long: it
//!                         stays, counts for no rule, and makes nothing old
//! it is right again       what has such a stamp came from a time to come: the same
//! this clock was behind   what came then says that it is younger: it stays as if it had come when it was taken
//! ```

use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};

use super::policy::Dated;
use super::{Policy, SnapshotId};

/// So far apart may be when a snapshot came and when it says that it was taken: a large one takes a while, and no two
/// clocks are the same. Beyond it one of the two is not believed.
const APART_MAX: SignedDuration = SignedDuration::from_hours(24);

/// A snapshot as its receiver knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    pub id: SnapshotId,
    pub received_at: Timestamp,
    /// Who sent it, as the receiver has authenticated it.
    pub writer: String,
}

impl Arrival {
    /// The time that it was at least when this came, as both clocks have it. `taken_at` is the writer's word.
    fn agreed_at(&self, taken_at: Option<Timestamp>) -> Timestamp {
        match taken_at {
            Some(taken_at) if self.received_at.duration_since(taken_at) > APART_MAX => taken_at,
            _ => self.received_at,
        }
    }

    /// When it came, also where the receiver's clock was behind. A time that is not yet proves nothing.
    pub fn came_at(&self, taken_at: Option<Timestamp>, now: Timestamp) -> Timestamp {
        match taken_at {
            Some(taken_at) if taken_at <= now && taken_at.duration_since(self.received_at) > APART_MAX => taken_at,
            _ => self.received_at,
        }
    }
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
    /// When each was taken, by its writer's word. It makes nothing older and pushes nothing out.
    pub taken_at: BTreeMap<SnapshotId, Timestamp>,
}

impl RetainReceived {
    /// The snapshots that go. The newest always stays.
    pub fn leaving(&self, arrivals: &[Arrival], now: Timestamp) -> Vec<SnapshotId> {
        let mut kept = self.kept(arrivals, now);
        for moment in &self.as_before {
            let before: Vec<Arrival> =
                arrivals.iter().filter(|arrival| arrival.received_at < *moment).cloned().collect();
            // With them what would have been restored then.
            kept.extend(self.kept(&before, *moment));
        }
        arrivals.iter().map(|arrival| arrival.id).filter(|id| !kept.contains(id)).collect()
    }

    /// Those that came at a time which is not yet, or which no writer knows of: they stay, and count for no rule.
    pub fn from_ahead<'a>(&self, arrivals: &'a [Arrival], now: Timestamp) -> Vec<&'a Arrival> {
        let newest_at = self.newest_at(arrivals, now);
        arrivals.iter().filter(|arrival| newest_at.is_none_or(|newest_at| arrival.received_at > newest_at)).collect()
    }

    /// Until when something has come, as all clocks have it. `None` when all that came is of a time to come.
    fn newest_at(&self, arrivals: &[Arrival], now: Timestamp) -> Option<Timestamp> {
        let agreed_at = arrivals.iter().map(|arrival| arrival.agreed_at(self.taken_at.get(&arrival.id).copied()));
        agreed_at.filter(|at| *at <= now).max()
    }

    fn kept(&self, arrivals: &[Arrival], now: Timestamp) -> BTreeSet<SnapshotId> {
        let mut kept = self.kept_by_receipt(arrivals, now);
        let came: Vec<Arrival> = arrivals
            .iter()
            .map(|arrival| {
                let received_at = arrival.came_at(self.taken_at.get(&arrival.id).copied(), now);
                Arrival { received_at, ..arrival.clone() }
            })
            .collect();
        if came != arrivals {
            // Beside what the receipts alone keep, or a writer could push out what it has sent before.
            kept.extend(self.kept_by_receipt(&came, now));
        }
        kept
    }

    fn kept_by_receipt(&self, arrivals: &[Arrival], now: Timestamp) -> BTreeSet<SnapshotId> {
        let Some(newest_at) = self.newest_at(arrivals, now) else {
            return arrivals.iter().map(|arrival| arrival.id).collect();
        };
        let (came, from_ahead): (Vec<&Arrival>, Vec<&Arrival>) =
            arrivals.iter().partition(|arrival| arrival.received_at <= newest_at);
        let mut kept: BTreeSet<SnapshotId> = from_ahead.into_iter().map(|arrival| arrival.id).collect();
        kept.extend(came.iter().max_by_key(|arrival| (arrival.received_at, arrival.id)).map(|newest| newest.id));
        if let Some(age) = self.younger_than {
            let from = newest_at.checked_sub(age).unwrap_or(Timestamp::MIN);
            kept.extend(came.iter().filter(|arrival| arrival.received_at > from).map(|arrival| arrival.id));
        }
        let mut by_writer: BTreeMap<&str, Vec<&Arrival>> = BTreeMap::new();
        for arrival in came {
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
        check_at(NOW.parse().unwrap(), retain, arrivals, stay);
    }

    /// The same of one writer's, by a clock that shows another time: (hours ago, by its own word taken hours ago).
    fn check_taken(now: Timestamp, retain: &RetainReceived, arrivals: &[(i64, i64)], stay: &[usize]) {
        let taken = arrivals.iter().enumerate();
        let taken_at = taken.map(|(number, (_, taken))| (id(number), hours_ago(*taken))).collect();
        let received: Vec<(i64, &str)> = arrivals.iter().map(|(received, _)| (*received, "e1")).collect();
        check_at(now, &RetainReceived { taken_at, ..retain.clone() }, &received, stay);
    }

    fn check_at(now: Timestamp, retain: &RetainReceived, arrivals: &[(i64, &str)], stay: &[usize]) {
        let arrivals: Vec<Arrival> = arrivals
            .iter()
            .enumerate()
            .map(|(number, (hours, writer))| Arrival {
                id: id(number),
                received_at: hours_ago(*hours),
                writer: writer.to_string(),
            })
            .collect();
        let leaving = retain.leaving(&arrivals, now);
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

    fn last(count: u32) -> RetainReceived {
        let policy = Policy { last: Keep::Count(count), ..Policy::default() };
        RetainReceived { policy, ..RetainReceived::default() }
    }

    #[test]
    fn what_came_from_ahead_of_the_clock_stays_and_takes_no_place() {
        check(&last(2), &[(-900, "e1"), (-899, "e1"), (3, "e1"), (2, "e1"), (1, "e1")], &[0, 1, 3, 4]);
        let daily = Policy { daily: Keep::Count(2), ..Policy::default() };
        let daily = RetainReceived { policy: daily, ..RetainReceived::default() };
        check(&daily, &[(-900, "e1"), (-800, "e1"), (60, "e1"), (30, "e1"), (1, "e1")], &[0, 1, 3, 4]);
        // Everything came in a time to come: this clock was put back a long way.
        check(&last(1), &[(-900, "e1"), (-899, "e1"), (-898, "e1")], &[0, 1, 2]);
    }

    #[test]
    fn a_clock_that_jumps_ahead_makes_nothing_old() {
        let in_60_days = hours_ago(-60 * 24);
        // Before anything came by it, and after.
        check_taken(in_60_days, &younger_than(24), &[(20, 20), (10, 10), (0, 0)], &[0, 1, 2]);
        let jumped = [(20, 20), (10, 10), (0, 0), (-60 * 24, 0), (-60 * 24 - 1, -1)];
        check_taken(hours_ago(-60 * 24 - 2), &younger_than(24), &jumped, &[0, 1, 2, 3, 4]);
        check_taken(hours_ago(-60 * 24 - 2), &last(2), &jumped, &[1, 2, 3, 4]);
        // The clock is right again, and what came meanwhile stays.
        let mut right_again = jumped.to_vec();
        right_again.extend([(-3, -3), (-4, -4)]);
        check_taken(hours_ago(-5), &younger_than(24), &right_again, &[1, 2, 3, 4, 5, 6]);
        check_taken(hours_ago(-5), &last(2), &right_again, &[3, 4, 5, 6]);
        // Time has truly passed: the writer says so as well.
        let passed = [(20, 20), (10, 10), (0, 0), (-60 * 24, -60 * 24)];
        check_taken(in_60_days, &younger_than(24), &passed, &[3]);
    }

    #[test]
    fn a_clock_that_was_behind_makes_nothing_old() {
        // Of the last three hours two came by a clock of sixty days before.
        let behind = [(60, 60), (3, 3), (60 * 24 + 2, 2), (60 * 24 + 1, 1), (0, 0)];
        check_taken(NOW.parse().unwrap(), &younger_than(24), &behind, &[1, 2, 3, 4]);
        check_taken(NOW.parse().unwrap(), &last(2), &behind, &[1, 3, 4]);
        // As long as it is behind, nothing goes either.
        check_taken(hours_ago(60 * 24), &younger_than(24), &behind[..4], &[0, 1, 2, 3]);
    }

    #[test]
    fn a_forged_time_keeps_at_most() {
        let now: Timestamp = NOW.parse().unwrap();
        let (past, ahead) = (9000, -9000);
        // One that says it is old makes nothing else young or old, and no place is taken from who came before.
        check_taken(now, &younger_than(24), &[(49, 49), (47, 47), (3, past), (1, 1)], &[2, 3]);
        check_taken(now, &last(2), &[(4, 4), (3, ahead), (2, 2), (1, 1)], &[2, 3]);
        check_taken(now, &younger_than(24), &[(60, 60), (50, 50), (40, 3), (39, 2), (1, 1)], &[2, 3, 4]);
    }
}
