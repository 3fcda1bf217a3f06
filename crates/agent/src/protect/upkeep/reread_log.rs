//! Reading the closed segments of the journals again, within the same time as everything else that is stored.
//!
//! Without one of them no moment behind it can be reached until the next base backup: better to know that before the day.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use levee_database::StopSignal;
use levee_journal::{ClosedSegment, Error as JournalError, LogJournal, RereadSegment};
use levee_model::AssetName;
use levee_model::control::Failure;
use levee_model::protection::{AppSpec, Upkeep};
use levee_vault::Id;
use levee_vault::reread::PackAge;

use super::super::app::{App, failure, in_full};
use super::again::{Allowance, Found, Stored};
use super::record::Record;
use super::reread::drop_from_memory;

/// How long segments are read before something else has its turn.
const TURN_MAX: Duration = Duration::from_secs(10);
const LIST_AGAIN: Duration = Duration::from_secs(10);
const NAMED_MAX: usize = 3;

pub struct LogRereading {
    record: Record,
    listed: Option<Instant>,
    segments: BTreeMap<Id, Segment>,
}

struct Segment {
    asset: AssetName,
    journal: Arc<LogJournal>,
    closed: ClosedSegment,
    verified_at: Option<Timestamp>,
    /// When it was last found damaged, and how.
    damage: Option<(Timestamp, String)>,
}

impl Segment {
    fn age(&self, id: Id) -> PackAge {
        PackAge {
            id,
            bytes: self.closed.size_bytes,
            stored_at: self.closed.closed_at,
            verified_at: self.verified_at,
            damaged_at: self.damage.as_ref().map(|(at, _)| *at),
        }
    }
}

/// The closed segments of all journals of an app.
struct Segments<'a> {
    app: &'a App,
    segments: &'a mut BTreeMap<Id, Segment>,
}

impl Stored for Segments<'_> {
    fn ages(&self) -> Vec<PackAge> {
        ages(self.segments)
    }

    fn read(&mut self, id: &Id) -> Result<Found, Failure> {
        let Some(segment) = self.segments.get(id) else { return Ok(Found::Gone) };
        drop_from_memory(&segment.closed.path);
        let read = segment.journal.reread(&segment.closed);
        drop_from_memory(&segment.closed.path);
        match read {
            Ok(RereadSegment::Sound) => Ok(Found::Sound),
            Ok(RereadSegment::Damaged { problem }) => Ok(Found::Damaged { problem }),
            Ok(RereadSegment::Gone) => Ok(Found::Gone),
            Err(error @ JournalError::Io { .. }) => Ok(Found::Unreadable { problem: in_full(&error) }),
            Err(error) => Err(failure(format!("cannot read stored log again: {}", in_full(&error)))),
        }
    }

    fn note(&mut self, id: &Id, at: Timestamp, problem: Option<String>) {
        let Some(segment) = self.segments.get_mut(id) else { return };
        match problem {
            None => (segment.verified_at, segment.damage) = (Some(at), None),
            Some(problem) => {
                tracing::error!(app = %self.app.name, asset = %segment.asset, problem, "stored log is damaged");
                segment.damage = Some((at, problem));
            }
        }
    }
}

fn ages(segments: &BTreeMap<Id, Segment>) -> Vec<PackAge> {
    segments.iter().map(|(id, segment)| segment.age(*id)).collect()
}

impl LogRereading {
    pub fn begin(app: &App) -> Result<Self, Failure> {
        let record = Record::open(app.folder.log_rereads())?;
        Ok(Self { record, listed: None, segments: BTreeMap::new() })
    }

    /// Reads for a while what is due, and tells the board.
    pub fn turn(&mut self, app: &App, spec: &AppSpec, stop: &StopSignal) -> Result<(), Failure> {
        self.list(app, spec)?;
        let mut segments = Segments { app, segments: &mut self.segments };
        Allowance::of(&spec.upkeep, TURN_MAX).read_due(&mut segments, &mut self.record, stop)?;
        for asset in spec.postgres.keys() {
            app.board.remark(asset, "log damage", self.damage_of(app, asset)?);
        }
        Ok(())
    }

    fn list(&mut self, app: &App, spec: &AppSpec) -> Result<(), Failure> {
        if self.listed.is_some_and(|listed| listed.elapsed() < LIST_AGAIN) {
            return Ok(());
        }
        let mut before = std::mem::take(&mut self.segments);
        for asset in spec.postgres.keys() {
            let journal = app.copies.journal(asset)?;
            let closed = journal
                .closed_segments()
                .map_err(|error| failure(format!("cannot list the log of {asset}: {}", in_full(&error))))?;
            for closed in closed {
                // Named by what it is, so that a record outlives a move of the folder.
                let name = closed.path.file_name().unwrap_or_default().to_string_lossy();
                let id = Id::of(format!("{asset}/{}/{name}", closed.system_identifier).as_bytes());
                let damage = before.remove(&id).and_then(|known| known.damage);
                let verified_at = self.record.read_at(&id);
                let segment = Segment { asset: asset.clone(), journal: journal.clone(), closed, verified_at, damage };
                self.segments.insert(id, segment);
            }
        }
        let there: BTreeSet<Id> = self.segments.keys().copied().collect();
        self.record.retain(&there)?;
        self.listed = Some(Instant::now());
        Ok(())
    }

    /// What is damaged of an asset's log, in words.
    fn damage_of(&self, app: &App, asset: &AssetName) -> Result<Option<String>, Failure> {
        let damaged: Vec<(&ClosedSegment, &str)> = self
            .segments
            .values()
            .filter(|segment| segment.asset == *asset)
            .filter_map(|segment| Some((&segment.closed, segment.damage.as_ref()?.1.as_str())))
            .collect();
        let Some((timeline, start)) = damaged.iter().map(|(closed, _)| (closed.timeline, closed.start)).min() else {
            return Ok(None);
        };
        let on_it = damaged.iter().filter(|(closed, _)| closed.timeline == timeline);
        let end = on_it.map(|(closed, _)| closed.end).max().unwrap_or(start);
        let bases = app.copies.bases(asset)?;
        let behind =
            bases.iter().map(|base| &base.facts).filter(|facts| facts.timeline >= timeline && facts.start >= end);
        let unreachable = match behind.map(|facts| facts.stop).min() {
            Some(base) => format!(
                "no moment from {start} of timeline {timeline} to the end of the next base backup, {base}, can be restored"
            ),
            None => format!(
                "no moment behind {start} of timeline {timeline} can be restored until behind the next base backup: have one \
                 taken soon (`base_every`)"
            ),
        };
        let problems: Vec<&str> = damaged.iter().take(NAMED_MAX).map(|(_, problem)| *problem).collect();
        Ok(Some(format!(
            "{} stored segment(s) of its log are DAMAGED: {}{}; {unreachable}; look at the disk",
            damaged.len(),
            problems.join("; "),
            if damaged.len() > NAMED_MAX { "; …" } else { "" },
        )))
    }

    /// An error when not everything is read within the time that is asked for.
    pub fn in_time(&self, upkeep: &Upkeep) -> Result<(), Failure> {
        self.record.all_readable("segments of log")?;
        Allowance::of(upkeep, TURN_MAX).in_time("segments of log", &ages(&self.segments))
    }
}
