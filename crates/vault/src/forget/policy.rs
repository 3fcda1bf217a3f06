//! Which snapshots of a group are kept: restic's rules.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::Offset;

use super::Span;
use crate::Snapshot;
use crate::selection::has_tags;

/// How many of a kind are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    #[default]
    None,
    Count(u32),
    All,
}

impl Keep {
    fn is_left(self) -> bool {
        !matches!(self, Keep::None | Keep::Count(0))
    }

    fn spend(&mut self) {
        if let Keep::Count(count) = self {
            *count = count.saturating_sub(1);
        }
    }
}

/// What is to be kept. A snapshot stays when any of these keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    pub last: Keep,
    pub hourly: Keep,
    pub daily: Keep,
    pub weekly: Keep,
    pub monthly: Keep,
    pub yearly: Keep,
    /// All that are younger than this, counted back from the newest.
    pub within: Span,
    pub within_hourly: Span,
    pub within_daily: Span,
    pub within_weekly: Span,
    pub within_monthly: Span,
    pub within_yearly: Span,
    /// All with the tags of one of these lists.
    pub tag_lists: Vec<Vec<String>>,
}

/// Why a snapshot is kept, in restic's words.
pub type KeepReasons = Vec<String>;

/// A snapshot with its time as its writer's clock showed it.
pub(super) struct Dated<'a> {
    pub time: Timestamp,
    pub offset: Offset,
    /// What the tags are asked of; `None` where they count nothing.
    pub snapshot: Option<&'a Snapshot>,
}

impl<'a> Dated<'a> {
    pub fn of(snapshot: &'a Snapshot) -> Self {
        Self { time: snapshot.time, offset: snapshot.offset, snapshot: Some(snapshot) }
    }
}

/// Into what time is cut.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// Every snapshot is one of its own.
    Each,
    Hour,
    Day,
    Week,
    Month,
    Year,
}

impl Unit {
    /// Two snapshots with the same number lie in the same piece of time.
    fn number(self, snapshot: &Dated<'_>, position: usize) -> i64 {
        let local = snapshot.offset.to_datetime(snapshot.time);
        let date: Date = local.date();
        let day = (i64::from(date.year()) * 100 + i64::from(date.month())) * 100 + i64::from(date.day());
        match self {
            Unit::Each => position as i64,
            Unit::Hour => day * 100 + i64::from(local.hour()),
            Unit::Day => day,
            Unit::Week => {
                let week = date.iso_week_date();
                i64::from(week.year()) * 100 + i64::from(week.week())
            }
            Unit::Month => day / 100,
            Unit::Year => i64::from(date.year()),
        }
    }
}

struct Bucket {
    name: &'static str,
    unit: Unit,
    left: Keep,
    /// Only what is younger than this; zero for no such rule.
    within: Span,
    last: Option<i64>,
}

impl Policy {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// For each snapshot of a group, newest first, why it is kept, or `None` when it goes.
    pub(super) fn apply(&self, snapshots: &[Dated<'_>], now: Timestamp) -> Vec<Option<KeepReasons>> {
        let counted = |name, unit, left| Bucket { name, unit, left, within: Span::default(), last: None };
        let mut counts = [
            counted("last", Unit::Each, self.last),
            counted("hourly", Unit::Hour, self.hourly),
            counted("daily", Unit::Day, self.daily),
            counted("weekly", Unit::Week, self.weekly),
            counted("monthly", Unit::Month, self.monthly),
            counted("yearly", Unit::Year, self.yearly),
        ];
        let spanned = |name, unit, within| Bucket { name, unit, left: Keep::All, within, last: None };
        let mut spans = [
            spanned("hourly", Unit::Hour, self.within_hourly),
            spanned("daily", Unit::Day, self.within_daily),
            spanned("weekly", Unit::Week, self.within_weekly),
            spanned("monthly", Unit::Month, self.within_monthly),
            spanned("yearly", Unit::Year, self.within_yearly),
        ];
        // What claims to be of the future says nothing about the newest.
        let newest = snapshots.iter().filter(|snapshot| snapshot.time < now).max_by_key(|snapshot| snapshot.time);
        let is_within = |snapshot: &Dated<'_>, span: Span| match newest {
            Some(newest) => snapshot.time > span.before(newest.time, newest.offset),
            None => true,
        };
        let mut verdicts = Vec::with_capacity(snapshots.len());
        for (position, snapshot) in snapshots.iter().enumerate() {
            let mut matches = Vec::new();
            for tags in self.tag_lists.iter().filter(|tags| snapshot.snapshot.is_some_and(|it| has_tags(it, tags))) {
                matches.push(format!("has tags [{}]", tags.join(", ")));
            }
            if !self.within.is_zero() && is_within(snapshot, self.within) {
                matches.push(format!("within {}", self.within));
            }
            for bucket in counts.iter_mut().filter(|bucket| bucket.left.is_left()) {
                let number = bucket.unit.number(snapshot, position);
                let is_new = bucket.last != Some(number);
                // The oldest stays while there are counts left, so that history reaches back as far as it can.
                if is_new || position + 1 == snapshots.len() {
                    bucket.last = Some(number);
                    bucket.left.spend();
                    let oldest = if is_new { "" } else { "oldest " };
                    matches.push(format!("{oldest}{} snapshot", bucket.name));
                }
            }
            for bucket in spans.iter_mut().filter(|bucket| !bucket.within.is_zero()) {
                let number = bucket.unit.number(snapshot, position);
                let is_new = bucket.last != Some(number);
                if is_within(snapshot, bucket.within) && (is_new || position + 1 == snapshots.len()) {
                    bucket.last = Some(number);
                    let oldest = if is_new { "" } else { "oldest " };
                    matches.push(format!("{oldest}{} within {}", bucket.name, bucket.within));
                }
            }
            verdicts.push((!matches.is_empty()).then_some(matches));
        }
        verdicts
    }
}
