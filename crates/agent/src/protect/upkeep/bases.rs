//! Which base backups of a database stay, and which log with them.
//!
//! Within the window any moment can be restored: the newest base from before it, every base in it, and all log since.
//! Before the window a base that a rule keeps stays with the log between its own start and stop, and can be restored
//! to its own end.
//!
//! The window ends where what has come ends, by this clock and by the source's: a clock that jumps ahead makes nothing
//! old, and while nothing comes nothing goes. It begins no later than with the newest base that was read back whole,
//! unless no later one is for so long that log would fill the disk: then that base stays like one that a rule keeps.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use levee_journal::KeepRange;
use levee_model::postgres::{Lsn, SystemIdentifier, TimelineId};
use levee_model::protection::{KeptFor, Retention};
use levee_vault::SnapshotId;
use levee_vault::forget::{Arrival, RetainReceived};

use super::retention::{leaving, rules};

/// The window may begin so much earlier for a base that was read back whole before it is said: it is for a moment where
/// the next one is being read.
const HELD_UNSAID_MAX: SignedDuration = SignedDuration::from_hours(24);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownBase {
    pub arrival: Arrival,
    /// When it was complete, by the source's clock.
    pub taken_at: Timestamp,
    pub system_identifier: SystemIdentifier,
    pub timeline: TimelineId,
    pub start: Lsn,
    pub stop: Lsn,
    /// The log from its start to its stop is here: without it nothing can be restored from it.
    pub has_log: bool,
    /// It opens with this site's keys, and nothing says that it is damaged.
    pub is_sound: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub struct BasePlan {
    pub leaving: Vec<SnapshotId>,
    /// Log stays for longer than the window, for no base was read back whole that came after this.
    pub unverified_since: Option<Timestamp>,
    /// The base that the window begins with.
    anchor: KnownBase,
    /// Those of the window, the anchor among them.
    in_window: Vec<KnownBase>,
    /// Those that stay for longer.
    before: Vec<KnownBase>,
}

/// What else is known of a database when its bases are judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Up to when its log is here, by the source's clock.
    pub log_until: Option<Timestamp>,
    /// Up to when its writer has offered some, also in vain: on a full disk only what is old makes room.
    pub offered_until: Option<Timestamp>,
    /// The newest base whose data were read back whole. One that was not may be damaged.
    pub verified: Option<SnapshotId>,
    /// Within what time every base is read back: for so much longer than the window the others wait for it.
    pub verify_within: SignedDuration,
}

/// `None` while there is no base that is older than the window: then everything stays.
pub fn plan(
    bases: &[KnownBase],
    keep: &Retention,
    keep_bases: Option<&Retention>,
    known: Known,
    now: Timestamp,
) -> Option<BasePlan> {
    let Some(KeptFor::For(window)) = keep.kept_for() else { return None };
    let window = SignedDuration::try_from(window.duration()).ok()?;
    let came_at = |base: &KnownBase| (base.arrival.came_at(Some(base.taken_at), now), base.arrival.id);
    // Either clock may be wrong: no more time has passed than both say.
    let both_say = bases.iter().map(|base| base.arrival.received_at.min(base.taken_at));
    let window_end = both_say.chain(known.log_until).chain(known.offered_until).max()?.min(now);
    let verified = bases.iter().find(|base| base.is_sound && Some(base.arrival.id) == known.verified);
    let verified_at = verified.map_or(Timestamp::MAX, |base| came_at(base).0);
    let by_rule = window_end.checked_sub(window).ok()?;
    let earliest = by_rule.checked_sub(known.verify_within).unwrap_or(Timestamp::MIN);
    let window_start = by_rule.min(verified_at.max(earliest));
    let newest_until = |moment: Timestamp| {
        let can_begin = |base: &&KnownBase| base.is_sound && base.has_log && came_at(base).0 <= moment;
        bases.iter().filter(can_begin).max_by_key(|base| came_at(base))
    };
    let anchor = newest_until(window_start)?;
    let is_held = by_rule.duration_since(verified_at) > HELD_UNSAID_MAX
        && newest_until(by_rule).is_some_and(|base| base.arrival.id != anchor.arrival.id);
    let (in_window, before): (Vec<KnownBase>, Vec<KnownBase>) =
        bases.iter().cloned().partition(|base| came_at(base) >= came_at(anchor));
    let mut leaving: BTreeSet<SnapshotId> = match keep_bases {
        None => before.iter().map(|base| base.arrival.id).collect(),
        Some(keep) => {
            let arrivals: Vec<Arrival> = bases.iter().map(|base| base.arrival.clone()).collect();
            // One that may be mended must not take a sound one's place.
            let damaged = bases.iter().filter(|base| !base.is_sound).map(|base| base.arrival.id).collect();
            let taken_at = bases.iter().map(|base| (base.arrival.id, base.taken_at)).collect();
            let rules = rules(keep).map(|rules| RetainReceived { taken_at, ..rules });
            let leaving = rules.map(|rules| leaving(&rules, &arrivals, &damaged, now)).unwrap_or_default().into_iter();
            leaving.filter(|id| before.iter().any(|base| base.arrival.id == *id)).collect()
        }
    };
    if let Some(verified) = verified {
        leaving.remove(&verified.arrival.id);
    }
    let before = before.into_iter().filter(|base| !leaving.contains(&base.arrival.id)).collect();
    let unverified_since = is_held.then_some(verified_at);
    let (leaving, anchor) = (leaving.into_iter().collect(), anchor.clone());
    Some(BasePlan { leaving, unverified_since, anchor, in_window, before })
}

impl BasePlan {
    /// From where on a timeline's log stays, and what of it before. `None` when it is not to be touched: what is kept
    /// lies on the anchor's timeline and on later ones, and another cluster's log is not judged.
    pub fn log_to_keep(
        &self,
        system_identifier: SystemIdentifier,
        timeline: TimelineId,
    ) -> Option<(Lsn, Vec<KeepRange>)> {
        if system_identifier != self.anchor.system_identifier || timeline > self.anchor.timeline {
            return None;
        }
        let is_here = |base: &&KnownBase| base.system_identifier == system_identifier && base.timeline == timeline;
        let keep_from = self.in_window.iter().filter(is_here).map(|base| base.start).min().unwrap_or(Lsn(u64::MAX));
        let ranges = self.before.iter().filter(is_here).map(|base| KeepRange { start: base.start, stop: base.stop });
        Some((keep_from, ranges.collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use levee_model::protection::{KeepRules, Period};

    const NOW: &str = "2026-11-26T12:00:00Z";

    fn base(number: u64, days_ago: i64, timeline: u32) -> KnownBase {
        let received_at = NOW.parse::<Timestamp>().unwrap() - SignedDuration::from_hours(days_ago * 24);
        KnownBase {
            arrival: Arrival { id: id(number), received_at, writer: "e1".into() },
            taken_at: received_at,
            system_identifier: SystemIdentifier(7),
            timeline: TimelineId(timeline),
            start: Lsn(number * 1000),
            stop: Lsn(number * 1000 + 10),
            has_log: true,
            is_sound: true,
        }
    }

    fn id(number: u64) -> SnapshotId {
        format!("{number:064x}").parse().unwrap()
    }

    fn week() -> Retention {
        Retention::For(Period::from_seconds(7 * 24 * 3600))
    }

    /// While the log comes without a pause.
    fn plan_now(bases: &[KnownBase], keep_bases: Option<&Retention>) -> Option<BasePlan> {
        let now = NOW.parse().unwrap();
        plan(bases, &week(), keep_bases, Known { log_until: Some(now), ..Known::default() }, now)
    }

    #[test]
    fn the_window_keeps_the_newest_base_before_it() {
        let bases = [base(1, 30, 1), base(2, 9, 1), base(3, 8, 1), base(4, 3, 1)];
        let plan = plan_now(&bases, None).unwrap();
        assert_eq!(plan.leaving, [id(1), id(2)]);
        assert_eq!(plan.log_to_keep(SystemIdentifier(7), TimelineId(1)), Some((Lsn(3000), vec![])));
        assert_eq!(plan.log_to_keep(SystemIdentifier(7), TimelineId(2)), None);
        assert_eq!(plan.log_to_keep(SystemIdentifier(8), TimelineId(1)), None);
        assert_eq!(plan_now(&bases[3..], None), None, "nothing is old enough");
        let for_ever = super::plan(&bases, &Retention::Forever, None, Known::default(), NOW.parse().unwrap());
        assert_eq!(for_ever, None);
    }

    #[test]
    fn a_base_without_its_log_is_no_beginning() {
        let torn = KnownBase { has_log: false, ..base(3, 8, 1) };
        let plan = plan_now(&[base(1, 30, 1), base(2, 9, 1), torn, base(4, 3, 1)], None).unwrap();
        assert_eq!(plan.leaving, [id(1)]);
        assert_eq!(plan.log_to_keep(SystemIdentifier(7), TimelineId(1)), Some((Lsn(2000), vec![])));
    }

    #[test]
    fn a_damaged_base_keeps_its_log_and_takes_no_sound_ones_place() {
        let damaged = |number, days_ago| KnownBase { is_sound: false, ..base(number, days_ago, 1) };
        let range = |number: u64| KeepRange { start: Lsn(number * 1000), stop: Lsn(number * 1000 + 10) };
        let keep = Retention::Rules(KeepRules { monthly: Some(2), ..KeepRules::default() });
        // The newest of October is damaged: the sound one before it is October's, and both stay.
        let plan = plan_now(&[base(1, 31, 1), damaged(2, 30), base(3, 8, 1), base(4, 3, 1)], Some(&keep)).unwrap();
        assert_eq!(plan.leaving, []);
        let (from, ranges) = plan.log_to_keep(SystemIdentifier(7), TimelineId(1)).unwrap();
        assert_eq!((from, ranges), (Lsn(3000), vec![range(1), range(2)]));
        // Nothing is restored from it, so the window does not begin with it.
        let plan = plan_now(&[base(1, 9, 1), damaged(2, 8), base(3, 3, 1)], None).unwrap();
        assert_eq!(plan.leaving, []);
        assert_eq!(plan.log_to_keep(SystemIdentifier(7), TimelineId(1)), Some((Lsn(1000), vec![])));
        assert_eq!(plan_now(&[damaged(1, 9)], None), None);
        // Its own time comes as well.
        let plan = plan_now(&[damaged(1, 90), base(2, 31, 1), base(3, 8, 1), base(4, 3, 1)], Some(&keep)).unwrap();
        assert_eq!(plan.leaving, [id(1)]);
    }

    #[test]
    fn bases_before_the_window_keep_their_own_stretch_of_log() {
        let keep = Retention::Rules(KeepRules { monthly: Some(3), ..KeepRules::default() });
        let bases = [base(1, 70, 1), base(2, 69, 1), base(3, 30, 1), base(4, 8, 2), base(5, 3, 2)];
        let plan = plan_now(&bases, Some(&keep)).unwrap();
        assert_eq!(plan.leaving, [id(1)]);
        let range = |number: u64| KeepRange { start: Lsn(number * 1000), stop: Lsn(number * 1000 + 10) };
        // Timeline 1 is over: nothing of it stays but what its kept bases need.
        let (from, ranges) = plan.log_to_keep(SystemIdentifier(7), TimelineId(1)).unwrap();
        assert_eq!((from, ranges), (Lsn(u64::MAX), vec![range(2), range(3)]));
        assert_eq!(plan.log_to_keep(SystemIdentifier(7), TimelineId(2)), Some((Lsn(4000), vec![])));
        let for_ever = plan_now(&bases, Some(&Retention::Forever)).unwrap();
        assert_eq!(for_ever.leaving, []);
    }

    #[test]
    fn log_of_every_base_in_the_window_stays() {
        // A failover to an earlier point, and a base that came late.
        let plan = plan_now(&[base(1, 30, 1), base(4, 8, 2), base(3, 2, 1)], None).unwrap();
        assert_eq!(plan.log_to_keep(SystemIdentifier(7), TimelineId(1)), Some((Lsn(3000), vec![])));
        assert_eq!(plan.log_to_keep(SystemIdentifier(7), TimelineId(2)), Some((Lsn(4000), vec![])));
    }

    /// Which bases go by a clock that shows `days` more than it should, with log up to so many days ago.
    #[track_caller]
    fn check_days(bases: &[KnownBase], days: i64, log_days_ago: Option<i64>, leaving: &[SnapshotId]) {
        let now: Timestamp = NOW.parse().unwrap();
        let log_until = log_days_ago.map(|days_ago| now - SignedDuration::from_hours(days_ago * 24));
        let by = now + SignedDuration::from_hours(days * 24);
        let plan = plan(bases, &week(), None, Known { log_until, ..Known::default() }, by);
        assert_eq!(plan.map(|plan| plan.leaving).unwrap_or_default(), leaving, "{days} {log_days_ago:?}");
    }

    #[test]
    fn a_clock_that_jumps_ahead_makes_no_base_old() {
        let bases = [base(1, 6, 1), base(2, 3, 1), base(3, 0, 1)];
        for log_days_ago in [None, Some(0), Some(-1)] {
            check_days(&bases, 0, log_days_ago, &[]);
        }
        check_days(&bases, 60, None, &[]);
        check_days(&bases, 60, Some(0), &[]);
        // A base that came by it was taken by another clock.
        let days = |days: i64| SignedDuration::from_hours(days * 24);
        let mut jumped = bases.to_vec();
        jumped.push(KnownBase { taken_at: NOW.parse().unwrap(), ..base(4, -60, 1) });
        check_days(&jumped, 60, Some(0), &[]);
        check_days(&jumped, 0, Some(0), &[]);
        // Time has truly passed, as the log says, or a base that came.
        check_days(&bases, 60, Some(-60), &[id(1), id(2)]);
        check_days(&[&bases[..], &[base(4, -60, 1)][..]].concat(), 60, None, &[id(1), id(2)]);
        // The source's clock alone proves nothing either.
        check_days(&bases, 0, Some(-60), &[]);
        // By a clock that was behind the newest base came long ago, and is the newest for all that.
        let mut behind = vec![base(1, 30, 1), base(2, 8, 1)];
        behind.push(KnownBase { taken_at: NOW.parse::<Timestamp>().unwrap() - days(1), ..base(3, 90, 1) });
        check_days(&behind, 0, Some(0), &[id(1)]);
        check_days(&behind, -90, Some(0), &[]);
    }

    #[test]
    fn nothing_goes_of_a_source_that_is_silent_for_long() {
        check_days(&[base(1, 96, 1), base(2, 93, 1), base(3, 90, 1)], 0, Some(90), &[]);
        check_days(&[base(1, 100, 1), base(2, 98, 1), base(3, 90, 1)], 0, Some(90), &[id(1)]);
    }

    #[test]
    fn the_newest_verified_base_stays_with_its_log_whatever_came_since() {
        let now = NOW.parse().unwrap();
        let plan_with = |bases: &[KnownBase], verified| {
            let verify_within = SignedDuration::from_hours(30 * 24);
            let verified = Some(id(verified));
            plan(bases, &week(), None, Known { log_until: Some(now), verified, verify_within, ..Known::default() }, now)
        };
        let bases = [base(1, 30, 1), base(2, 20, 1), base(3, 9, 1), base(4, 3, 1)];
        let plan = plan_with(&bases, 2).unwrap();
        assert_eq!(plan.leaving, [id(1)]);
        assert_eq!(plan.log_to_keep(SystemIdentifier(7), TimelineId(1)), Some((Lsn(2000), vec![])));
        // One of the window holds nothing up, and neither does one that has gone or is damaged since.
        for verified in [4, 9] {
            assert_eq!(plan_with(&bases, verified).unwrap().leaving, [id(1), id(2)]);
        }
        let mut damaged = bases.clone();
        damaged[1].is_sound = false;
        assert_eq!(plan_with(&damaged, 2).unwrap().leaving, [id(1), id(2)]);
    }

    #[test]
    fn log_does_not_wait_without_end_for_a_base_that_cannot_be_read_back() {
        let now: Timestamp = NOW.parse().unwrap();
        let days_ago = |days: i64| now - SignedDuration::from_hours(days * 24);
        let bases = [base(1, 60, 1), base(2, 40, 1), base(3, 38, 1), base(4, 20, 1), base(5, 7, 1), base(6, 3, 1)];
        let check = |verified: u64, leaving: &[u64], keep_from: u64, unverified_since: Option<i64>| {
            let verify_within = SignedDuration::from_hours(30 * 24);
            let verified = Some(id(verified));
            let known = Known { log_until: Some(now), verified, verify_within, ..Known::default() };
            let plan = plan(&bases, &week(), None, known, now).unwrap();
            assert_eq!(plan.leaving, leaving.iter().map(|number| id(*number)).collect::<Vec<_>>());
            let (from, ranges) = plan.log_to_keep(SystemIdentifier(7), TimelineId(1)).unwrap();
            assert_eq!(from, Lsn(keep_from));
            assert_eq!(plan.unverified_since, unverified_since.map(days_ago));
            ranges
        };
        // The one that was read back stays with its own stretch; the window is 7 and 30 days long.
        assert_eq!(check(1, &[2], 3000, Some(60)), [KeepRange { start: Lsn(1000), stop: Lsn(1010) }]);
        assert_eq!(check(3, &[1, 2], 3000, Some(38)), []);
        assert_eq!(check(4, &[1, 2, 3], 4000, Some(20)), []);
        assert_eq!(check(5, &[1, 2, 3, 4], 5000, None), []);
        assert_eq!(check(6, &[1, 2, 3, 4], 5000, None), []);
    }

    #[test]
    fn what_is_offered_where_there_is_no_room_makes_old_log_go() {
        let now: Timestamp = NOW.parse().unwrap();
        let days_ago = |days: i64| now - SignedDuration::from_hours(days * 24);
        let bases = [base(1, 20, 1), base(2, 14, 1), base(3, 8, 1), base(4, 6, 1)];
        let check = |offered_until: Option<Timestamp>, leaving: &[SnapshotId]| {
            let known = Known { log_until: Some(days_ago(6)), offered_until, ..Known::default() };
            assert_eq!(plan(&bases, &week(), None, known, now).unwrap().leaving, leaving, "{offered_until:?}");
        };
        check(None, &[id(1)]);
        check(Some(days_ago(6)), &[id(1)]);
        check(Some(now), &[id(1), id(2)]);
        check(Some(days_ago(-60)), &[id(1), id(2)]);
    }
}
