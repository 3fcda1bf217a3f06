//! An asset's own place at this site: copies that follow what arrives, and the start of the real thing.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use levee_model::control::{AssetPoint, Done, Failure};
use levee_model::{AssetName, Epoch, Position};

use super::app::{App, failure, transient};
use super::database::{self, Recover};
use super::rebuild;
use super::state::{Phase, Standing};

/// How long a staged copy may take to take in what has arrived. The command may be sent again.
const CATCH_UP_MAX: Duration = Duration::from_secs(300);
const CATCH_UP_EVERY: Duration = Duration::from_millis(20);

/// Makes a copy in the asset's own place that follows what arrives.
pub fn stage(app: &Arc<App>, asset: &AssetName) -> Result<Done, Failure> {
    if app.state().phase != Phase::Recovery {
        return Err(rebuild::nothing_to_stage(app));
    }
    let is_database = app.assignment().spec.postgres.contains_key(asset);
    if app.state().standing(asset) != Standing::Staged {
        let point = app
            .copies
            .point(asset, is_database)?
            .ok_or_else(|| transient(format!("{} has no complete copy of {asset} yet", app.context.site)))?;
        rebuild::put_in_place(app, asset, &point.position, Recover::ToFollow, Standing::Staged)?;
    }
    if is_database {
        keep_following(app, asset)?;
    }
    Ok(Done::Nothing)
}

/// Sees to it that a staged standby runs. Under the place's lock: once the next run has made a writer of it, a start from
/// here would go past the start gate.
fn keep_following(app: &Arc<App>, asset: &AssetName) -> Result<(), Failure> {
    let lock = app.place(asset);
    let _alone = lock.lock().unwrap_or_else(PoisonError::into_inner);
    match app.state().standing(asset) {
        Standing::Staged => database::run_standby(app, asset),
        _ => Ok(()),
    }
}

/// Takes what has newly arrived into a staged copy. A standby does so by itself, as long as it runs.
pub fn follow(app: &Arc<App>, asset: &AssetName, point: &AssetPoint) -> Result<(), Failure> {
    let lock = app.place(asset);
    let Ok(_alone) = lock.try_lock() else {
        // A run works on it.
        return Ok(());
    };
    if app.state().standing(asset) != Standing::Staged {
        return Ok(());
    }
    match &point.position {
        Position::Log(_) => database::run_standby(app, asset),
        Position::Snapshot { id, .. } => {
            if app.board.get(asset).point.as_ref() != Some(point) {
                rebuild::restore_files(app, asset, id, &rebuild::own_path(app, asset)?)?;
            }
            Ok(())
        }
    }
}

/// Waits until a staged copy has taken in everything up to the position.
pub fn catch_up(app: &Arc<App>, asset: &AssetName, position: &Position) -> Result<Done, Failure> {
    if app.state().standing(asset) != Standing::Staged {
        return match app.state().standing(asset) {
            // This run has rebuilt or started it already.
            Standing::Rebuilt | Standing::Live => Ok(Done::Nothing),
            _ => Err(failure(format!("{asset} is not staged at {}", app.context.site))),
        };
    }
    match position {
        Position::Snapshot { id, .. } => {
            let lock = app.place(asset);
            let _alone = lock.lock().unwrap_or_else(PoisonError::into_inner);
            if app.state().standing(asset) == Standing::Staged {
                rebuild::restore_files(app, asset, id, &rebuild::own_path(app, asset)?)?;
            }
        }
        Position::Log(wanted) => {
            keep_following(app, asset)?;
            let deadline = Instant::now() + CATCH_UP_MAX;
            loop {
                let replayed = database::replayed(app, asset)?;
                if replayed >= wanted.lsn {
                    break;
                }
                if Instant::now() >= deadline {
                    return Err(transient(format!(
                        "the standby of {asset} has replayed up to {replayed} and not to {} within {} s; its log is {}",
                        wanted.lsn,
                        CATCH_UP_MAX.as_secs(),
                        app.folder.server(asset).display()
                    )));
                }
                std::thread::sleep(CATCH_UP_EVERY);
            }
        }
    }
    Ok(Done::Nothing)
}

/// Takes what the operator has put into an asset's own place for its data.
fn take_over(app: &App, asset: &AssetName, epoch: Epoch) -> Result<(), Failure> {
    let path = rebuild::own_path(app, asset)?;
    let mark = if app.assignment().spec.postgres.contains_key(asset) { path.join("PG_VERSION") } else { path.clone() };
    if !mark.exists() {
        return Err(failure(format!(
            "{asset} was said to be restored by hand at {}, and {} does not exist: put its data there and retry",
            app.context.site,
            mark.display()
        )));
    }
    app.change_state(|state| {
        if state.standing(asset) == Standing::Absent && state.epoch == epoch && state.phase == Phase::Sealed {
            state.assets.insert(asset.clone(), Standing::Rebuilt);
        }
        Ok(())
    })
}

/// Starts the asset for writing, through the start gate. A standby is promoted. With `by_hand` it was the operator who has
/// put the data there.
pub fn start(app: &Arc<App>, asset: &AssetName, epoch: Epoch, by_hand: bool) -> Result<Done, Failure> {
    let lock = app.place(asset);
    let _alone = lock.lock().unwrap_or_else(PoisonError::into_inner);
    if by_hand {
        take_over(app, asset, epoch)?;
    }
    let gate = |message: String| failure(format!("{asset} may not be started at {}: {message}", app.context.site));
    app.state().may_start(asset, epoch).map_err(gate)?;
    // A site that was fenced by a peer's word keeps its own epoch, and must not start again at it.
    if let Some(heard) = app.context.heard.get(&app.name).filter(|heard| *heard > epoch) {
        return Err(gate(format!("the other site has told of epoch {heard}, and the command is for epoch {epoch}")));
    }
    let begun = Instant::now();
    let is_database = app.assignment().spec.postgres.contains_key(asset);
    let timeline = if is_database { Some(database::start_writing(app, asset, epoch)?) } else { None };
    // Asked again at the same epoch, a stopped app's assets are all live already: this alone starts it again.
    let noted = app.change_state(|state| {
        state.may_start(asset, epoch).map_err(gate)?;
        state.started(asset);
        Ok(())
    });
    if let Err(failure) = noted {
        // Another site may have been given the app while this one came up.
        if let Some(spec) = app.assignment().spec.postgres.get(asset) {
            database::stop_if_running(app, asset, database::place(spec, &app.context.site)?)?;
        }
        return Err(failure);
    }
    Ok(Done::Started { timeline: timeline.map(|timeline| timeline.0), replay_s: begun.elapsed().as_secs_f64() })
}
