//! Databases that have gone out of the protection file while their app stays: what Levee has left there is taken away,
//! and their data stay as they are.

use std::path::Path;
use std::sync::{Arc, TryLockError};
use std::time::Duration;

use levee_database::StopSignal;
use levee_model::control::Failure;
use levee_model::{AppName, AssetName};

use super::app::{App, transient};
use super::folder::AppFolder;
use super::release;
use super::state::{Leaving, Phase, Remnant};
use crate::context::ProtectContext;

/// How soon it is tried again: a slot in a database that is down can wait, for it holds nothing back.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Works on one database until nothing of Levee's is left there. It was noted durably, so that this goes on after a restart.
pub fn run(app: &Arc<App>, asset: &AssetName, stop: &StopSignal) {
    let about = format!("leaving {asset}");
    let say = |remark: Option<&str>| {
        // The asset itself is shown no more.
        for named in &app.named_assets() {
            app.board.remark(named, &about, remark.map(str::to_string));
        }
    };
    let mut said = String::new();
    while let Err(failure) = leave(app, asset) {
        if failure.message != said {
            tracing::warn!(app = %app.name, %asset, "{}; it is tried again", failure.message);
            said = failure.message;
        }
        if is_shown(app, asset) {
            say(Some(&format!("{said}; it is tried again")));
        }
        if stop.wait(RETRY_AFTER) {
            break;
        }
    }
    say(None);
}

/// A slot at a site that writes the app no more is one of a database that may never be started again.
fn is_shown(app: &App, asset: &AssetName) -> bool {
    let state = app.state();
    state.phase == Phase::Writer || state.leaving.get(asset).is_some_and(|leaving| leaving.remnant == Remnant::Standby)
}

fn leave(app: &App, asset: &AssetName) -> Result<(), Failure> {
    let place = app.place(asset);
    // Nothing may wait for what holds a place for hours: whoever ends this thread would wait for it as well.
    let _alone = match place.try_lock() {
        Ok(alone) => alone,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return Err(transient(format!("other work goes on at {asset}"))),
    };
    let Some(leaving) = app.state().leaving.get(asset).cloned() else { return Ok(()) };
    if app.named_assets().contains(asset) {
        // Named again, it is the next thread's that works on it.
        return Ok(());
    }
    take_away(&app.context, &app.name, &app.folder, asset, &leaving)?;
    app.change_state(|state| {
        // It may have come and gone meanwhile, to another place.
        if state.leaving.get(asset) == Some(&leaving) {
            state.leaving.remove(asset);
        }
        Ok(())
    })?;
    tracing::info!(app = %app.name, %asset, "it is protected no more, and nothing of Levee's is left in its place");
    Ok(())
}

/// Takes away what is left of ours at one database.
pub fn take_away(
    context: &ProtectContext,
    app: &AppName,
    folder: &AppFolder,
    asset: &AssetName,
    leaving: &Leaving,
) -> Result<(), Failure> {
    let here = &leaving.place;
    match leaving.remnant {
        Remnant::Standby => release::stop_standby(folder, asset, here),
        Remnant::Slot => {
            let whose = format!("{asset}, which the protection file names no more,");
            match release::drop_slot(context, app, asset, here, &whose) {
                Err(failure) if is_removed(&here.data_directory) => {
                    tracing::warn!(%app, %asset, "its data directory is gone, and so is its slot: {}", failure.message);
                    Ok(())
                }
                outcome => outcome,
            }
        }
    }
}

/// Whether a data directory was removed, and not only lies where this agent cannot see it: on another machine, on a disk
/// that is not there now, or behind rights that it lacks.
fn is_removed(data_directory: &Path) -> bool {
    let is_there = |path: &Path| path.try_exists().ok();
    is_there(data_directory) == Some(false) && data_directory.parent().and_then(is_there) == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_counts_as_removed_only_where_its_folder_is_seen_without_it() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("postgres");
        assert!(is_removed(&data));
        assert!(!is_removed(&data.join("15")), "on a disk that is not there");
        std::fs::create_dir(&data).unwrap();
        assert!(!is_removed(&data));
    }
}
