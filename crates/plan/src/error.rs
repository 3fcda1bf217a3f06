use levee_model::{AppName, AssetName, Epoch, RunId, SiteName};

use crate::plan::{PlanId, StepId};

/// Why no plan could be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    #[error("cannot move {app} to {site}: it writes there already (epoch {epoch}); there is nothing to do")]
    AlreadyThere { app: AppName, site: SiteName, epoch: Epoch },
    #[error("{site} is not a site of {app}: its sites are {home} and {recovery}")]
    UnknownSite { app: AppName, site: SiteName, home: SiteName, recovery: SiteName },
    #[error(
        "cannot fail {app} over to {to} without a word on {from}: its agent is not connected, so nothing can stop the app there, and two sites might write. Either bring the agent at {from} back so that it can stop the app, or make sure that {from} is down and say so with --old-site-is-down"
    )]
    NotFenced { app: AppName, from: SiteName, to: SiteName },
    #[error(
        "cannot {doing} {app}: no agent of site {site} has joined; make a join token for it and start an agent there"
    )]
    NoAgent { doing: &'static str, app: AppName, site: SiteName },
    #[error(
        "cannot {doing} {app}: the agent at {site} is not connected; start it, or bring its link to the server back"
    )]
    AgentAway { doing: &'static str, app: AppName, site: SiteName },
    #[error(
        "cannot {doing} {app}: {site} has no complete recovery point of {asset} for epoch {epoch}; wait until `levee status {app}` shows one, or take {asset} out of the protection file to move the rest"
    )]
    NoRecoveryPoint { doing: &'static str, app: AppName, asset: AssetName, site: SiteName, epoch: Epoch },
    #[error(
        "cannot switch {app} over: {asset} is not protected at {site} ({state}), so something could be lost; wait until `levee status {app}` shows it protected, or run a failover"
    )]
    NotProtected { app: AppName, asset: AssetName, site: SiteName, state: String },
}

/// Why a run refused what was asked of it. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    #[error("run {run} has ended ({state}); start a new one")]
    Ended { run: RunId, state: String },
    #[error("run {run} has no step {step}; `levee run show {run}` lists its steps")]
    UnknownStep { run: RunId, step: StepId },
    #[error("step {step} of run {run} is {state}, and cannot be {asked} now")]
    NotNow { run: RunId, step: StepId, state: String, asked: &'static str },
    #[error("step {step} of run {run} cannot be skipped: {why}")]
    NotSkippable { run: RunId, step: StepId, why: String },
    #[error("step {step} of run {run} can be skipped only with a reason: say what was done by hand")]
    NoReason { run: RunId, step: StepId },
    #[error(
        "run {run} cannot be aborted: the app has been cut over to {to} (epoch {epoch}). Go forward (retry or skip the step that hangs), and come back with a switchover. Only if {to} is lost: make sure that it is down, and say so with --new-site-is-down"
    )]
    CutOver { run: RunId, to: SiteName, epoch: Epoch },
    #[error(
        "run {run} cannot be given up: its app has not been cut over. Abort it without --new-site-is-down: what it had begun is taken back"
    )]
    NotCutOver { run: RunId },
    #[error("plan {plan} does not match its content; make a new one with --dry-run")]
    Tampered { plan: PlanId },
}
