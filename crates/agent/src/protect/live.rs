//! An asset's own place at this site: copies that follow what arrives, and the start of the real thing.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use levee_database::postgres::hindrance::Hindrance;
use levee_model::control::{AssetPoint, Done, Failure};
use levee_model::postgres::Lsn;
use levee_model::{AssetName, Epoch, Position};

use super::app::{App, failure, transient};
use super::database::{self, NotRunning, Recover};
use super::rebuild;
use super::state::{Phase, Standing};

/// How long a staged copy may take to take in what has arrived. The command may be sent again.
const CATCH_UP_MAX: Duration = Duration::from_secs(300);
const CATCH_UP_EVERY: Duration = Duration::from_millis(20);
/// A standby that replays nothing for so long does not get on: PostgreSQL itself waits half a minute for its readers.
const STALLED_MAX: Duration = Duration::from_secs(120);
const STANDBY_ATTEMPTS: u32 = 4;
const STANDBY_PAUSE: Duration = Duration::from_secs(1);

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
fn keep_following(app: &Arc<App>, asset: &AssetName) -> Result<(), NotRunning> {
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
        Position::Log(_) => Ok(database::run_standby(app, asset)?),
        Position::Snapshot { id, .. } => {
            if app.board.get(asset).point.as_ref() != Some(point) {
                rebuild::take_in_files(app, asset, id)?;
            }
            Ok(())
        }
    }
}

/// Waits until a staged copy has taken in everything up to the position.
pub fn catch_up(app: &Arc<App>, asset: &AssetName, position: &Position) -> Result<Done, Failure> {
    match take_in(app, asset, position) {
        Ok(()) => Ok(Done::Nothing),
        Err(Behind::Waits(failure) | Behind::Broken(failure)) => Err(failure),
    }
}

/// Why a staged copy has not taken in what it was to.
pub enum Behind {
    /// It may yet.
    Waits(Failure),
    /// It does not get on by itself.
    Broken(Failure),
}

impl From<Failure> for Behind {
    fn from(failure: Failure) -> Self {
        Behind::Waits(failure)
    }
}

/// The same, for whoever can do without this copy.
pub fn take_in(app: &Arc<App>, asset: &AssetName, position: &Position) -> Result<(), Behind> {
    let (state, site) = (app.state(), &app.context.site);
    match state.standing(asset) {
        Standing::Staged => {}
        // This run has rebuilt or started it already.
        _ if state.is_of_this_run(asset) => return Ok(()),
        Standing::Rebuilt | Standing::Live => {
            return Err(failure(format!(
                "what stands in the place of {asset} at {site} is of an earlier time there, and is not what this run wants: \
                 restart the agent at {site}, so that it counts as old data, abort the run and make a new plan"
            ))
            .into());
        }
        Standing::Absent => return Err(failure(format!("{asset} is not staged at {site}")).into()),
    }
    match position {
        Position::Snapshot { id, .. } => {
            let lock = app.place(asset);
            let _alone = lock.lock().unwrap_or_else(PoisonError::into_inner);
            if app.state().standing(asset) == Standing::Staged {
                rebuild::take_in_files(app, asset, id)?;
            }
            Ok(())
        }
        Position::Log(wanted) => replay_up_to(app, asset, wanted.lsn),
    }
}

fn replay_up_to(app: &Arc<App>, asset: &AssetName, wanted: Lsn) -> Result<(), Behind> {
    let log = || app.folder.server(asset).display().to_string();
    let begun = Instant::now();
    let (mut furthest, mut moved_at) = (None, begun);
    // As long as it answers, it runs.
    let (mut answers, mut failures) = (false, 0);
    let logged_before = database::logged_bytes(app, asset);
    loop {
        let follows = if answers { Ok(()) } else { keep_following(app, asset) };
        let replayed = match follows.and_then(|()| database::replayed(app, asset).map_err(NotRunning::from)) {
            Ok(replayed) => replayed,
            Err(NotRunning { failure, hindrance }) => {
                (answers, failures) = (false, failures + 1);
                if failures == STANDBY_ATTEMPTS {
                    // One that runs and is not to be asked has nothing wrong with its data.
                    if database::runs(app, asset)? {
                        return Err(Behind::Waits(failure));
                    }
                    let hindrance = match hindrance {
                        Some(hindrance) => Some(hindrance),
                        None => database::hindrance(app, asset, logged_before)?,
                    };
                    return Err(broken_unless_hindered(asset, hindrance, failure));
                }
                std::thread::sleep(STANDBY_PAUSE);
                continue;
            }
        };
        if replayed >= wanted {
            return Ok(());
        }
        (answers, failures) = (true, 0);
        if furthest.is_none_or(|furthest| replayed > furthest) {
            (furthest, moved_at) = (Some(replayed), Instant::now());
        }
        if moved_at.elapsed() >= STALLED_MAX {
            let failure = transient(format!(
                "the standby of {asset} has replayed up to {replayed} and, for {} s, nothing of what follows up to {wanted}; \
                 its log is {}",
                STALLED_MAX.as_secs(),
                log()
            ));
            // Where its disk is full, it gets no further log.
            return Err(broken_unless_hindered(asset, database::hindrance_from_outside(app, asset)?, failure));
        }
        if begun.elapsed() >= CATCH_UP_MAX {
            return Err(Behind::Waits(transient(format!(
                "the standby of {asset} has replayed up to {replayed} and not to {wanted} within {} s; its log is {}",
                CATCH_UP_MAX.as_secs(),
                log()
            ))));
        }
        std::thread::sleep(CATCH_UP_EVERY);
    }
}

/// A copy that this host hinders is kept: another would be hindered as well, and takes its space a second time.
fn broken_unless_hindered(asset: &AssetName, hindrance: Option<Hindrance>, failure: Failure) -> Behind {
    let Some(hindrance) = hindrance else { return Behind::Broken(failure) };
    Behind::Waits(Failure {
        message: format!(
            "the staged copy of {asset} is hindered, and is kept as it is: {hindrance}, and retry. {}",
            failure.message
        ),
        ..failure
    })
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
    let named = app.named_assets();
    let noted = app.change_state(|state| {
        state.may_start(asset, epoch).map_err(gate)?;
        state.started(asset, &named);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_the_host_hinders_is_kept_and_one_that_nothing_hinders_is_broken() {
        let asset = "orders".parse().unwrap();
        let judged = |hindrance| broken_unless_hindered(&asset, hindrance, transient("the standby does not run"));
        let hindrances = [
            (Hindrance::DiskFull, "make room"),
            (Hindrance::PortTaken, "port"),
            (Hindrance::NotInstalled, "install"),
            (Hindrance::Denied, "user"),
            (Hindrance::Memory, "memory"),
        ];
        for (hindrance, words) in hindrances {
            let Behind::Waits(failure) = judged(Some(hindrance)) else { panic!("{hindrance:?} breaks no data") };
            assert!(failure.transient, "it may pass: {hindrance:?}");
            for words in ["orders", "kept", words, "the standby does not run"] {
                assert!(failure.message.contains(words), "{words:?} is not in {}", failure.message);
            }
        }
        let Behind::Broken(failure) = judged(None) else { panic!("nothing else is in its way") };
        assert_eq!(failure.message, "the standby does not run");
    }
}
