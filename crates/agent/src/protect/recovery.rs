//! The recovery side's watch over one asset: what has arrived, whether it opens with this site's own
//! keys, and how old it is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use levee_database::StopSignal;
use levee_database::postgres::marks;
use levee_model::AssetName;
use levee_model::control::{AssetState, Failure};

use super::app::{App, in_full};
use super::copies::NewestPoint;
use super::fitness::FitnessWatch;
use super::live;
use super::state::Standing;

/// How often what has arrived is looked at. The live age on the operator's screen is as fresh as this.
const LOOK_EVERY: Duration = Duration::from_millis(400);
/// Two segments of log: with less, the next one may not be stored.
pub const ROOM_MIN_BYTES: u64 = 32 << 20;
/// How often it is looked for closed log whose marks are missing. As long as there is some, it is looked through segment
/// by segment, one at each look.
const INDEX_EVERY: Duration = Duration::from_secs(60);

pub fn run(app: &Arc<App>, asset: &AssetName, stop: &StopSignal) {
    let assignment = app.assignment();
    let is_database = assignment.spec.postgres.contains_key(asset);
    let mut indexed_at: Option<Instant> = None;
    let mut fitness = FitnessWatch::default();
    loop {
        match look(app, asset, is_database) {
            Ok(()) => match no_room(app) {
                None => app.board.update(asset, |entry| entry.problem = None),
                Some(problem) => app.board.problem(asset, problem),
            },
            Err(failure) => app.board.problem(asset, failure.message),
        }
        if is_database && indexed_at.is_none_or(|at| at.elapsed() >= INDEX_EVERY) {
            match index_one(app, asset) {
                Ok(true) => {}
                Ok(false) => indexed_at = Some(Instant::now()),
                Err(error) => {
                    indexed_at = Some(Instant::now());
                    tracing::warn!(app = %app.name, %asset, problem = in_full(&*error), "marks are not kept");
                }
            }
        }
        if is_database {
            fitness.turn(app, asset);
        }
        if stop.wait(LOOK_EVERY) {
            fitness.end(app, asset);
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

fn what_is_lacking(files: u64) -> String {
    format!(
        "the newest copy lacks {files} file(s) that could not be read at the source, and so would what is brought back \
         from it: let the agent there read them, or name them in exclude"
    )
}

fn look(app: &Arc<App>, asset: &AssetName, is_database: bool) -> Result<(), Failure> {
    if !app.copies.exists() {
        app.board.update(asset, |entry| entry.state = AssetState::Waiting);
        return Ok(());
    }
    let Some(NewestPoint { point, epoch, lacking }) = app.copies.newest(asset, is_database)? else {
        app.board.update(asset, |entry| entry.state = AssetState::Copying);
        return Ok(());
    };
    // The writer says so only until its agent is started anew.
    app.board.remark(asset, "lacking", lacking.map(what_is_lacking));
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
