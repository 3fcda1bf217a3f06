//! Starting a protected database by hand, after a restart of its machine or for maintenance: through the same gate.

use std::time::Duration;

use levee_database::postgres::gate::StartGate;
use levee_database::postgres::instance::{Instance, ServerState};
use levee_model::AssetId;
use levee_model::control::Failure;

use super::app::{failure, in_full};
use super::database;
use super::folder::AppFolder;
use super::state::{AppState, Phase, Standing};
use crate::epochs::HeardEpochs;
use crate::{AgentFolder, durable};

/// How long crash recovery may take.
const START_MAX: Duration = Duration::from_secs(3600);

/// Starts a database of an app that is written at this site. The agent need not run.
///
/// `no_other_writer` is the operator's word that no other site has taken the app over, for when nobody can be
/// asked. Returns the server's process id.
pub fn start_database(folder: &AgentFolder, asset: &AssetId, no_other_writer: bool) -> Result<i32, Failure> {
    let unknown = || failure(format!("this agent has not been told of {asset}: see `levee agent status`"));
    let desired = folder.read_desired().map_err(|error| failure(in_full(&error)))?.ok_or_else(unknown)?;
    let assignment =
        desired.assignments.into_iter().find(|assignment| assignment.app == asset.app).ok_or_else(unknown)?;
    let spec = assignment.spec.postgres.get(&asset.asset).ok_or_else(unknown)?;
    let here = database::place(spec, &assignment.site)?;
    let app_folder = AppFolder::new(folder.root(), &asset.app);
    let state: AppState = durable::read_json(&app_folder.state())
        .map_err(|error| failure(format!("cannot read {}: {error}", app_folder.state().display())))?
        .ok_or_else(unknown)?;
    // While a run brings an app here, what it has started already is started again as well. What it stops is not.
    let is_started = state.phase == Phase::Sealed && state.standing(&asset.asset) == Standing::Live;
    if state.phase != Phase::Writer && !is_started {
        return Err(failure(format!(
            "app {} is not written at {} now (it is {:?} at epoch {}): if a run has stopped it, see `levee run list --open` \
             and end that with `levee run retry` or `abort`; otherwise move it here with `levee switchover` or `levee failover`",
            asset.app, assignment.site, state.phase, state.epoch
        )));
    }
    let heard = HeardEpochs::open(folder).map_err(|error| failure(in_full(&error)))?.get(&asset.app);
    if let Some(heard) = heard.filter(|heard| *heard > state.epoch) {
        return Err(failure(format!(
            "app {} may be written at another site: it has told of epoch {heard}, and this site knows epoch {} only; \
             start this site's agent and let it learn from the server",
            asset.app, state.epoch
        )));
    }
    let gate = StartGate::open(app_folder.root(), asset.app.clone());
    let shut = |error: levee_database::Error| failure(in_full(&error));
    if no_other_writer {
        gate.open_for_writer(state.epoch).map_err(shut)?;
    }
    gate.check_start(state.epoch).map_err(shut)?;
    let log = app_folder.server(&asset.asset).join("postgresql.log");
    let instance =
        Instance::open(&here.data_directory, &here.os_user, here.binaries.as_deref(), Some(&log)).map_err(shut)?;
    Ok(instance.start(ServerState::Ready, START_MAX).map_err(shut)?.pid)
}
