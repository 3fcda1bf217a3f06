//! Rebuilding one asset at a position, in the app's own place or in a drill's scratch folder.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use levee_model::control::{Done, Failure, Place};
use levee_model::protection::FilesSpec;
use levee_model::{AssetName, Position, RunId};
use levee_vault::restore::{self, Holes, Overwrite, RestoreLock, RestoreOptions};
use levee_vault::{RESTORE_LOCK_PATIENCE, SnapshotId};

use super::app::{App, failure, in_full};
use super::database::{self, Recover, Restored};
use super::live::{self, Behind};
use super::state::{AppState, Phase, Standing};
use super::{demote, drill, unsettled};

/// Rebuilds an asset. A database is left stopped, ready to be started.
pub fn rebuild(
    app: &Arc<App>,
    run: &RunId,
    asset: &AssetName,
    position: &Position,
    place: &Place,
) -> Result<Done, Failure> {
    let begun = Instant::now();
    let Restored { bytes, passed_over } = match (place, position) {
        (Place::Drill, Position::Log(position)) => {
            drill::end_and_remove(app, run, asset)?;
            database::restore_in_isolation(app, run, asset, position)?
        }
        (Place::Drill, Position::Snapshot { id, .. }) => {
            let target = app.folder.run(run).join(asset.as_str());
            remove_own(&target)?;
            Restored { bytes: restore_files(app, asset, id, &target, Overwrite::Always)?, passed_over: None }
        }
        (Place::Live, _) => {
            let put = || put_in_place(app, asset, position, Recover::ToWrite, Standing::Rebuilt);
            let mut restored = put()?;
            if restored.is_none() {
                // Rebuilt or started by this run before: nothing to do again. A copy that was staged, also by a run that was
                // aborted after this one was planned, may still be behind the position, or of no use.
                match live::take_in(app, asset, position) {
                    Ok(()) => {}
                    Err(Behind::Waits(failure)) => return Err(failure),
                    Err(Behind::Broken(failure)) => {
                        tracing::warn!(app = %app.name, %asset, "the staged copy is rebuilt: {}", failure.message);
                        demote::set_staged_aside(app, asset)?;
                        restored = put()?;
                    }
                }
            }
            restored.unwrap_or(Restored { bytes: 0, passed_over: None })
        }
    };
    Ok(Done::Rebuilt { bytes, copy_s: begun.elapsed().as_secs_f64(), passed_over })
}

/// Where a copy is put together, beside the place that it is for, so that it gets there by one rename.
fn incoming(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!("{name}.levee-incoming"))
}

/// Puts a copy into the asset's own place, unless one stands there already. What lies there is set aside, never
/// overwritten.
///
/// The place is held all the while: a run that was aborted leaves its stage at work, and the next one must neither take a
/// half-made copy for its own nor have it put over what it has rebuilt.
pub fn put_in_place(
    app: &Arc<App>,
    asset: &AssetName,
    position: &Position,
    recover: Recover,
    standing: Standing,
) -> Result<Option<Restored>, Failure> {
    let place = app.place(asset);
    let _alone = place.lock().unwrap_or_else(PoisonError::into_inner);
    if app.state().standing(asset) != Standing::Absent {
        return Ok(None);
    }
    may_stand(app, &app.state(), &standing)?;
    let restored = match position {
        Position::Log(position) => {
            demote::set_place_aside(app, asset)?;
            database::restore_in_place(app, asset, position, recover)?
        }
        Position::Snapshot { id, .. } => {
            let target = own_path(app, asset)?;
            let incoming = incoming(&target);
            remove_own(&incoming)?;
            let bytes = restore_files(app, asset, id, &incoming, Overwrite::Always)?;
            demote::set_place_aside(app, asset)?;
            let moved = std::fs::rename(&incoming, &target).and_then(|()| match target.parent() {
                Some(parent) => std::fs::File::open(parent)?.sync_all(),
                None => Ok(()),
            });
            moved.map_err(|error| {
                failure(format!("cannot move {} to {}: {error}", incoming.display(), target.display()))
            })?;
            Restored { bytes, passed_over: None }
        }
    };
    app.change_state(|state| {
        may_stand(app, state, &standing)?;
        state.assets.insert(asset.clone(), standing);
        Ok(())
    })?;
    Ok(Some(restored))
}

/// A copy that follows is of use only while this site is the recovery side. One that was staged too late is set aside by
/// whoever rebuilds.
fn may_stand(app: &App, state: &AppState, standing: &Standing) -> Result<(), Failure> {
    if *standing == Standing::Staged && state.phase != Phase::Recovery {
        return Err(nothing_to_stage(app));
    }
    Ok(())
}

pub fn nothing_to_stage(app: &App) -> Failure {
    failure(format!("app {} is not protected at {}: nothing to stage", app.name, app.context.site))
}

/// The asset's own place at this site.
pub fn own_path(app: &App, asset: &AssetName) -> Result<PathBuf, Failure> {
    let assignment = app.assignment();
    let site = &assignment.site;
    if let Some(spec) = assignment.spec.postgres.get(asset) {
        return Ok(database::place(spec, site)?.data_directory.clone());
    }
    files_spec(app, asset)?
        .at
        .get(site)
        .map(|here| here.path.clone())
        .ok_or_else(|| failure(format!("the protection file has no place for {asset} at {site}")))
}

pub fn files_spec(app: &App, asset: &AssetName) -> Result<FilesSpec, Failure> {
    let assignment = app.assignment();
    assignment.spec.files.get(asset).cloned().ok_or_else(|| failure(format!("app {} has no asset {asset}", app.name)))
}

/// Makes a staged copy equal to a snapshot. What it holds was put there by Levee: size and time of change tell what
/// differs, unless the machine went down meanwhile.
pub fn take_in_files(app: &App, asset: &AssetName, id: &str) -> Result<(), Failure> {
    let note = app.folder.unsettled(asset);
    let fail = |error| {
        failure(format!("cannot note in {} that the copy of {asset} takes something in: {error}", note.display()))
    };
    let overwrite = if unsettled::begin(&note).map_err(fail)? { Overwrite::IfChanged } else { Overwrite::Always };
    restore_files(app, asset, id, &own_path(app, asset)?, overwrite)?;
    unsettled::end(&note).map_err(fail)
}

/// Makes a folder equal to a snapshot, changing only what differs.
fn restore_files(app: &App, asset: &AssetName, id: &str, target: &Path, overwrite: Overwrite) -> Result<u64, Failure> {
    let fail = |reason: String| failure(format!("cannot restore {asset} to {}: {reason}", target.display()));
    let id: SnapshotId = id.parse().map_err(|_| fail(format!("{id:?} is not the full id of a snapshot")))?;
    let vault = app.copies.vault()?;
    let snapshot = vault.read_snapshot(&id).map_err(|error| fail(in_full(&error)))?;
    let source = snapshot.paths.first().ok_or_else(|| fail(format!("snapshot {id} names no folder")))?;
    std::fs::create_dir_all(target).map_err(|error| fail(error.to_string()))?;
    let options = RestoreOptions {
        subfolder: Some(PathBuf::from(source)),
        delete: true,
        durable: true,
        // A file with holes may be larger than the disk: with its zeros written out it would not fit here.
        holes: Holes::Everywhere,
        overwrite,
        target: target.to_path_buf(),
        lock: RestoreLock::IfPossible,
        patience: RESTORE_LOCK_PATIENCE,
        ..RestoreOptions::default()
    };
    let summary = restore::restore(&vault, &id, &options, &()).map_err(|error| fail(in_full(&error)))?;
    if let Some(first) = summary.errors.first.first() {
        return Err(fail(format!(
            "{} item(s) could not be restored, first: {}: {}",
            summary.errors.count,
            first.path.display(),
            first.message
        )));
    }
    Ok(summary.bytes_written)
}

/// Removes a folder that only Levee itself has filled.
pub fn remove_own(path: &Path) -> Result<(), Failure> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(failure(format!("cannot remove {}: {error}", path.display())))
        }
        _ => Ok(()),
    }
}
