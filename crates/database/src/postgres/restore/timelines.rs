//! The way through a journal's timelines from a base backup to a target.

use levee_engine::postgres::TimelineHistory;
use levee_journal::{Extent, LogJournal};
use levee_model::postgres::{Lsn, SystemIdentifier, TimelineId};

use crate::{Error, Result};

/// The part of one timeline's log that a restore replays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leg {
    pub timeline: TimelineId,
    pub from: Lsn,
    /// Where the next timeline left this one, or where the log ends.
    pub to: Lsn,
}

fn failed(source: levee_journal::Error) -> Error {
    Error::Journal { doing: "looking for the log in the journal", source }
}

/// The newest timeline that the journal has log of, or the wanted one when it has any of it.
pub(super) fn target_timeline(
    journal: &LogJournal,
    system_identifier: SystemIdentifier,
    wanted: Option<TimelineId>,
) -> Result<TimelineId> {
    let mut newest = None;
    for (system, timeline) in journal.lineages().map_err(failed)? {
        if system == system_identifier
            && wanted.is_none_or(|wanted| wanted == timeline)
            && journal.extent(system, timeline).map_err(failed)?.is_some_and(|extent| extent.durable_end > extent.start)
        {
            newest = newest.max(Some(timeline));
        }
    }
    let missing = wanted.unwrap_or(TimelineId(1));
    newest.ok_or(Error::UnknownTimeline { timeline: missing })
}

/// The legs from a position on one timeline to the end of another, every byte of them in the journal.
///
/// # Errors
/// `UnknownTimeline` when the target does not descend from the base's timeline, `LogMissing` for a hole.
pub(super) fn legs(
    journal: &LogJournal,
    system_identifier: SystemIdentifier,
    (base_timeline, start): (TimelineId, Lsn),
    target: TimelineId,
) -> Result<Vec<Leg>> {
    let mut switches = Vec::new();
    if target != base_timeline {
        let content = journal
            .history(system_identifier, target)
            .map_err(failed)?
            .ok_or(Error::UnknownTimeline { timeline: target })?;
        let branches = TimelineHistory { timeline: target, content }.branches();
        switches.extend(branches.into_iter().skip_while(|(timeline, _)| *timeline != base_timeline));
        if switches.first().is_none_or(|(_, left_at)| *left_at < start) {
            return Err(Error::UnknownTimeline { timeline: target });
        }
    }
    let mut legs = Vec::new();
    let mut from = start;
    for (timeline, to) in switches {
        check_there(journal, system_identifier, timeline, from, to)?;
        legs.push(Leg { timeline, from, to });
        from = to;
    }
    let extent = check_there(journal, system_identifier, target, from, from)?;
    legs.push(Leg { timeline: target, from, to: extent.durable_end });
    Ok(legs)
}

fn check_there(
    journal: &LogJournal,
    system_identifier: SystemIdentifier,
    timeline: TimelineId,
    from: Lsn,
    to: Lsn,
) -> Result<Extent> {
    let extents = journal.extents(system_identifier, timeline).map_err(failed)?;
    let has = |extent: &&Extent| extent.start <= from && to <= extent.durable_end;
    if let Some(extent) = extents.iter().find(has) {
        return Ok(*extent);
    }
    let have: Vec<_> = extents.iter().map(|extent| format!("{} to {}", extent.start, extent.durable_end)).collect();
    let have = if have.is_empty() { String::new() } else { format!(", and is there from {}", have.join(" and from ")) };
    Err(Error::LogMissing { timeline, from, to, have })
}
