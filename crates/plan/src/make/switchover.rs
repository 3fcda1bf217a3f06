use std::collections::BTreeMap;

use levee_model::SiteName;
use levee_model::control::{AssetState, Place, Role};
use levee_model::protection::Rhythm;

use super::{Builder, check_points, check_target, connected_agent, step_id};
use crate::error::PlanError;
use crate::inputs::Inputs;
use crate::plan::{Executor, Plan, PlanKind, SkipRule, StepId, Work};
use crate::prediction::predict;

/// How far a staged database may be behind before its source is stopped: what is left to replay is a
/// part of the interruption.
const DATABASE_AGE_MS_MAX: u64 = 5_000;

/// The slack on top of a folder's period: its last copy is taken while the app is stopped, and is as
/// long as what has changed since the copy before.
const FILES_SLACK_MS: u64 = 15_000;

const DOING: &str = "switch over";

/// Moves the app to `to` with nothing lost and a short interruption.
pub fn switchover(inputs: &Inputs<'_>, to: &SiteName) -> Result<Plan, PlanError> {
    check_target(inputs, to)?;
    let from = &inputs.parent.writer;
    connected_agent(inputs, DOING, from)?;
    connected_agent(inputs, DOING, to)?;
    let state_of = |asset| inputs.asset_at(to, asset, Role::Recovery).map(|status| status.state);
    for asset in inputs.spec.asset_names() {
        let state = state_of(asset);
        if !matches!(state, Some(AssetState::Protected | AssetState::Staged)) {
            return Err(PlanError::NotProtected {
                app: inputs.app.clone(),
                asset: asset.clone(),
                site: to.clone(),
                state: state.map_or("nothing is known of it".into(), |state| format!("{state:?}").to_lowercase()),
            });
        }
    }
    check_points(inputs, DOING, to)?;

    let mut builder = Builder::new(inputs);
    let agent = Executor::Agent(to.clone());
    let never = |why: String| SkipRule::Never(why);
    let mut staged: Vec<StepId> = Vec::new();
    for asset in inputs.spec.asset_names().filter(|asset| state_of(asset) != Some(AssetState::Staged)) {
        staged.push(builder.add(
            step_id("stage", Some(asset)),
            format!("Keep {asset} replaying at {to}"),
            agent.clone(),
            Work::Stage { asset: asset.clone() },
            &[],
            SkipRule::ByHand,
        ));
    }
    let databases = inputs.spec.postgres.keys().map(|asset| (asset.clone(), DATABASE_AGE_MS_MAX));
    // A folder that is copied at certain hours may be a day behind; what is missing is copied when the app has stopped.
    let folders = inputs.spec.files.iter().filter_map(|(asset, spec)| match spec.rhythm() {
        Some(Rhythm::Every(period)) => Some((asset.clone(), period.milliseconds() + FILES_SLACK_MS)),
        _ => None,
    });
    let age_ms_max: BTreeMap<_, _> = databases.chain(folders).collect();
    let close = builder.add(
        step_id("close", None),
        format!("Wait until {to} is close behind"),
        Executor::Server,
        Work::AwaitClose { age_ms_max },
        &staged,
        SkipRule::ByHand,
    );
    let stop = builder.add(
        step_id("stop", None),
        format!("Stop the app at {from}"),
        Executor::Agent(from.clone()),
        Work::Stop { or_assertion: false, patience_s: 0, may_leave: false },
        &[close],
        never(format!("a switchover loses nothing; if {from} is lost, abort this run and fail over")),
    );
    let arrived = builder.add(
        step_id("await", None),
        format!("Wait until everything of {from} is durable at {to}"),
        agent.clone(),
        Work::AwaitStopped,
        &[stop],
        never("what has not arrived would be lost; abort this run and fail over if that must be".into()),
    );
    let caught_up: Vec<StepId> = inputs
        .spec
        .asset_names()
        .map(|asset| {
            builder.add(
                step_id("catch-up", Some(asset)),
                format!("Let {asset} catch up at {to}"),
                agent.clone(),
                Work::CatchUp { asset: asset.clone() },
                std::slice::from_ref(&arrived),
                never("what is not taken in would be lost; abort this run and fail over if that must be".into()),
            )
        })
        .collect();
    let seal = builder.cut_over(to, &caught_up);
    let probes: Vec<StepId> = inputs
        .spec
        .asset_names()
        .map(|asset| builder.bring_up(asset, to, Place::Live, std::slice::from_ref(&seal), true))
        .collect();
    let entries = builder.switch_entries(to, &probes);
    Ok(builder.finish(PlanKind::Switchover, to, entries, predict(inputs, to), Vec::new()))
}
