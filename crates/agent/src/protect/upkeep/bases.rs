//! Which base backups of a database stay, and which log with them.
//!
//! Within the window any moment can be restored: the newest base from before it, every base in it, and all log since.
//! Before the window a base that a rule keeps stays with the log between its own start and stop, and can be restored
//! to its own end.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use levee_journal::KeepRange;
use levee_model::postgres::{Lsn, SystemIdentifier, TimelineId};
use levee_model::protection::{KeptFor, Retention};
use levee_vault::SnapshotId;
use levee_vault::forget::Arrival;

use super::retention::rules;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownBase {
    pub arrival: Arrival,
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
    /// The base that the window begins with.
    anchor: KnownBase,
    /// Those of the window, the anchor among them.
    in_window: Vec<KnownBase>,
    /// Those that stay for longer.
    before: Vec<KnownBase>,
}

/// `None` while there is no base that is older than the window: then everything stays.
pub fn plan(bases: &[KnownBase], keep: &Retention, keep_bases: Option<&Retention>, now: Timestamp) -> Option<BasePlan> {
    let Some(KeptFor::For(window)) = keep.kept_for() else { return None };
    let window = SignedDuration::try_from(window.duration()).ok()?;
    let window_start = now.checked_sub(window).ok()?;
    let received_at = |base: &KnownBase| (base.arrival.received_at, base.arrival.id);
    let anchor = bases
        .iter()
        .filter(|base| base.is_sound && base.has_log && base.arrival.received_at <= window_start)
        .max_by_key(|base| received_at(base))?;
    let (in_window, before): (Vec<KnownBase>, Vec<KnownBase>) =
        bases.iter().cloned().partition(|base| received_at(base) >= received_at(anchor));
    let leaving: BTreeSet<SnapshotId> = match keep_bases {
        None => before.iter().map(|base| base.arrival.id).collect(),
        Some(keep) => {
            // One that may be mended must not take a sound one's place, and goes when its own time has come.
            let leaving_of = |is_counted: &dyn Fn(&KnownBase) -> bool| {
                let counted = bases.iter().filter(|base| is_counted(base)).map(|base| base.arrival.clone());
                let arrivals: Vec<Arrival> = counted.collect();
                rules(keep).map(|rules| rules.leaving(&arrivals, now)).unwrap_or_default()
            };
            let of_sound = leaving_of(&|base| base.is_sound).into_iter();
            let is_damaged = |id: &SnapshotId| bases.iter().any(|base| base.arrival.id == *id && !base.is_sound);
            let of_damaged = leaving_of(&|_| true).into_iter().filter(is_damaged);
            let leaving = of_sound.chain(of_damaged);
            leaving.filter(|id| before.iter().any(|base| base.arrival.id == *id)).collect()
        }
    };
    let before = before.into_iter().filter(|base| !leaving.contains(&base.arrival.id)).collect();
    Some(BasePlan { leaving: leaving.into_iter().collect(), anchor: anchor.clone(), in_window, before })
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

    fn plan_now(bases: &[KnownBase], keep_bases: Option<&Retention>) -> Option<BasePlan> {
        plan(bases, &week(), keep_bases, NOW.parse().unwrap())
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
        let for_ever = super::plan(&bases, &Retention::Forever, None, NOW.parse().unwrap());
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
}
