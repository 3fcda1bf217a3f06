//! The recovery side's watch over one asset: what has arrived, whether it opens with this site's own
//! keys, how old it is, and what may go.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use levee_database::StopSignal;
use levee_database::postgres::marks;
use levee_model::AssetName;
use levee_model::control::{AssetState, Failure};
use levee_model::postgres::Lsn;
use levee_model::protection::PostgresSpec;
use levee_store::FileType;

use super::app::{App, failure, in_full};
use super::state::Standing;
use super::{live, tags};

/// How often what has arrived is looked at. The live age on the operator's screen is as fresh as this.
const LOOK_EVERY: Duration = Duration::from_millis(400);
/// Two segments of log: with less, the next one may not be stored.
const ROOM_MIN_BYTES: u64 = 32 << 20;
/// How often it is looked for closed log whose marks are missing. As long as there is some, it is looked through segment
/// by segment, one at each look.
const INDEX_EVERY: Duration = Duration::from_secs(60);
/// How often old copies are looked for.
const TRIM_EVERY: SignedDuration = SignedDuration::from_mins(10);

pub fn run(app: &Arc<App>, asset: &AssetName, stop: &StopSignal) {
    let assignment = app.assignment();
    let postgres = assignment.spec.postgres.get(asset);
    let mut trimmed_at = Timestamp::now();
    let mut indexed_at: Option<Instant> = None;
    loop {
        match look(app, asset, postgres.is_some()) {
            Ok(()) => match no_room(app) {
                None => app.board.update(asset, |entry| entry.problem = None),
                Some(problem) => app.board.problem(asset, problem),
            },
            Err(failure) => app.board.problem(asset, failure.message),
        }
        // This thread may outlive its phase by a moment, and what is removed does not come back.
        if Timestamp::now().duration_since(trimmed_at) >= TRIM_EVERY && app.state().may_remove_copies() {
            trimmed_at = Timestamp::now();
            let trimmed = match postgres {
                Some(spec) => trim_database(app, asset, spec, trimmed_at),
                None => trim_files(app, asset, trimmed_at),
            };
            if let Err(failure) = trimmed {
                app.board.problem(asset, failure.message);
            }
        }
        if postgres.is_some() && indexed_at.is_none_or(|at| at.elapsed() >= INDEX_EVERY) {
            match index_one(app, asset) {
                Ok(true) => {}
                Ok(false) => indexed_at = Some(Instant::now()),
                Err(error) => {
                    indexed_at = Some(Instant::now());
                    tracing::warn!(app = %app.name, %asset, problem = in_full(&*error), "marks are not kept");
                }
            }
        }
        if stop.wait(LOOK_EVERY) {
            return;
        }
    }
}

/// Finds the marks of one closed segment that has none: closing a segment finds them, but not those of one that was
/// closed by another version, or whose marks were lost. False when there is none.
fn index_one(app: &App, asset: &AssetName) -> Result<bool, Box<dyn std::error::Error>> {
    if !app.copies.exists() {
        return Ok(false);
    }
    let journal = app.copies.journal(asset).map_err(|failure| failure.message)?;
    for (system_identifier, timeline) in journal.lineages()? {
        let Some(segment_size) = journal.segment_size(system_identifier, timeline)? else { continue };
        let log = marks::Log { journal: &journal, system_identifier, timeline, segment_size };
        if log.index_one(journal.epoch()?)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What to say where the disk is about to be full. What is stored already stays as good as it is.
fn no_room(app: &App) -> Option<String> {
    let folder = app.folder.root();
    let disk = rustix::fs::statvfs(folder).ok()?;
    let left = disk.f_bavail.saturating_mul(disk.f_frsize);
    (left < ROOM_MIN_BYTES).then(|| {
        format!(
            "only {} KiB are left on the disk of {}: free some space. What has no room is not acknowledged, and comes by \
             itself when there is some",
            left >> 10,
            folder.display()
        )
    })
}

fn look(app: &Arc<App>, asset: &AssetName, is_database: bool) -> Result<(), Failure> {
    if !app.copies.exists() {
        app.board.update(asset, |entry| entry.state = AssetState::Waiting);
        return Ok(());
    }
    let Some((point, epoch)) = app.copies.newest(asset, is_database)? else {
        app.board.update(asset, |entry| entry.state = AssetState::Copying);
        return Ok(());
    };
    // A point of an earlier writer stays usable, but it is not what this epoch's writer is protected by.
    if epoch != app.state().epoch {
        app.board.update(asset, |entry| {
            entry.state = AssetState::Copying;
            entry.point = Some(point);
        });
        return Ok(());
    }
    // There is a point only when this site has opened the data with its own keys.
    if app.state().standing(asset) == Standing::Staged {
        live::follow(app, asset, &point)?;
    }
    app.board.update(asset, |entry| {
        entry.state = AssetState::Protected;
        entry.point = Some(point);
    });
    Ok(())
}

/// Retention of a database: the base first, then the log before it. What is kept is the newest base
/// that is older than the window, everything after it, and always the newest base.
fn trim_database(app: &App, asset: &AssetName, spec: &PostgresSpec, now: Timestamp) -> Result<(), Failure> {
    let bases = app.copies.bases(asset)?;
    let window_start = now - spec.keep.duration();
    let Some(oldest_kept) = bases.iter().rposition(|base| base.facts.started_at <= window_start) else {
        return Ok(());
    };
    for base in &bases[..oldest_kept] {
        remove_snapshot(app, &base.snapshot.to_string())?;
    }
    let kept = &bases[oldest_kept];
    let journal = app.copies.journal(asset)?;
    let trimmed = |error| failure(format!("cannot trim the journal of {asset}: {}", in_full(&error)));
    for (system_identifier, timeline) in journal.lineages().map_err(trimmed)? {
        // What is kept lies on the kept base's timeline and on later ones; another cluster's log is not ours to judge.
        if system_identifier != kept.facts.system_identifier || timeline > kept.facts.timeline {
            continue;
        }
        let keep_from = if timeline == kept.facts.timeline { kept.facts.start } else { Lsn(u64::MAX) };
        let report = journal.trim(system_identifier, timeline, keep_from, &[]).map_err(trimmed)?;
        if report.segments > 0 {
            tracing::info!(app = %app.name, %asset, %timeline, report.segments, report.bytes, "trimmed the journal");
        }
    }
    Ok(())
}

/// Retention of a folder, by the time at which this site received each snapshot; the newest always stays.
fn trim_files(app: &App, asset: &AssetName, now: Timestamp) -> Result<(), Failure> {
    let assignment = app.assignment();
    let Some(spec) = assignment.spec.files.get(asset) else { return Ok(()) };
    let window_start = now - spec.keep.duration();
    let store = levee_store::LocalStore::new(app.folder.repository());
    let mut snapshots = app.copies.snapshots_with_tag(&tags::files(&app.name, asset))?;
    snapshots.sort_by_key(|(_, snapshot)| snapshot.time);
    snapshots.pop();
    // A snapshot's own time is the writer's word, and could be forged: what counts is when it came.
    let received = store.received(FileType::Snapshot).map_err(|error| failure(in_full(&error)))?;
    for (id, _) in snapshots {
        let id = id.to_string();
        if received.iter().any(|file| file.name == id && file.received_at < window_start) {
            remove_snapshot(app, &id)?;
        }
    }
    Ok(())
}

/// Takes a snapshot off the list. Its data stay until the repository is pruned.
fn remove_snapshot(app: &App, id: &str) -> Result<(), Failure> {
    if !app.state().may_remove_copies() {
        let site = &app.context.site;
        return Err(failure(format!("the copies of app {} at {site} are frozen: nothing is removed", app.name)));
    }
    match app.copies.store().remove(FileType::Snapshot, id) {
        Ok(()) | Err(levee_store::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(failure(format!("cannot remove snapshot {id}: {}", in_full(&error)))),
    }
}
