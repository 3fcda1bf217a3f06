//! A folder: a snapshot every so often, straight into the repository at the other site.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use levee_database::StopSignal;
use levee_model::control::{AssetPoint, AssetState, Assignment, Failure};
use levee_model::protection::{Due, FilesSpec, Rhythm};
use levee_model::{AssetId, AssetName, Position, Timetable};
use levee_vault::SWAP_PATIENCE;
use levee_vault::backup::{self, BackupOptions};

use super::super::app::{App, failure, in_full, transient};
use super::super::hooks::{self, Hooked, Saved};
use super::super::queue::Entered;
use super::super::tags;

/// How soon a failed copy is tried again, the first time and after many failures.
const RETRY_AFTER_MIN: Duration = Duration::from_secs(2);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(5 * 60);
/// How often it is looked whether a copy is due: the machine's clock may be set meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(5);
pub fn run(app: &Arc<App>, assignment: &Assignment, asset: &AssetName, spec: &FilesSpec, stop: &StopSignal) {
    app.board.update(asset, |entry| {
        if entry.point.is_none() {
            entry.state = AssetState::Unprotected;
        }
    });
    // With a period, what changed while this agent was away is copied at once. With hours, the last copy counts.
    let last_begun = matches!(spec.rhythm(), Some(Rhythm::Every(_))).then_some(None);
    let mut folder = Folder { app, assignment, asset, spec, last_begun };
    let mut retry_after = RETRY_AFTER_MIN;
    loop {
        let pause = match folder.copy_if_due(stop) {
            Ok(pause) => {
                retry_after = RETRY_AFTER_MIN;
                pause
            }
            // A command that was ended for it is no trouble.
            Err(_) if stop.is_stopped() => return,
            Err(failure) => {
                app.remote.forget();
                app.board.problem(asset, failure.message);
                let pause = retry_after;
                retry_after = (retry_after * 2).min(RETRY_AFTER_MAX);
                pause
            }
        };
        if stop.wait(pause) {
            return;
        }
    }
}

struct Folder<'a> {
    app: &'a App,
    assignment: &'a Assignment,
    asset: &'a AssetName,
    spec: &'a FilesSpec,
    /// When the last copy was begun, if there is any; `None` while that is not known.
    last_begun: Option<Option<Timestamp>>,
}

impl Folder<'_> {
    /// Copies the folder when it is time, and returns for how long there is nothing to do.
    fn copy_if_due(&mut self, stop: &StopSignal) -> Result<Duration, Failure> {
        let last_begun = match self.last_begun {
            Some(known) => known,
            None => *self.last_begun.insert(self.newest_copy()?),
        };
        let salt = AssetId::new(self.app.name.clone(), self.asset.clone()).to_string();
        if let Some(pause) = self.not_due_for(last_begun, Timestamp::now(), &salt) {
            return Ok(pause);
        }
        let tell = |waiting| self.app.board.update(self.asset, |entry| entry.waiting = waiting);
        let _turn = match self.app.context.queue.enter(format!("the files of {salt}"), stop, tell) {
            Entered::Turn(turn) => turn,
            Entered::Stopped => return Ok(Duration::ZERO),
            Entered::Overlaps => return Err(transient(format!("another copy of {salt} is under way"))),
        };
        let now = Timestamp::now();
        // A blackout may have begun while this waited: then it waits in line again when that is over.
        if let Some(pause) = self.not_due_for(last_begun, now, &salt) {
            return Ok(pause);
        }
        let copy = hooks::CopyOf { app: self.app, asset: self.asset, kind: hooks::Kind::Files };
        let current = self.app.assignment();
        let bandwidth = current.spec.bandwidth.as_ref();
        let make = || copy_once(self.app, self.assignment, self.asset, self.spec, bandwidth);
        let saved =
            |copied: &Copied| Some(Saved { snapshot: copied.snapshot.clone(), is_whole: copied.unread.is_none() });
        let Hooked { made: copied, after } = hooks::around(&copy, stop, make, saved)?;
        self.last_begun = Some(Some(now));
        self.app.board.update(self.asset, |entry| {
            entry.state = AssetState::Received;
            entry.point = Some(copied.point);
            entry.problem = copied.unread.into_iter().chain(after).reduce(|first, second| format!("{first}; {second}"));
        });
        Ok(Duration::ZERO)
    }

    /// When to look again, if no copy is due yet.
    fn not_due_for(&self, last_begun: Option<Timestamp>, now: Timestamp, salt: &str) -> Option<Duration> {
        match self.spec.rhythm()?.due(last_begun, now, salt) {
            Due::Later(at) => Some(Duration::try_from(at.duration_since(now)).unwrap_or_default().min(LOOK_EVERY)),
            Due::Now { .. } => None,
        }
    }

    /// When the newest copy that is at the other site was begun.
    fn newest_copy(&self) -> Result<Option<Timestamp>, Failure> {
        let vault = self.app.remote.vault(self.assignment, self.app.assignment().spec.bandwidth.as_ref())?;
        let of_this_folder = tags::snapshots(&vault, &tags::files(&self.app.name, self.asset))
            .map_err(|error| transient(format!("cannot list the copies of {}: {}", self.asset, in_full(&error))))?;
        // One from ahead of the clock, which was put back since, says nothing of when the next is due.
        let now = Timestamp::now();
        Ok(of_this_folder.into_iter().map(|(_, snapshot)| snapshot.time).filter(|begun_at| *begun_at <= now).max())
    }
}

/// A snapshot that is durable at the other site.
pub struct Copied {
    /// Its whole id.
    pub snapshot: String,
    pub point: AssetPoint,
    /// What could not be read, and so is not in it.
    pub unread: Option<String>,
}

/// Takes one snapshot, no faster than `bandwidth` allows. When it returns, the snapshot is durable at the other site.
pub fn copy_once(
    app: &App,
    assignment: &Assignment,
    asset: &AssetName,
    spec: &FilesSpec,
    bandwidth: Option<&Timetable>,
) -> Result<Copied, Failure> {
    let place = spec
        .at
        .get(&assignment.site)
        .ok_or_else(|| failure(format!("the protection file has no place for {asset} at {}", assignment.site)))?;
    if !place.path.is_dir() {
        // An empty snapshot of a folder that is not mounted would look like a fresh recovery point.
        return Err(failure(format!("{} is not a folder: is it mounted?", place.path.display())));
    }
    let vault = app.remote.vault(assignment, bandwidth)?;
    let taken_at = Timestamp::now();
    let options = BackupOptions {
        paths: vec![place.path.clone()],
        host: Some(assignment.site.to_string()),
        tags: vec![tags::files(&app.name, asset), tags::epoch(assignment.epoch)],
        incomplete_tag: Some(tags::INCOMPLETE.into()),
        excludes: spec.exclude.clone(),
        time: Some(taken_at),
        patience: SWAP_PATIENCE,
        ..BackupOptions::default()
    };
    let summary = backup::backup(&vault, &options, &()).map_err(|error| {
        let to = assignment.peer.as_ref().map(|peer| format!(" to agent {} at {}", peer.agent, peer.store));
        let (to, path) = (to.unwrap_or_default(), place.path.display());
        transient(format!("cannot copy {path}{to}: {}", in_full(&error)))
    })?;
    let unread = summary.errors.first.first().map(|first| {
        format!(
            "{} file(s) could not be read and are not protected, first: {}: {}",
            summary.errors.count,
            first.path.display(),
            first.message
        )
    });
    let id = summary.snapshot_id.ok_or_else(|| failure("the copy made no snapshot"))?;
    let snapshot = id.to_string();
    let point = AssetPoint { position: Position::Snapshot { id: snapshot.clone(), taken_at }, as_of: taken_at };
    Ok(Copied { snapshot, point, unread })
}
