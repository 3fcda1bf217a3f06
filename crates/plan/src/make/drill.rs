use levee_model::control::Place;

use super::{Builder, check_points, connected_agent, step_id};
use crate::error::PlanError;
use crate::inputs::Inputs;
use crate::plan::{Executor, Plan, PlanKind, SkipRule, StepId, Work};
use crate::prediction::predict;

const DOING: &str = "drill";

/// Rebuilds the app in isolation at its recovery site, probes it, and removes it again. The app itself
/// and its entries are never touched.
pub fn drill(inputs: &Inputs<'_>) -> Result<Plan, PlanError> {
    let to = inputs.spec.peer_of(&inputs.parent.writer);
    connected_agent(inputs, DOING, to)?;
    check_points(inputs, DOING, to)?;

    let mut builder = Builder::new(inputs);
    let agent = Executor::Agent(to.clone());
    let choose = builder.add(
        step_id("choose", None),
        "Choose the newest complete recovery point".into(),
        agent.clone(),
        Work::ChoosePoint,
        &[],
        SkipRule::Never("everything after it goes by the chosen point".into()),
    );
    let by_hand = || SkipRule::Never("a drill proves only what it has done itself; abort it".into());
    for asset in inputs.spec.asset_names() {
        let ready = builder.add(
            step_id("rebuild", Some(asset)),
            format!("Rebuild {asset} at {to}, in isolation"),
            agent.clone(),
            Work::Rebuild { asset: asset.clone(), place: Place::Drill },
            std::slice::from_ref(&choose),
            by_hand(),
        );
        builder.bring_up(asset, to, Place::Drill, &[ready], false);
    }
    for step in &mut builder.steps {
        step.skip = by_hand();
    }
    // After every other step, not only the last ones: when one has failed, others may still be at work.
    let everything: Vec<StepId> = builder.steps.iter().map(|step| step.id.clone()).collect();
    let clean_up = builder.add(
        step_id("clean-up", None),
        "Remove what the drill has made".into(),
        agent,
        Work::CleanUp,
        &everything,
        SkipRule::ByHand,
    );
    builder.whatever_happens(&clean_up);
    let proof = builder.add(
        step_id("record", None),
        "Record what the drill has shown".into(),
        Executor::Server,
        Work::RecordProof,
        &[clean_up],
        SkipRule::Never("it is done at once".into()),
    );
    builder.whatever_happens(&proof);
    Ok(builder.finish(PlanKind::Drill, to, Vec::new(), predict(inputs, to), Vec::new()))
}
