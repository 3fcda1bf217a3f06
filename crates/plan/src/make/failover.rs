use levee_model::SiteName;
use levee_model::control::{AssetState, Place, Role};

use super::{Builder, check_points, check_target, connected_agent, step_id};
use crate::error::PlanError;
use crate::inputs::Inputs;
use crate::plan::{Executor, Plan, PlanKind, SkipRule, Work};
use crate::prediction::predict;

/// How long the old agent has to answer when the operator has said that its site is down. A connection
/// that still stands may be a dead one; a live agent uses the time to stop its database.
const STOP_PATIENCE_S: u32 = 20;

const DOING: &str = "fail over";

/// Brings the app back at `to`, from what is there.
///
/// The old site is fenced first: by its agent's durable answer when the agent is connected, otherwise by
/// the operator's assertion. An agent that is connected is asked even then, because an operator can be
/// wrong about a site, and a link that is cut between the sites says nothing about the old one.
pub fn failover(inputs: &Inputs<'_>, to: &SiteName) -> Result<Plan, PlanError> {
    check_target(inputs, to)?;
    let from = &inputs.parent.writer;
    connected_agent(inputs, DOING, to)?;
    let old_agent_is_connected = inputs.agent_at(from).is_some_and(|view| view.connected);
    if !old_agent_is_connected && inputs.assertion.is_none() {
        return Err(PlanError::NotFenced { app: inputs.app.clone(), from: from.clone(), to: to.clone() });
    }
    check_points(inputs, DOING, to)?;

    let mut builder = Builder::new(inputs);
    let fence = if old_agent_is_connected {
        builder.add(
            step_id("stop", None),
            format!("Stop the app at {from}"),
            Executor::Agent(from.clone()),
            Work::Stop { or_assertion: inputs.assertion.is_some(), patience_s: STOP_PATIENCE_S, may_leave: true },
            &[],
            SkipRule::AsAssertion,
        )
    } else {
        builder.add(
            step_id("assert", None),
            format!("Record the operator's word that {from} is down"),
            Executor::Server,
            Work::Assert,
            &[],
            SkipRule::Never("it is done at once".into()),
        )
    };
    let seal = builder.cut_over(to, &[fence]);
    let agent = Executor::Agent(to.clone());
    let choose = builder.add(
        step_id("choose", None),
        "Choose the newest complete recovery point".into(),
        agent.clone(),
        Work::ChoosePoint,
        &[seal],
        SkipRule::Never("everything after it goes by the chosen point".into()),
    );
    builder.at_next_epoch(&choose);
    let mut probes = Vec::new();
    let mut warnings = Vec::new();
    for asset in inputs.spec.asset_names() {
        let state = inputs.asset_at(to, asset, Role::Recovery).map(|status| status.state);
        // A staged copy that turns out to be broken is rebuilt too: nobody is left to go back to.
        let title = match state {
            Some(AssetState::Staged) => format!("Let the staged copy of {asset} catch up at {to}"),
            _ => format!("Rebuild {asset} at {to}"),
        };
        if !matches!(state, Some(AssetState::Protected | AssetState::Staged)) {
            warnings.push(format!("{asset}: {to} has not opened its data with its own keys yet"));
        }
        let ready = builder.add(
            step_id("rebuild", Some(asset)),
            title,
            agent.clone(),
            Work::Rebuild { asset: asset.clone(), place: Place::Live },
            std::slice::from_ref(&choose),
            SkipRule::ByHand,
        );
        builder.at_next_epoch(&ready);
        probes.push(builder.bring_up(asset, to, Place::Live, &[ready], true));
    }
    let entries = builder.switch_entries(to, &probes);
    if old_agent_is_connected {
        // The points can only have moved on when the site stops, so this bounds the loss whatever happens until then.
        warnings.push(format!(
            "{from} sends its last changes when it stops. What it cannot send, for example over a cut link, stays there \
             and is lost here: at most everything after the points above"
        ));
    } else {
        warnings.push(format!(
            "{from} is taken to be down on the operator's word alone: if it still writes, what it writes is lost"
        ));
    }
    Ok(builder.finish(PlanKind::Failover, to, entries, predict(inputs, to), warnings))
}
