//! A drill at this site: a rebuilt copy that nobody else can reach, and its removal without a trace.

use std::sync::Arc;
use std::time::Instant;

use levee_model::control::{Done, Failure};
use levee_model::{AssetName, RunId};

use super::app::App;
use super::{database, rebuild};

/// Starts a drill's copy of an asset in isolation.
pub fn start(app: &Arc<App>, run: &RunId, asset: &AssetName) -> Result<Done, Failure> {
    if !app.assignment().spec.postgres.contains_key(asset) {
        return Ok(Done::Started { timeline: None, replay_s: 0.0 });
    }
    let begun = Instant::now();
    let timeline = database::start_in_isolation(app, run, asset)?;
    Ok(Done::Started { timeline: Some(timeline.0), replay_s: begun.elapsed().as_secs_f64() })
}

/// Ends the server of a drill's copy and removes its data, when an earlier attempt has left any. The run's other
/// assets are left alone: they are rebuilt at the same time.
pub fn end_and_remove(app: &Arc<App>, run: &RunId, asset: &AssetName) -> Result<(), Failure> {
    database::end_isolated(app, run, asset)?;
    let (data, private) = database::drill_places(app, run, asset);
    rebuild::remove_own(&data)?;
    rebuild::remove_own(&levee_database::postgres::restore::default_tablespaces(&data))?;
    rebuild::remove_own(&private)
}

/// Ends the drill's processes and removes its files. Done again, it finds nothing.
pub fn clean_up(app: &Arc<App>, run: &RunId) -> Result<Done, Failure> {
    let folder = app.folder.run(run);
    if folder.exists() {
        for asset in app.assignment().spec.postgres.keys() {
            database::end_isolated(app, run, asset)?;
        }
        rebuild::remove_own(&folder)?;
    }
    Ok(Done::Nothing)
}
