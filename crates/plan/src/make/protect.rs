use levee_model::control::{AssetState, Role};

use super::{Builder, connected_agent, step_id};
use crate::error::PlanError;
use crate::inputs::Inputs;
use crate::plan::{Executor, Plan, PlanKind, SkipRule, Work};
use crate::prediction::predict;

const DOING: &str = "protect";

/// Brings the copies of the app back to the site that does not write.
///
/// The agents do it by their assignments. This plan moves old data of a returned site out of the way and
/// then waits until that site has opened its new copies with its own keys.
pub fn protect(inputs: &Inputs<'_>) -> Result<Plan, PlanError> {
    let from = &inputs.parent.writer;
    let to = inputs.spec.peer_of(from);
    connected_agent(inputs, DOING, from)?;
    connected_agent(inputs, DOING, to)?;

    let mut builder = Builder::new(inputs);
    // A site that holds copies of this epoch has set its old data aside before it took the first of them.
    let holds_copies = inputs.spec.asset_names().any(|asset| {
        inputs.asset_at(to, asset, Role::Recovery).is_some_and(|status| {
            matches!(
                status.state,
                AssetState::Copying | AssetState::Received | AssetState::Protected | AssetState::Staged
            )
        })
    });
    let mut before = Vec::new();
    if !holds_copies {
        before.push(builder.add(
            step_id("set-aside", None),
            format!("Move old data at {to} out of the way"),
            Executor::Agent(to.clone()),
            Work::SetAside,
            &[],
            SkipRule::ByHand,
        ));
    }
    let assets = inputs.spec.asset_names().cloned().collect();
    builder.add(
        step_id("protect", None),
        format!("Wait until {to} has opened its copies with its own keys"),
        Executor::Server,
        Work::AwaitProtected { assets },
        &before,
        SkipRule::Never("it is done when it is so".into()),
    );
    Ok(builder.finish(PlanKind::Reprotect, to, Vec::new(), predict(inputs, to), Vec::new()))
}
