//! A site that wrote the app and does so no more: its old data go out of the way, never overwritten.

use std::path::PathBuf;
use std::sync::{Arc, TryLockError};

use jiff::Timestamp;
use levee_database::postgres::gate;
use levee_model::control::{Done, Failure};
use levee_model::protection::PostgresSpec;
use levee_model::{AssetName, Epoch, SiteName};

use super::app::{App, failure, in_full, transient};
use super::database;
use super::state::{Phase, Standing};

/// Ends the app's writing at this site, because the other site has been heard to write at a higher epoch. The
/// old data stay where they are until the server's own word comes.
pub fn fence(app: &Arc<App>, heard: Epoch) -> Result<(), Failure> {
    tracing::error!(app = %app.name, %heard, "another site writes this app at a higher epoch: stopping it here");
    stop_writing(app)
}

/// Shuts the start gate and stops every database. What fails holds up nothing else: each database that goes on writes
/// beside another site. `Stopped` is said only when all of it is done; until then, and after a restart of the agent, it is
/// done again.
fn stop_writing(app: &Arc<App>) -> Result<(), Failure> {
    let mut failures: Vec<String> = Vec::new();
    let mut attempt = |outcome: Result<(), Failure>| failures.extend(outcome.err().map(|failure| failure.message));
    attempt(app.change_state(|state| {
        if state.phase != Phase::Stopped {
            state.phase = Phase::Stopping;
        }
        Ok(())
    }));
    attempt(database::shut_gate(app));
    let assignment = app.assignment();
    // Side by side: one that takes its time must not let another write for as long.
    let stopped = std::thread::scope(|scope| {
        let stops: Vec<_> = assignment
            .spec
            .postgres
            .iter()
            .map(|(asset, spec)| scope.spawn(|| stop_asset(app, asset, spec, &assignment.site)))
            .collect();
        let panicked = |_| Err(failure("stopping a database has panicked"));
        stops.into_iter().map(|stop| stop.join().unwrap_or_else(panicked)).collect::<Vec<_>>()
    });
    stopped.into_iter().for_each(&mut attempt);
    if !failures.is_empty() {
        return Err(transient(format!(
            "app {} is not stopped at {} as a whole, and is written elsewhere: {}. It is tried again; stop its databases by \
             hand where that does not help",
            app.name,
            app.context.site,
            failures.join("; ")
        )));
    }
    app.change_state(|state| {
        state.phase = Phase::Stopped;
        Ok(())
    })
}

fn stop_asset(app: &App, asset: &AssetName, spec: &PostgresSpec, site: &SiteName) -> Result<(), Failure> {
    let place = app.place(asset);
    // What holds it may take hours, and nothing else may wait for that.
    let _alone = match place.try_lock() {
        Ok(alone) => alone,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return Err(transient(format!("a run is still at work on {asset}"))),
    };
    // A copy that only follows writes nothing. Asked under the lock: a start may have been promoting it until now.
    if app.state().standing(asset) == Standing::Staged {
        return Ok(());
    }
    database::stop_if_running(app, asset, database::place(spec, site)?)
}

/// Becomes the recovery side at `epoch`: stops what still runs, sets all old data aside. Done again, it goes on.
pub fn demote(app: &Arc<App>, epoch: Epoch) -> Result<(), Failure> {
    // Before anything else, and durably: from here on the start gate is shut, also after a crash.
    stop_writing(app)?;
    set_aside(app)?;
    app.change_state(|state| {
        state.epoch = epoch;
        state.phase = Phase::Recovery;
        Ok(())
    })?;
    app.board.clear();
    Ok(())
}

/// Sets every asset's old data aside. Done again, it finds nothing to move.
pub fn set_aside(app: &Arc<App>) -> Result<Done, Failure> {
    let state = app.state();
    if state.phase == Phase::Writer {
        return Err(failure(format!("app {} is written at this site: its data are in use", app.name)));
    }
    let mut moved_to = Vec::new();
    for asset in app.assignment().spec.asset_names() {
        // A staged copy is no old data.
        if state.standing(asset) == Standing::Staged {
            continue;
        }
        moved_to.extend(set_asset_aside(app, asset)?);
    }
    Ok(Done::SetAside { moved_to })
}

/// Moves what lies in an asset's own place out of the way. A database in it is stopped first.
fn set_asset_aside(app: &Arc<App>, asset: &AssetName) -> Result<Option<PathBuf>, Failure> {
    let place = app.place(asset);
    let _alone = place.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    set_place_aside(app, asset)
}

/// The same for whoever holds the lock of the asset's place.
pub fn set_place_aside(app: &App, asset: &AssetName) -> Result<Option<PathBuf>, Failure> {
    let assignment = app.assignment();
    let site = &assignment.site;
    let (epoch, now) = (app.state().epoch, Timestamp::now());
    let mut tablespaces = Vec::new();
    let path = if let Some(spec) = assignment.spec.postgres.get(asset) {
        let here = database::place(spec, site)?;
        database::stop_if_running(app, asset, here)?;
        // Before the data directory: without it nothing says any more where they are.
        tablespaces = gate::set_tablespaces_aside(&here.data_directory, here.tablespaces.values(), epoch, now)
            .map_err(|error| failure(format!("cannot set the tablespaces of {asset} aside: {}", in_full(&error))))?;
        here.data_directory.clone()
    } else {
        match assignment.spec.files.get(asset).and_then(|spec| spec.at.get(site)) {
            Some(here) => here.path.clone(),
            None => return Ok(None),
        }
    };
    // An empty folder holds nothing to keep.
    let moved = match std::fs::remove_dir(&path) {
        Ok(()) => None,
        Err(_) => gate::set_aside(&path, epoch, now)
            .map_err(|error| failure(format!("cannot set {} aside: {}", path.display(), in_full(&error))))?,
    };
    app.change_state(|state| {
        state.assets.insert(asset.clone(), Standing::Absent);
        state.set_aside.extend(moved.iter().chain(&tablespaces).cloned());
        Ok(())
    })?;
    if let Some(moved) = &moved {
        tracing::warn!(app = %app.name, %asset, "old data were set aside in {}", moved.display());
    }
    Ok(moved)
}

/// A staged copy that is of no use makes room for one that is rebuilt. What has been started since stays.
pub fn set_staged_aside(app: &App, asset: &AssetName) -> Result<(), Failure> {
    let place = app.place(asset);
    let _alone = place.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    match app.state().standing(asset) {
        Standing::Staged => set_place_aside(app, asset).map(drop),
        _ => Ok(()),
    }
}
