//! A folder: a snapshot every so often, straight into the repository at the other site.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use levee_database::StopSignal;
use levee_model::control::{AssetPoint, AssetState, Assignment, Failure};
use levee_model::protection::FilesSpec;
use levee_model::{AssetName, Position};
use levee_vault::backup::{self, BackupOptions};

use super::super::app::{App, failure, in_full, transient};
use super::super::tags;

/// How soon a failed copy is tried again; never sooner than the period asked for.
const RETRY_AFTER: Duration = Duration::from_secs(2);

pub fn run(app: &Arc<App>, assignment: &Assignment, asset: &AssetName, spec: &FilesSpec, stop: &StopSignal) {
    app.board.update(asset, |entry| {
        if entry.point.is_none() {
            entry.state = AssetState::Unprotected;
        }
    });
    loop {
        let begun = Instant::now();
        let pause = match copy_once(app, assignment, asset, spec) {
            Ok(copied) => {
                app.board.update(asset, |entry| {
                    entry.state = AssetState::Received;
                    entry.point = Some(copied.point);
                    entry.problem = copied.unread;
                });
                spec.every.duration().saturating_sub(begun.elapsed())
            }
            Err(failure) => {
                app.remote.forget();
                app.board.problem(asset, failure.message);
                RETRY_AFTER.max(spec.every.duration().saturating_sub(begun.elapsed()))
            }
        };
        if stop.wait(pause) {
            return;
        }
    }
}

/// A snapshot that is durable at the other site.
pub struct Copied {
    pub point: AssetPoint,
    /// What could not be read, and so is not in it.
    pub unread: Option<String>,
}

/// Takes one snapshot. When it returns, the snapshot is durable at the other site.
pub fn copy_once(app: &App, assignment: &Assignment, asset: &AssetName, spec: &FilesSpec) -> Result<Copied, Failure> {
    let place = spec
        .at
        .get(&assignment.site)
        .ok_or_else(|| failure(format!("the protection file has no place for {asset} at {}", assignment.site)))?;
    if !place.path.is_dir() {
        // An empty snapshot of a folder that is not mounted would look like a fresh recovery point.
        return Err(failure(format!("{} is not a folder: is it mounted?", place.path.display())));
    }
    let vault = app.remote.vault(assignment)?;
    let taken_at = Timestamp::now();
    let options = BackupOptions {
        paths: vec![place.path.clone()],
        host: Some(assignment.site.to_string()),
        tags: vec![tags::files(&app.name, asset), tags::epoch(assignment.epoch)],
        excludes: spec.exclude.clone(),
        time: Some(taken_at),
        ..BackupOptions::default()
    };
    let summary = backup::backup(&vault, &options, &())
        .map_err(|error| transient(format!("cannot copy {}: {}", place.path.display(), in_full(&error))))?;
    let unread = summary.errors.first.first().map(|first| {
        format!(
            "{} file(s) could not be read and are not protected, first: {}: {}",
            summary.errors.count,
            first.path.display(),
            first.message
        )
    });
    let id = summary.snapshot_id.ok_or_else(|| failure("the copy made no snapshot"))?;
    let point = AssetPoint { position: Position::Snapshot { id: id.to_string(), taken_at }, as_of: taken_at };
    Ok(Copied { point, unread })
}
