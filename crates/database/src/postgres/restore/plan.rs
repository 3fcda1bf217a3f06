//! What a restore will do: which base, which log, and where to stop. Everything that can be wrong with a
//! target is found here, before anything is written.

use std::fmt;

use jiff::Timestamp;
use levee_journal::{LogJournal, Mark, MarkKind, TimeLookup};
use levee_model::postgres::{Lsn, SystemIdentifier, TimelineId};

use super::timelines::{self, Leg};
use crate::postgres::base::BaseBackup;
use crate::postgres::marks::Log;
use crate::{Error, Result};

/// The moment to restore to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecoveryTarget {
    /// Everything that is durable.
    Newest,
    /// Everything that was committed up to this moment on the source's clock.
    Time(Timestamp),
    /// Everything before this position.
    Lsn(Lsn),
    /// Up to the commit of a transaction, with it or just before it.
    Xid { xid: u32, inclusive: bool },
    /// A point made by `pg_create_restore_point`.
    Name(String),
}

impl fmt::Display for RecoveryTarget {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecoveryTarget::Newest => formatter.write_str("the newest point"),
            RecoveryTarget::Time(time) => write!(formatter, "the time {time}"),
            RecoveryTarget::Lsn(lsn) => write!(formatter, "the position {lsn}"),
            RecoveryTarget::Xid { xid, .. } => write!(formatter, "transaction {xid}"),
            RecoveryTarget::Name(name) => write!(formatter, "the restore point {name:?}"),
        }
    }
}

/// Where recovery is told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// At the end of the log.
    End,
    /// Before the first record that begins at this position or behind it. There is one.
    Before(Lsn),
    /// Before the commit of this transaction.
    BeforeXid(u32),
}

/// A restore that can be carried out.
#[derive(Clone, Debug)]
pub struct RestorePlan {
    pub base: BaseBackup,
    pub system_identifier: SystemIdentifier,
    /// The timeline on which recovery ends; a promotion begins a newer one.
    pub timeline: TimelineId,
    /// The log that is replayed, timeline by timeline. The last leg ends where the log does.
    pub legs: Vec<Leg>,
    pub stop: Stop,
    /// Where the log will have been replayed up to.
    pub end: Lsn,
    /// The moment on the source's clock that the restored state is of, as far as it is known.
    pub as_of: Option<Timestamp>,
    /// How much log is replayed.
    pub replay_bytes: u64,
}

/// Finds the base and the log for a target. `bases` are those that may be used; `timeline` is that of
/// the target, the newest in the journal when it is not given.
///
/// # Errors
/// `NoBase`, `OtherLineage`, `UnknownTimeline`, `LogMissing`, `BeforeFirst`, `AfterLast`, `UnknownTarget`,
/// `AmbiguousTarget`.
pub fn plan(
    journal: &LogJournal,
    bases: &[BaseBackup],
    target: &RecoveryTarget,
    timeline: Option<TimelineId>,
) -> Result<RestorePlan> {
    let newest = bases.last().ok_or(Error::NoBase)?;
    let system_identifier = newest.facts.system_identifier;
    check_lineage(journal, system_identifier)?;
    let timeline = timelines::target_timeline(journal, system_identifier, timeline)?;

    // Bases with all the log that they need, the newest first.
    let mut usable = Vec::new();
    let mut why_not = None;
    for base in bases.iter().rev().filter(|base| base.facts.system_identifier == system_identifier) {
        match Route::of(journal, base, timeline) {
            Ok(route) => usable.push(route),
            Err(error) => why_not = why_not.or(Some(error)),
        }
    }
    // Routes that end at the same place lie on one unbroken stretch of log; a gap begins another. The newest first.
    let mut first_error = None;
    for stretch in usable.chunk_by(|newer, older| newer.end() == older.end()) {
        match on_stretch(stretch, target) {
            Err(error @ (Error::UnknownTarget { .. } | Error::BeforeFirst { .. })) => {
                first_error = first_error.or(Some(error));
            }
            result => return result.map_err(|error| first_error.unwrap_or(error)),
        }
    }
    Err(first_error.or(why_not).unwrap_or(Error::NoBase))
}

/// The newest base on one stretch of log from which the target can be reached. `routes` are the newest first.
fn on_stretch(routes: &[Route<'_>], target: &RecoveryTarget) -> Result<RestorePlan> {
    let oldest = routes.last().ok_or(Error::NoBase)?;
    let found = oldest.find(target)?;
    let reaches = |route: &&Route<'_>| {
        let in_time = found.not_before.is_none_or(|moment| route.base.facts.ended_at <= moment);
        route.consistent_before(found.timeline, found.end) && in_time
    };
    let route = routes.iter().find(reaches).ok_or_else(|| Error::BeforeFirst {
        target: target.to_string(),
        first_lsn: oldest.base.facts.stop,
        first_time: oldest.base.facts.ended_at,
    })?;
    Ok(route.plan(&found))
}

fn check_lineage(journal: &LogJournal, system_identifier: SystemIdentifier) -> Result<()> {
    let failed = |source| Error::Journal { doing: "looking for the log in the journal", source };
    let lineages = journal.lineages().map_err(failed)?;
    if lineages.iter().any(|(system, _)| *system == system_identifier) {
        return Ok(());
    }
    let journal = match lineages.first() {
        Some((system, _)) => format!("system {system}"),
        None => "nothing yet".into(),
    };
    Err(Error::OtherLineage { base: system_identifier, journal })
}

/// A base, and the log from it to the end of the target's timeline.
struct Route<'a> {
    journal: &'a LogJournal,
    base: &'a BaseBackup,
    legs: Vec<Leg>,
    as_of: Option<Timestamp>,
}

/// Where a target lies.
struct Found {
    timeline: TimelineId,
    end: Lsn,
    stop: Stop,
    as_of: Option<Timestamp>,
    /// The base must be consistent by this moment, where the position alone does not tell.
    not_before: Option<Timestamp>,
}

impl<'a> Route<'a> {
    fn of(journal: &'a LogJournal, base: &'a BaseBackup, target: TimelineId) -> Result<Self> {
        let facts = &base.facts;
        // Read before the legs: the log grows all the time, and the moment up to which everything is contained in
        // an earlier end holds for a later one as well.
        let extents = journal
            .extents(facts.system_identifier, target)
            .map_err(|source| Error::Journal { doing: "looking for the log in the journal", source })?;
        let legs = timelines::legs(journal, facts.system_identifier, (facts.timeline, facts.start), target)?;
        let first = &legs[0];
        if first.to < facts.stop {
            let have = format!(", and ends at {}", first.to);
            return Err(Error::LogMissing { timeline: first.timeline, from: facts.start, to: facts.stop, have });
        }
        // Of the stretch that the route is on: behind a gap there may be a newer one.
        let end = legs[legs.len() - 1].to;
        let stretch = extents.iter().rfind(|extent| extent.start <= end && extent.durable_end <= end);
        let as_of = stretch.and_then(|extent| extent.as_of);
        Ok(Self { journal, base, legs, as_of })
    }

    fn last_leg(&self) -> &Leg {
        // A route has at least the leg of its target.
        &self.legs[self.legs.len() - 1]
    }

    fn end(&self) -> Lsn {
        self.last_leg().to
    }

    /// Whether the base is consistent before recovery gets to this position.
    fn consistent_before(&self, timeline: TimelineId, end: Lsn) -> bool {
        let reached = self.legs.iter().any(|leg| leg.timeline == timeline && leg.from <= end);
        reached && self.base.facts.stop <= end
    }

    fn log(&self, timeline: TimelineId) -> Log<'a> {
        Log {
            journal: self.journal,
            system_identifier: self.base.facts.system_identifier,
            timeline,
            segment_size: self.base.facts.segment_size,
        }
    }

    /// Every mark on the way, by the order of replay, with its timeline.
    fn marks(&self) -> Result<Vec<(TimelineId, Mark)>> {
        let mut marks = Vec::new();
        for leg in &self.legs {
            let on_leg = self.log(leg.timeline).marks(leg.from, leg.to)?;
            marks.extend(on_leg.into_iter().map(|mark| (leg.timeline, mark)));
        }
        Ok(marks)
    }

    fn find(&self, target: &RecoveryTarget) -> Result<Found> {
        match target {
            RecoveryTarget::Newest => Ok(self.at_end()),
            RecoveryTarget::Lsn(lsn) => {
                if *lsn > self.end() {
                    return Err(self.after_last(target));
                }
                let leg = self.legs.iter().rfind(|leg| leg.from < *lsn || leg.from == leg.to);
                let timeline = leg.map_or(self.legs[0].timeline, |leg| leg.timeline);
                self.before(timeline, *lsn, None)
            }
            RecoveryTarget::Time(moment) => self.find_time(target, *moment),
            RecoveryTarget::Xid { xid, inclusive } => {
                let (timeline, mark) =
                    self.only(target, |kind| matches!(kind, MarkKind::Commit { xid: found } if found == xid))?;
                let found = self.before(timeline, mark.lsn, Some(mark.time))?;
                if *inclusive { Ok(found) } else { Ok(Found { stop: Stop::BeforeXid(*xid), ..found }) }
            }
            RecoveryTarget::Name(name) => {
                let (timeline, mark) =
                    self.only(target, |kind| matches!(kind, MarkKind::RestorePoint { name: found } if found == name))?;
                self.before(timeline, mark.lsn, Some(mark.time))
            }
        }
    }

    fn at_end(&self) -> Found {
        let timeline = self.last_leg().timeline;
        Found { timeline, end: self.end(), stop: Stop::End, as_of: self.as_of, not_before: None }
    }

    /// Stops with everything before `lsn`, which PostgreSQL can do only where a record begins there or
    /// behind; at the end of the log that is the end itself.
    fn before(&self, timeline: TimelineId, lsn: Lsn, as_of: Option<Timestamp>) -> Result<Found> {
        let last_leg = self.last_leg();
        let stop = if timeline == last_leg.timeline
            && self.log(timeline).last_record(last_leg.to)?.is_none_or(|start| start < lsn)
        {
            Stop::End
        } else {
            Stop::Before(lsn)
        };
        Ok(Found { timeline, end: lsn, stop, as_of, not_before: None })
    }

    fn find_time(&self, target: &RecoveryTarget, moment: Timestamp) -> Result<Found> {
        let marks = self.marks()?;
        let at = |lsn: Lsn| {
            let mark = marks.iter().find(|(_, mark)| mark.lsn == lsn);
            mark.map_or(self.last_leg().timeline, |(timeline, _)| *timeline)
        };
        let found = match TimeLookup::among(marks.iter().map(|(_, mark)| mark), moment) {
            TimeLookup::At(candidate) => self.before(at(candidate.lsn), candidate.lsn, Some(moment))?,
            TimeLookup::AfterLast { .. } | TimeLookup::NoCommits => {
                if self.as_of.is_none_or(|as_of| as_of < moment) {
                    return Err(self.after_last(target));
                }
                Found { as_of: Some(moment), ..self.at_end() }
            }
            // The state of the base itself, once it is consistent: no commit comes between.
            TimeLookup::BeforeFirst { .. } => {
                let first = marks.iter().find(|(_, mark)| matches!(mark.kind, MarkKind::Commit { .. }));
                let Some((timeline, first)) = first else { return Err(self.after_last(target)) };
                let MarkKind::Commit { xid } = first.kind else { return Err(self.after_last(target)) };
                let (timeline, end) = (*timeline, first.lsn);
                Found { timeline, end, stop: Stop::BeforeXid(xid), as_of: Some(moment), not_before: None }
            }
            TimeLookup::Ambiguous(candidates) => {
                let list = candidates.iter().map(|found| format!("{} (last commit {})", found.lsn, found.last_commit));
                let candidates = list.collect::<Vec<_>>().join(", ");
                return Err(Error::AmbiguousTarget { target: target.to_string(), candidates });
            }
        };
        Ok(Found { not_before: Some(moment), ..found })
    }

    /// The one mark that fits.
    fn only(&self, target: &RecoveryTarget, fits: impl Fn(&MarkKind) -> bool) -> Result<(TimelineId, Mark)> {
        let mut found: Vec<_> = self.marks()?.into_iter().filter(|(_, mark)| fits(&mark.kind)).collect();
        match (found.pop(), found.is_empty()) {
            (Some(only), true) => Ok(only),
            (None, _) => {
                Err(Error::UnknownTarget { target: target.to_string(), from: self.legs[0].from, to: self.end() })
            }
            (Some(last), false) => {
                let list = found.iter().chain([&last]).map(|(_, mark)| format!("{} of {}", mark.lsn, mark.time));
                let candidates = list.collect::<Vec<_>>().join(", ");
                Err(Error::AmbiguousTarget { target: target.to_string(), candidates })
            }
        }
    }

    fn after_last(&self, target: &RecoveryTarget) -> Error {
        let as_of = self.as_of.map_or(String::new(), |as_of| format!(", which is all up to {as_of}"));
        Error::AfterLast { target: target.to_string(), end: self.end(), as_of }
    }

    fn plan(&self, found: &Found) -> RestorePlan {
        let bytes = |leg: &Leg| if leg.from > found.end { 0 } else { leg.to.min(found.end).bytes_since(leg.from) };
        RestorePlan {
            base: self.base.clone(),
            system_identifier: self.base.facts.system_identifier,
            timeline: self.last_leg().timeline,
            legs: self.legs.clone(),
            stop: found.stop,
            end: found.end,
            as_of: found.as_of,
            replay_bytes: self.legs.iter().map(bytes).sum(),
        }
    }
}
