//! A warning when what arrives of a folder looks like ransomware at work.
//!
//! ```text
//! reference ── candidate ── … ── newest     the newest is compared with the reference; when an hour lies between it
//!                                           and the candidate, the candidate becomes the reference
//! ```
//! Both are kept for this, whatever retention says. While a warning stands the reference stays where it is, and nothing
//! that was kept before the newest goes: the last good copies are among them.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use levee_model::AssetName;
use levee_model::control::Failure;
use levee_vault::SnapshotId;
use levee_vault::forget::Arrival;
use levee_vault::suspicion::{Changes, Sign, Usual, judge};
use serde::{Deserialize, Serialize};

use super::super::app::{App, failure, in_full};

/// What happened within this time is looked at together: who encrypts a folder takes a while.
const LOOK_BACK: SignedDuration = SignedDuration::from_hours(1);

/// What is remembered of each folder.
pub type Alarms = BTreeMap<AssetName, Alarm>;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Alarm {
    reference: Option<Seen>,
    candidate: Option<Seen>,
    /// The newest that was looked at.
    looked_at: Option<Seen>,
    /// The newest by a clock that was put back to before the one that was looked at. What came no later was there before
    /// that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    put_back_to: Option<Seen>,
    usual: Usual,
    pub warning: Option<Warning>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    snapshot: String,
    received_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// When the copy was received that it was seen in first.
    pub since: Timestamp,
    pub signs: Vec<Sign>,
}

impl Seen {
    fn of(arrival: &Arrival) -> Self {
        Self { snapshot: arrival.id.to_string(), received_at: arrival.received_at }
    }
}

impl Alarm {
    /// Snapshots that are needed to tell what is usual.
    pub fn needs(&self, id: &SnapshotId) -> bool {
        let id = id.to_string();
        [&self.reference, &self.candidate].into_iter().flatten().any(|seen| seen.snapshot == id)
    }

    /// Moments as of which copies are kept as well as now: while the warning stands, of before it and of its beginning.
    pub fn hold(&self) -> Vec<Timestamp> {
        let (Some(warning), Some(reference)) = (&self.warning, &self.reference) else { return Vec::new() };
        let just_after = reference.received_at.checked_add(SignedDuration::from_nanos(1)).unwrap_or(Timestamp::MAX);
        vec![just_after, warning.since]
    }

    /// An operator has looked at it: what is there now is what the next ones are held against. Against the copies from
    /// before, which go only after this, it would warn again.
    pub fn acknowledge(&mut self, at: Timestamp) {
        if self.warning.as_ref().is_some_and(|warning| warning.since <= at) {
            tracing::info!("a warning was acknowledged");
            (self.reference, self.candidate) = (self.looked_at.clone(), self.looked_at.clone());
            self.warning = None;
        }
    }

    pub fn text(&self) -> Option<String> {
        let warning = self.warning.as_ref()?;
        let signs: Vec<String> = warning.signs.iter().map(Sign::to_string).collect();
        let last_good = self.reference.as_ref().map(|seen| {
            let (id, at) = (seen.snapshot.get(..8).unwrap_or(&seen.snapshot), seen.received_at);
            format!("; the last good copy is {id}, received {}", at.strftime("%Y-%m-%d %H:%M:%SZ"))
        });
        Some(format!(
            "this looks like RANSOMWARE at work since {}: {}{}. No copy from before goes while this stands. If it is your \
             own work: `levee app acknowledge APP ASSET`",
            warning.since.strftime("%Y-%m-%d %H:%M:%SZ"),
            signs.join("; "),
            last_good.unwrap_or_default()
        ))
    }

    /// Looks at the newest copy of a folder. `arrivals` are all of it, the oldest first; `compare` gathers what has
    /// changed between two of them. Says whether anything was looked at.
    ///
    /// What came by a clock that was ahead is not the newest: it would hide all that comes until then.
    pub fn look(
        &mut self,
        arrivals: &[Arrival],
        now: Timestamp,
        compare: impl FnOnce(&SnapshotId, &SnapshotId) -> Result<Changes, Failure>,
    ) -> Result<bool, Failure> {
        let newest = arrivals.iter().rfind(|arrival| arrival.received_at <= now);
        let (Some(oldest), Some(newest)) = (arrivals.first(), newest) else { return Ok(false) };
        if self.looked_at == Some(Seen::of(newest)) {
            return Ok(false);
        }
        if self.is_put_back(arrivals, newest) {
            self.put_back_to.get_or_insert_with(|| Seen::of(newest));
            return Ok(false);
        }
        let find = |seen: &Option<Seen>| {
            let seen = seen.as_ref()?;
            arrivals.iter().find(|arrival| arrival.id.to_string() == seen.snapshot)
        };
        // One that was removed by hand is replaced by the oldest that is left.
        let reference = find(&self.reference).unwrap_or(oldest);
        let changes = compare(&reference.id, &newest.id)?;
        let signs = judge(&changes, &self.usual);
        self.reference = Some(Seen::of(reference));
        self.looked_at = Some(Seen::of(newest));
        self.put_back_to = None;
        if !signs.is_empty() {
            let since = self.warning.as_ref().map_or(newest.received_at, |warning| warning.since);
            self.warning = Some(Warning { since, signs });
            return Ok(true);
        }
        self.warning = None;
        let candidate = find(&self.candidate).unwrap_or(reference);
        // No hour is ever over since one from ahead of the clock.
        let is_from_ahead = candidate.received_at > now;
        if is_from_ahead || newest.received_at.duration_since(candidate.received_at) >= LOOK_BACK {
            if reference.id != newest.id {
                self.usual.add(&changes);
            }
            self.reference = Some(Seen::of(candidate));
            self.candidate = Some(Seen::of(newest));
        } else {
            self.candidate = Some(Seen::of(candidate));
        }
        Ok(true)
    }

    /// Whether the clock was put back, so that a copy from before the one that is warned of seems to be the newest: it says
    /// nothing against the warning. One that has come since then may.
    fn is_put_back(&self, arrivals: &[Arrival], newest: &Arrival) -> bool {
        let Some(looked_at) = self.looked_at.as_ref().filter(|_| self.warning.is_some()) else { return false };
        let is_there = arrivals.iter().any(|arrival| arrival.id.to_string() == looked_at.snapshot);
        let until = self.put_back_to.as_ref().map_or(Timestamp::MAX, |seen| seen.received_at);
        is_there && newest.received_at < looked_at.received_at && newest.received_at <= until
    }
}

/// What has changed between two snapshots, as this site has stored them.
pub fn compare(app: &App, before: &SnapshotId, after: &SnapshotId) -> Result<Changes, Failure> {
    app.copies
        .vault()?
        // Counted here: what the summary says of it is the writer's word.
        .changes(before, after, None)
        .map_err(|error| failure(format!("cannot compare two copies: {}", in_full(&error))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(number: u8, minute: i64) -> Arrival {
        let id = format!("{number:02x}").repeat(32).parse().unwrap();
        let received_at = Timestamp::from_second(1_800_000_000 + minute * 60).unwrap();
        Arrival { id, received_at, writer: "e1".into() }
    }

    /// Each arrival is a minute and the number of files that hold noise then; the copies that each was held against,
    /// and whether a warning stood after it.
    fn check(days: &[(i64, u64)], expected: &[(u8, bool)]) -> Alarm {
        let mut alarm = Alarm::default();
        let mut arrivals = Vec::new();
        for (number, ((minute, scrambled), (against, warns))) in days.iter().zip(expected).enumerate() {
            arrivals.push(arrival(number as u8, *minute));
            let noise_of = |id: &SnapshotId| days[usize::from(u8::from_str_radix(&id.to_string()[..2], 16).unwrap())].1;
            let mut held_against = None;
            let now = arrivals[number].received_at;
            let looked = alarm.look(&arrivals, now, |before, after| {
                held_against = Some(u8::from_str_radix(&before.to_string()[..2], 16).unwrap());
                let files_scrambled = noise_of(after).saturating_sub(noise_of(before));
                Ok(Changes { files_before: 100, files_changed: files_scrambled, files_scrambled, ..Changes::default() })
            });
            assert!(looked.unwrap() && *scrambled <= 100);
            assert_eq!((held_against, alarm.warning.is_some()), (Some(*against), *warns), "copy {number}");
        }
        alarm
    }

    #[test]
    fn a_slow_attack_is_held_against_what_was_there_an_hour_ago() {
        let days = [(0, 0), (30, 0), (60, 0), (90, 5), (110, 10), (115, 15), (118, 20)];
        let alarm = check(&days, &[(0, false), (0, false), (0, false), (0, false), (0, false), (0, false), (0, true)]);
        assert!(alarm.needs(&arrival(0, 0).id) && alarm.needs(&arrival(2, 60).id));
        let text = alarm.text().unwrap();
        assert!(text.contains("20 of 100 files") && text.contains("00000000"), "{text}");
        assert_eq!(alarm.hold().len(), 2);
    }

    #[test]
    fn the_reference_moves_on_as_long_as_all_is_well() {
        let days = [(0, 0), (60, 0), (120, 0), (180, 0)];
        let alarm = check(&days, &[(0, false), (0, false), (0, false), (1, false)]);
        assert_eq!(alarm.hold(), []);
    }

    #[test]
    fn it_ends_when_all_is_as_it_was_or_when_it_was_acknowledged() {
        let alarm = check(&[(0, 0), (1, 50), (500, 60), (501, 0)], &[(0, false), (0, true), (0, true), (0, false)]);
        assert_eq!(alarm.text(), None);
        let mut alarm = check(&[(0, 0), (1, 50)], &[(0, false), (0, true)]);
        alarm.acknowledge(arrival(0, 0).received_at);
        assert!(alarm.warning.is_some(), "it was another one that was acknowledged");
        alarm.acknowledge(arrival(1, 1).received_at);
        assert!(alarm.warning.is_none() && alarm.hold().is_empty());
        // The copies from before are still there, and nothing is held against them any more.
        let arrivals = [arrival(0, 0), arrival(1, 1), arrival(2, 2)];
        let looked = alarm.look(&arrivals, arrivals[2].received_at, |before, _| {
            assert_eq!(*before, arrivals[1].id);
            Ok(Changes { files_before: 100, ..Changes::default() })
        });
        assert!(looked.unwrap() && alarm.warning.is_none());
    }

    #[test]
    fn a_clock_that_is_put_back_takes_no_warning_away_and_what_comes_since_may() {
        let mut alarm = check(&[(0, 0), (30, 0), (100, 50)], &[(0, false), (0, false), (0, true)]);
        let warned = alarm.clone();
        let mut arrivals = vec![arrival(0, 0), arrival(1, 30), arrival(2, 100)];
        for minute in [90, 20, 90, 100] {
            let now = arrival(9, minute).received_at;
            let looked = alarm.look(&arrivals, now, |_, after| panic!("{after} is no news at {minute}"));
            assert!(!looked.unwrap());
            assert_eq!((&alarm.warning, alarm.hold()), (&warned.warning, warned.hold()), "{minute}");
        }
        arrivals.insert(2, arrival(3, 95));
        let looked = alarm.look(&arrivals, arrival(9, 95).received_at, |before, after| {
            assert_eq!((*before, *after), (arrival(0, 0).id, arrival(3, 95).id));
            Ok(Changes { files_before: 100, ..Changes::default() })
        });
        assert!(looked.unwrap() && alarm.warning.is_none());
    }

    #[test]
    fn what_came_by_a_clock_that_was_ahead_hides_nothing() {
        // Two by the true clock, two by one that is sixty days ahead, and what came since it is right again.
        const DAYS_60: i64 = 60 * 24 * 60;
        let mut alarm = check(
            &[(0, 0), (90, 0), (DAYS_60, 0), (DAYS_60 + 90, 0)],
            &[(0, false), (0, false), (0, false), (1, false)],
        );
        let from_ahead = [arrival(2, DAYS_60), arrival(3, DAYS_60 + 90)];
        let mut came = vec![arrival(0, 0), arrival(1, 90)];
        let mut look = |number: u8, minute: i64, scrambled: u64| {
            came.push(arrival(number, minute));
            let arrivals: Vec<Arrival> = came.iter().chain(&from_ahead).cloned().collect();
            let mut held_against = None;
            let looked = alarm.look(&arrivals, arrival(number, minute).received_at, |before, after| {
                assert_eq!(*after, arrival(number, minute).id);
                held_against = Some(*before);
                Ok(Changes {
                    files_before: 100,
                    files_changed: scrambled,
                    files_scrambled: scrambled,
                    ..Changes::default()
                })
            });
            assert!(looked.unwrap());
            (held_against.unwrap(), alarm.warning.is_some())
        };
        assert_eq!(look(4, 200, 0), (arrival(2, 0).id, false));
        assert_eq!(look(5, 300, 0), (arrival(3, 0).id, false), "one from ahead gives way to the next");
        assert_eq!(look(6, 400, 50), (arrival(4, 0).id, true));
    }
}
