//! How long a database's log still stays after no rule keeps it: as long as the base backups before it can be brought back.
//!
//! A base backup that a rule has taken by mistake can be undeleted for `delete_after`, counted from the first prune since. It
//! is worth little without the log behind it, and log that was trimmed comes back from nowhere. So log goes only when no plan
//! that was in force within that time has kept it. Which ones those were stands in `upkeep/log-grace.json`.
//!
//! Where no prune comes, for something is damaged, log does not wait for one without end: it would fill the disk.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use levee_model::AssetName;
use levee_model::control::Failure;
use serde::{Deserialize, Serialize};

use super::super::app::{App, failure};
use super::super::removals::TrimmedLog;
use super::prune::Clearing;
use crate::durable;

/// Plans change as base backups come. Of more than these two are taken as one, which keeps the log of both.
const PLANS_MAX: usize = 64;
/// Without a prune log waits for so many times `delete_after`, and at least for so long.
const UNPRUNED_TIMES: i32 = 7;
const UNPRUNED_MIN: SignedDuration = SignedDuration::from_hours(7 * 24);

/// By database.
type Record = BTreeMap<AssetName, Plans>;

/// The plans of one database by which log may still be needed, the oldest first. The last one is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Plans(Vec<Plan>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Plan {
    /// What would go by it, by timeline; a timeline that is not among these stays whole.
    log: Vec<TrimmedLog>,
    /// When another one took its place.
    #[serde(default)]
    replaced_at: Option<Timestamp>,
    /// When it was first seen that a prune had come since, or that there was nothing to prune.
    #[serde(default)]
    pruned_at: Option<Timestamp>,
}

/// What may go of a database's log now, when so much would go by the plan of now. Noted durably before it returns, so that
/// nothing a plan takes is gone before its time has begun.
pub fn may_go(
    app: &App,
    asset: &AssetName,
    planned: Vec<TrimmedLog>,
    clearing: &Clearing,
    delete_after: SignedDuration,
    now: Timestamp,
) -> Result<Vec<TrimmedLog>, Failure> {
    let path = app.folder.upkeep().join("log-grace.json");
    let known: Record = durable::read_json(&path)
        .map_err(|error| {
            let path = path.display();
            failure(format!("no log of {asset} is trimmed: cannot read {path}: {error}; remove it, and it begins anew"))
        })?
        .unwrap_or_default();
    let mut record = known.clone();
    let plans = record.entry(asset.clone()).or_default();
    plans.turn(planned, clearing, delete_after, now);
    let may_go = plans.may_go();
    if record != known {
        durable::write_json(&path, &record).map_err(|error| {
            failure(format!("no log of {asset} is trimmed: cannot write {}: {error}", path.display()))
        })?;
    }
    Ok(may_go)
}

/// How long log waits for a prune that does not come.
pub fn unpruned_max(delete_after: SignedDuration) -> SignedDuration {
    delete_after.saturating_mul(UNPRUNED_TIMES).max(UNPRUNED_MIN)
}

impl Plans {
    /// Lets plans go whose time is over, and puts this one in force.
    fn turn(&mut self, planned: Vec<TrimmedLog>, clearing: &Clearing, delete_after: SignedDuration, now: Timestamp) {
        for plan in &mut self.0 {
            plan.look_at_the_clock(clearing, now);
        }
        self.0.retain(|plan| match plan.pruned_at {
            Some(at) => now.duration_since(at) < delete_after,
            None => plan.replaced_at.is_none_or(|at| now.duration_since(at) < unpruned_max(delete_after)),
        });
        if self.0.is_empty() {
            // Before the first plan that is known, all log was kept, as far as anybody knows.
            self.0.push(Plan::new(Vec::new()));
        }
        if let Some(last) = self.0.last_mut()
            && last.log != planned
        {
            last.replaced_at = Some(now);
            self.0.push(Plan::new(planned));
        }
        while self.0.len() > PLANS_MAX {
            self.take_two_as_one();
        }
    }

    /// Of those two whose times are the closest. Never the oldest one, nor that in force: put off again and again, the
    /// oldest one's time would never be over.
    fn take_two_as_one(&mut self) {
        let time = |index: usize| self.0[index].replaced_at.unwrap_or(Timestamp::MAX);
        let gap_without = |index: &usize| time(index + 1).duration_since(time(index - 1));
        let Some(index) = (1..self.0.len() - 2).min_by_key(gap_without) else { return };
        let earlier = self.0.remove(index);
        self.0[index].log = of_both(&earlier.log, &self.0[index].log);
    }

    /// What goes by every plan.
    fn may_go(&self) -> Vec<TrimmedLog> {
        let mut plans = self.0.iter().map(|plan| &plan.log);
        let first = plans.next().cloned().unwrap_or_default();
        plans.fold(first, |log, next| of_both(&log, next))
    }
}

impl Plan {
    fn new(log: Vec<TrimmedLog>) -> Self {
        Self { log, replaced_at: None, pruned_at: None }
    }

    fn look_at_the_clock(&mut self, clearing: &Clearing, now: Timestamp) {
        // A clock that was ahead and is right again must not keep all log until then.
        self.replaced_at = self.replaced_at.map(|at| at.min(now));
        self.pruned_at = self.pruned_at.map(|at| at.min(now));
        let Some(replaced_at) = self.replaced_at else { return };
        let has_pruned = clearing.pruned_at.is_some_and(|at| (replaced_at..=now).contains(&at));
        if self.pruned_at.is_none() && (has_pruned || !clearing.unpruned) {
            self.pruned_at = Some(now);
        }
    }
}

/// What goes by both of these, timeline by timeline.
fn of_both(one: &[TrimmedLog], two: &[TrimmedLog]) -> Vec<TrimmedLog> {
    let together = |log: &TrimmedLog| {
        let is_same =
            |other: &&TrimmedLog| (other.system_identifier, other.timeline) == (log.system_identifier, log.timeline);
        let other = two.iter().find(is_same)?;
        let mut keep = [log.keep.clone(), other.keep.clone()].concat();
        keep.sort();
        keep.dedup();
        Some(TrimmedLog { keep_from: log.keep_from.min(other.keep_from), keep, ..log.clone() })
    };
    one.iter().filter_map(together).collect()
}

#[cfg(test)]
mod tests {
    use levee_model::postgres::{Lsn, SystemIdentifier, TimelineId};

    use super::*;

    const DAY: SignedDuration = SignedDuration::from_hours(24);

    fn at(hour: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + hour * 3600).unwrap()
    }

    fn log(timeline: u32, keep_from: u64) -> TrimmedLog {
        let (system_identifier, timeline) = (SystemIdentifier(7), TimelineId(timeline));
        TrimmedLog { system_identifier, timeline, keep_from: Lsn(keep_from), keep: vec![] }
    }

    /// Plans by which log is kept from this position on, for long.
    fn settled(keep_from: u64) -> Plans {
        Plans(vec![Plan::new(vec![log(1, keep_from)])])
    }

    fn pruned(hour: i64, unpruned: bool) -> Clearing {
        Clearing { pruned_at: Some(at(hour)), unpruned, waiting_until: None }
    }

    /// From where log stays at an hour, when the plan of now would keep it from a position on.
    fn keep_from(plans: &mut Plans, planned: u64, clearing: &Clearing, hour: i64) -> Option<u64> {
        plans.turn(vec![log(1, planned)], clearing, DAY, at(hour));
        plans.may_go().first().map(|log| log.keep_from.0)
    }

    #[test]
    fn a_rule_that_is_mended_in_time_has_taken_no_log() {
        let mut plans = settled(1000);
        let unpruned = pruned(-5, true);
        assert_eq!(keep_from(&mut plans, 5000, &unpruned, 0), Some(1000));
        assert_eq!(keep_from(&mut plans, 5000, &unpruned, 20), Some(1000));
        for hour in 21..200 {
            assert_eq!(keep_from(&mut plans, 1000, &pruned(20, false), hour), Some(1000), "{hour}");
        }
        assert_eq!(plans, settled(1000));
    }

    #[test]
    fn log_goes_when_the_bases_before_it_can_be_brought_back_no_more() {
        let mut plans = settled(1000);
        assert_eq!(keep_from(&mut plans, 5000, &pruned(-5, false), 0), Some(1000));
        // As long as no prune has come, nothing of the base goes either.
        for hour in [1, 30, 90] {
            assert_eq!(keep_from(&mut plans, 5000, &pruned(-5, true), hour), Some(1000), "{hour}");
        }
        for hour in [100, 110, 123] {
            assert_eq!(keep_from(&mut plans, 5000, &pruned(99, false), hour), Some(1000), "{hour}");
        }
        assert_eq!(keep_from(&mut plans, 5000, &pruned(99, false), 124), Some(5000));
        // Nothing was to be pruned.
        let mut plans = settled(1000);
        let nothing = pruned(-5, false);
        let gone = [0, 1, 24, 25].map(|hour| keep_from(&mut plans, 5000, &nothing, hour));
        assert_eq!(gone, [Some(1000), Some(1000), Some(1000), Some(5000)]);
    }

    #[test]
    fn each_plan_has_a_time_of_its_own() {
        let (mut plans, nothing) = (settled(0), pruned(-5, false));
        for hour in 1..200 {
            // A base an hour, each seen gone an hour later.
            let kept = keep_from(&mut plans, hour as u64, &nothing, hour).unwrap();
            assert_eq!(kept, (hour - 25).max(0) as u64, "{hour}");
        }
        assert!(plans.0.len() <= 27, "{}", plans.0.len());
    }

    #[test]
    fn what_is_not_known_is_kept() {
        // The first plan that there is, as after an update.
        let (mut plans, nothing) = (Plans::default(), pruned(-5, false));
        let kept = [0, 1, 24, 25].map(|hour| keep_from(&mut plans, 5000, &nothing, hour));
        assert_eq!(kept, [None, None, None, Some(5000)]);
        // Another timeline, of which the last plan knew nothing.
        plans.turn(vec![log(1, 5000), log(2, 100)], &nothing, DAY, at(26));
        assert_eq!(plans.may_go(), [log(1, 5000)]);
        plans.turn(vec![log(1, 5000), log(2, 100)], &nothing, DAY, at(27));
        plans.turn(vec![log(1, 5000), log(2, 100)], &nothing, DAY, at(51));
        assert_eq!(plans.may_go(), [log(1, 5000), log(2, 100)]);
        // While nothing is to go, nothing goes.
        plans.turn(vec![], &nothing, DAY, at(52));
        assert_eq!(plans.may_go(), []);
    }

    #[test]
    fn log_does_not_wait_without_end_for_a_prune_that_never_comes() {
        let (mut plans, unpruned) = (settled(1000), pruned(-5, true));
        let kept = [0, 1, 167, 168].map(|hour| keep_from(&mut plans, 5000, &unpruned, hour));
        assert_eq!(kept, [Some(1000), Some(1000), Some(1000), Some(5000)]);
        // However often the plan changes.
        let mut plans = settled(0);
        for hour in 1..1000 {
            let kept = keep_from(&mut plans, hour as u64, &unpruned, hour).unwrap() as i64;
            let over = (hour - 168).max(0);
            assert!((over - 8..=over).contains(&kept), "{kept} at {hour}");
        }
        assert_eq!(unpruned_max(DAY * 2), DAY * 14);
        assert_eq!(unpruned_max(SignedDuration::MAX), SignedDuration::MAX);
    }

    #[test]
    fn kept_stretches_of_all_plans_stay() {
        let stretch = |from: u64| (Lsn(from), Lsn(from + 10));
        let with = |keep: Vec<(Lsn, Lsn)>| vec![TrimmedLog { keep, ..log(1, 5000) }];
        let mut plans = Plans(vec![Plan::new(with(vec![stretch(1), stretch(3)]))]);
        plans.turn(with(vec![stretch(2), stretch(3)]), &pruned(-5, false), DAY, at(0));
        assert_eq!(plans.may_go(), with(vec![stretch(1), stretch(2), stretch(3)]));
    }

    #[test]
    fn a_clock_that_was_ahead_holds_no_log_for_longer() {
        let (mut plans, nothing) = (settled(1000), pruned(-5, false));
        assert_eq!(keep_from(&mut plans, 5000, &nothing, 10_000), Some(1000));
        let kept = [0, 24].map(|hour| keep_from(&mut plans, 5000, &nothing, hour));
        assert_eq!(kept, [Some(1000), Some(5000)]);
    }

    #[test]
    fn plans_are_bounded_and_none_is_forgotten() {
        let (mut plans, unpruned) = (settled(0), pruned(-5, true));
        for number in 1..160 {
            assert_eq!(keep_from(&mut plans, number, &unpruned, number as i64), Some(0));
        }
        assert_eq!(plans.0.len(), PLANS_MAX);
        assert_eq!(keep_from(&mut plans, 160, &pruned(160, false), 160), Some(0));
        let kept = keep_from(&mut plans, 160, &pruned(160, false), 185).unwrap();
        assert!((150..160).contains(&kept), "{kept}");
        let written = serde_json::to_string(&plans).unwrap();
        assert_eq!(serde_json::from_str::<Plans>(&written).unwrap(), plans);
    }
}
