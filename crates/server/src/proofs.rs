//! What a drill has shown.

use std::collections::BTreeMap;

use jiff::Timestamp;
use levee_model::AssetName;
use levee_plan::{Run, StepState, When, Work};

use crate::control::{BackupView, Proof};

/// The proof of a drill that has come to its end, well or not.
pub fn of(run: &Run, now: Timestamp) -> Proof {
    let mut failed: Vec<String> = Vec::new();
    for step in run.plan.steps.iter().filter(|step| step.when == When::Done) {
        let Some(record) = run.steps.get(&step.id) else { continue };
        match &record.state {
            StepState::Done => {}
            StepState::Failed { failure } => failed.push(format!("{}: {}", step.title, failure.message)),
            StepState::Skipped { reason, .. } => failed.push(format!("{}: skipped ({reason})", step.title)),
            _ if run.facts.aborted_by.is_some() => failed.push(format!("{}: the drill was aborted", step.title)),
            _ => {}
        }
    }
    if let Some(by) = &run.facts.aborted_by {
        failed.insert(0, format!("aborted by {by}"));
    }
    let probes_passed = !run.facts.probes.is_empty() && run.facts.probes.values().all(|probe| probe.passed);
    let up_at = run
        .plan
        .steps
        .iter()
        .filter(|step| matches!(step.work, Work::Probe { .. }))
        .filter_map(|step| run.steps.get(&step.id)?.ended_at)
        .max();
    let chosen_at = run
        .plan
        .steps
        .iter()
        .find(|step| step.work == Work::ChoosePoint)
        .and_then(|step| run.steps.get(&step.id)?.ended_at);
    let seconds = |from: Timestamp, to: Timestamp| to.duration_since(from).as_secs_f64().max(0.0);
    let oldest = run.facts.point.as_ref().and_then(|point| point.assets.values().map(|asset| asset.as_of).min());
    let passed = failed.is_empty() && probes_passed;
    Proof {
        run: run.id.clone(),
        app: run.plan.app.clone(),
        at: now,
        site: run.plan.to.clone(),
        passed,
        detail: failed.join("; "),
        probes: run.facts.probes.clone(),
        recovery_time_s: up_at.filter(|_| passed).map(|at| seconds(run.started_at, at)),
        recovery_point_age_s: oldest.zip(chosen_at).map(|(as_of, at)| seconds(as_of, at)),
        point: run.facts.point.clone(),
    }
}

/// Notes which backups a run has restored and probed, when they are newer than those that are known; says whether any
/// is. A drill and a move of the app prove the same.
pub fn add_proven(proven: &mut BTreeMap<AssetName, BackupView>, run: &Run) -> bool {
    let Some(point) = &run.facts.point else { return false };
    let mut changed = false;
    for (asset, point) in &point.assets {
        if !run.facts.probes.get(asset).is_some_and(|probe| probe.passed) {
            continue;
        }
        let is_probe = |work: &Work| matches!(work, Work::Probe { asset: probed, .. } if probed == asset);
        let probed_at = run.plan.steps.iter().filter(|step| is_probe(&step.work));
        let at = probed_at.filter_map(|step| run.steps.get(&step.id)?.ended_at).max().or(run.ended_at);
        if proven.get(asset).is_some_and(|known| known.as_of > point.as_of) {
            continue;
        }
        let view = BackupView { position: point.position.clone(), as_of: point.as_of, at, run: Some(run.id.clone()) };
        changed |= proven.insert(asset.clone(), view.clone()).as_ref() != Some(&view);
    }
    changed
}
