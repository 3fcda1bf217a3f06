//! What the writing site remembers of the log streams that it has begun.
//!
//! A source may be promoted in place while its agent is away: what its old timeline still has beyond what the other site
//! got is to be fetched first, or there is a gap. Which timeline that is, this site remembers, and not the journal: after
//! a failover the journal's newest timeline may be one that this source never was on, or has left earlier than the
//! journal's end, and two timelines may have taken the same number. So only what was streamed from this very site at
//! this very epoch counts: within an epoch there was no other writer.

use std::path::PathBuf;

use levee_database::postgres::{Lineage, SourceLog};
use levee_model::control::Failure;
use levee_model::postgres::{Lsn, SystemIdentifier, TimelineId};
use levee_model::{AssetName, Epoch, LogPosition};
use serde::{Deserialize, Serialize};

use super::super::app::failure;
use super::super::folder::AppFolder;
use crate::durable;

/// A stream that was begun.
pub struct Begun {
    pub epoch: Epoch,
    pub lineage: Lineage,
    /// Where the source can begin.
    pub source_start: Lsn,
    /// Where the other site wants it to begin.
    pub resume: Lsn,
    /// Log that ends there is at the other site already.
    pub has_log: bool,
    pub after_gap: bool,
}

/// The stream that was begun last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct LastStream {
    epoch: Epoch,
    system_identifier: SystemIdentifier,
    timeline: TimelineId,
}

/// An asset's files about its log streams.
pub struct Remembered {
    /// Where the unbroken log at the other site begins.
    start: PathBuf,
    stream: PathBuf,
}

impl Remembered {
    pub fn of(folder: &AppFolder, asset: &AssetName) -> Self {
        Self { start: folder.log_start(asset), stream: folder.log_stream(asset) }
    }

    /// Keeps where the unbroken log at the other site begins, when it begins anew, and what is streamed now.
    pub fn note(&self, begun: &Begun) -> Result<(), Failure> {
        let Begun { epoch, lineage, source_start, resume, has_log, after_gap } = *begun;
        let Lineage { system_identifier, timeline } = lineage;
        let known: Option<LogPosition> = durable::read_json(&self.start).map_err(cannot_use(&self.start))?;
        let same =
            known.is_some_and(|known| (known.system_identifier, known.timeline) == (system_identifier, timeline));
        // A receiver that has nothing has lost its journal. That it begins where the slot does says nothing: so does one
        // that has everything.
        let is_new = !has_log && known.is_some_and(|known| known.lsn < resume);
        if after_gap || !same || is_new {
            let lsn = if after_gap { resume } else { resume.min(source_start) };
            durable::write_json(&self.start, &LogPosition { system_identifier, timeline, lsn })
                .map_err(cannot_use(&self.start))?;
        }
        let stream = LastStream { epoch, system_identifier, timeline };
        if self.last_stream()? != Some(stream) {
            durable::write_json(&self.stream, &stream).map_err(cannot_use(&self.stream))?;
        }
        Ok(())
    }

    /// The timeline that was streamed last, when the source has left it since.
    pub fn older_timeline(&self, epoch: Epoch, source: &SourceLog<'_>) -> Result<Option<TimelineId>, Failure> {
        Ok(self.last_stream()?.and_then(|last| left_since(last, epoch, source)))
    }

    fn last_stream(&self) -> Result<Option<LastStream>, Failure> {
        durable::read_json(&self.stream).map_err(cannot_use(&self.stream))
    }
}

fn cannot_use(path: &std::path::Path) -> impl Fn(std::io::Error) -> Failure + '_ {
    move |error| failure(format!("cannot use {}: {error}", path.display()))
}

fn left_since(last: LastStream, epoch: Epoch, source: &SourceLog<'_>) -> Option<TimelineId> {
    let is_ours = last.epoch == epoch && last.system_identifier == source.system_identifier;
    let is_ancestor = source.ancestors.iter().any(|(timeline, _)| *timeline == last.timeline);
    (is_ours && is_ancestor).then_some(last.timeline)
}

/// The first timeline of which something is missing at the other site, which has `last` up to `stored_end`; `None` when
/// that is the source's own. What the other site has beyond the position at which `last` was left stays there, and is no
/// part of what comes.
pub fn next_to_fetch(ancestors: &[(TimelineId, Lsn)], last: TimelineId, stored_end: Lsn) -> Option<TimelineId> {
    let mut from_last = ancestors.iter().skip_while(|(timeline, _)| *timeline != last);
    let (_, left_at) = from_last.next()?;
    if stored_end < *left_at { Some(last) } else { from_last.next().map(|(timeline, _)| *timeline) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use levee_model::postgres::SegmentSize;

    const SYSTEM: SystemIdentifier = SystemIdentifier(7);

    fn ancestors(of: &[(u32, u64)]) -> Vec<(TimelineId, Lsn)> {
        of.iter().map(|(timeline, left_at)| (TimelineId(*timeline), Lsn(*left_at))).collect()
    }

    #[test]
    fn only_what_this_site_streamed_at_this_epoch_is_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let remembered =
            Remembered { start: folder.path().join("start.json"), stream: folder.path().join("stream.json") };
        let check = |epoch: u64, system_identifier: SystemIdentifier, of: &[(u32, u64)], expected: Option<u32>| {
            let ancestors = ancestors(of);
            let segment_size = SegmentSize::DEFAULT;
            let source = SourceLog { system_identifier, ancestors: &ancestors, segment_size, start: Lsn(0) };
            let found = remembered.older_timeline(Epoch(epoch), &source).unwrap();
            assert_eq!(found, expected.map(TimelineId), "epoch {epoch} of {system_identifier} from {of:?}");
        };
        check(4, SYSTEM, &[(1, 100)], None);
        let lineage = Lineage { system_identifier: SYSTEM, timeline: TimelineId(2) };
        let (source_start, resume) = (Lsn(100), Lsn(100));
        let begun = Begun { epoch: Epoch(4), lineage, source_start, resume, has_log: false, after_gap: false };
        let start = || durable::read_json::<LogPosition>(&remembered.start).unwrap().unwrap().lsn;
        remembered.note(&begun).unwrap();
        // An idle source's slot begins where the other site's log ends: that is no new journal.
        let idle = Begun { source_start: Lsn(300), resume: Lsn(300), has_log: true, ..begun };
        remembered.note(&idle).unwrap();
        assert_eq!(start(), Lsn(100));
        remembered.note(&Begun { has_log: false, ..idle }).unwrap();
        assert_eq!(start(), Lsn(300));
        check(4, SYSTEM, &[(1, 100), (2, 200)], Some(2));
        check(4, SYSTEM, &[(1, 100), (2, 200), (3, 300)], Some(2));
        // It is still on it; it was set back; it comes from elsewhere; somebody else wrote meanwhile.
        check(4, SYSTEM, &[(1, 100)], None);
        check(4, SYSTEM, &[], None);
        check(4, SYSTEM, &[(1, 100), (3, 150)], None);
        check(4, SystemIdentifier(8), &[(1, 100), (2, 200)], None);
        check(5, SYSTEM, &[(1, 100), (2, 200)], None);
        remembered.note(&Begun { epoch: Epoch(5), ..begun }).unwrap();
        check(5, SYSTEM, &[(1, 100), (2, 200)], Some(2));
    }

    #[test]
    fn the_first_timeline_that_lacks_something_comes_next() {
        let check = |last: u32, stored_end: u64, expected: Option<u32>| {
            let ancestors = ancestors(&[(1, 100), (2, 200), (4, 300)]);
            let next = next_to_fetch(&ancestors, TimelineId(last), Lsn(stored_end));
            assert_eq!(next, expected.map(TimelineId), "{last} up to {stored_end}");
        };
        check(1, 90, Some(1));
        check(1, 100, Some(2));
        check(2, 150, Some(2));
        check(2, 200, Some(4));
        check(4, 299, Some(4));
        check(4, 300, None);
        // The other site has more of it than this source ever had: the rest of the way is what is missing.
        check(2, 250, Some(4));
        check(4, 999, None);
        check(7, 1, None);
    }
}
