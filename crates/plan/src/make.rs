//! Policy and inventory → a plan. One file for each kind.

mod drill;
mod failover;
mod protect;
mod switchover;

use levee_model::control::{EntryRecord, Place, Role};
use levee_model::protection::{AppSpec, EntrySpec};
use levee_model::{AppName, AssetName, Epoch, SiteName};

pub use drill::drill;
pub use failover::failover;
pub use protect::protect;
pub use switchover::switchover;

use crate::error::PlanError;
use crate::inputs::{AgentView, Inputs};
use crate::plan::{Executor, Plan, PlanId, PlanKind, SkipRule, Step, StepId, When, Work};
use crate::prediction::{Prediction, rounded_s};

pub(crate) fn step_id(verb: &str, asset: Option<&AssetName>) -> StepId {
    StepId(asset.map_or_else(|| verb.to_string(), |asset| format!("{verb}-{asset}")))
}

/// Collects the steps of a plan.
struct Builder<'a> {
    inputs: &'a Inputs<'a>,
    steps: Vec<Step>,
}

impl<'a> Builder<'a> {
    fn new(inputs: &'a Inputs<'a>) -> Self {
        Self { inputs, steps: Vec::new() }
    }

    /// Adds a step at the present epoch and returns its id.
    fn add(&mut self, id: StepId, title: String, at: Executor, work: Work, after: &[StepId], skip: SkipRule) -> StepId {
        self.steps.push(Step {
            expected_s: self.inputs.measurements.seconds.get(&id).copied().map(rounded_s),
            id: id.clone(),
            title,
            at,
            work,
            epoch: self.inputs.epoch(),
            after: after.to_vec(),
            when: When::Done,
            skip,
        });
        id
    }

    fn at_next_epoch(&mut self, id: &StepId) {
        let next = self.inputs.epoch().next();
        if let Some(step) = self.steps.iter_mut().find(|step| step.id == *id) {
            step.epoch = next;
        }
    }

    fn whatever_happens(&mut self, id: &StepId) {
        if let Some(step) = self.steps.iter_mut().find(|step| step.id == *id) {
            step.when = When::Ended;
        }
    }

    /// The cut-over and the seal that follows it; returns the seal's id.
    fn cut_over(&mut self, to: &SiteName, after: &[StepId]) -> StepId {
        let next = self.inputs.epoch().next();
        let never = |why: &str| SkipRule::Never(why.into());
        let advance = self.add(
            step_id("advance", None),
            format!("Epoch {next}: {to} may write, its vault is frozen until the app is protected elsewhere"),
            Executor::Server,
            Work::AdvanceEpoch { to: next, writer: to.clone() },
            after,
            never("only the server changes the epoch"),
        );
        let seal = self.add(
            step_id("seal", None),
            format!("Refuse everything older than epoch {next} at {to}"),
            Executor::Agent(to.clone()),
            Work::Seal,
            &[advance],
            never("without it the old site could still write into the copies at the new one"),
        );
        self.at_next_epoch(&seal);
        seal
    }

    /// Starts and probes an asset; returns the probe's id.
    fn bring_up(&mut self, asset: &AssetName, site: &SiteName, place: Place, after: &[StepId], next: bool) -> StepId {
        // Only the site's agent can take an asset into its charge: without that nothing of it would be copied away, and its
        // place would be free to be set aside.
        let skip = match place {
            Place::Live => SkipRule::Never(format!(
                "{site} would not know that {asset} is written there, and would not protect it. What was rebuilt or started by \
                 hand is taken over by this step: retry it"
            )),
            Place::Drill => SkipRule::ByHand,
        };
        let start = self.add(
            step_id("start", Some(asset)),
            format!("Start {asset}"),
            Executor::Agent(site.clone()),
            Work::Start { asset: asset.clone(), place: place.clone() },
            after,
            skip,
        );
        let probe = self.add(
            step_id("probe", Some(asset)),
            format!("Probe {asset}"),
            Executor::Agent(site.clone()),
            Work::Probe { asset: asset.clone(), place },
            std::slice::from_ref(&start),
            SkipRule::ByHand,
        );
        if next {
            self.at_next_epoch(&start);
            self.at_next_epoch(&probe);
        }
        probe
    }

    /// Lets users find the app at its new site, when it has entries.
    fn switch_entries(&mut self, to: &SiteName, after: &[StepId]) -> Vec<EntryRecord> {
        let inputs = self.inputs;
        let records = entry_records(inputs.app, inputs.spec, to, inputs.epoch().next());
        if !records.is_empty() {
            let names: Vec<&str> = records.iter().map(|record| record.name.trim_end_matches('.')).collect();
            let switch = self.add(
                step_id("switch", None),
                format!("Point {} at {to}", names.join(", ")),
                Executor::Nodes,
                Work::SwitchEntry { records: records.clone() },
                after,
                SkipRule::ByHand,
            );
            self.at_next_epoch(&switch);
        }
        records
    }

    fn finish(
        self,
        kind: PlanKind,
        to: &SiteName,
        entries: Vec<EntryRecord>,
        prediction: Prediction,
        warnings: Vec<String>,
    ) -> Plan {
        let inputs = self.inputs;
        let mut plan = Plan {
            id: PlanId(String::new()),
            kind,
            app: inputs.app.clone(),
            from: inputs.parent.writer.clone(),
            to: to.clone(),
            epoch: inputs.epoch(),
            parent: inputs.parent.clone(),
            made_at: inputs.now,
            assertion: inputs.assertion.clone().filter(|_| kind == PlanKind::Failover),
            steps: self.steps,
            entries,
            prediction,
            warnings,
        };
        let first = (kind == PlanKind::Switchover).then(|| step_id("stop", None));
        plan.prediction.recovery_time_s = plan.expected_s(first.as_ref()).map(rounded_s);
        plan.id = plan.content_id();
        plan
    }
}

/// The app's entries as they are while `site` writes at an epoch.
pub fn entry_records(app: &AppName, spec: &AppSpec, site: &SiteName, epoch: Epoch) -> Vec<EntryRecord> {
    let record = |entry: &EntrySpec| {
        Some(EntryRecord {
            app: app.clone(),
            name: format!("{}.", entry.name.trim_end_matches('.').to_ascii_lowercase()),
            // DNS counts whole seconds; a part of one would round to no caching at all.
            ttl_s: u32::try_from(entry.ttl.milliseconds().div_ceil(1000)).unwrap_or(u32::MAX),
            epoch,
            version: 0,
            site: site.clone(),
            address: Some(entry.at.get(site)?.address),
            signature: String::new(),
        })
    };
    spec.entry.values().filter_map(record).collect()
}

/// The other site than the writer's, after checking that `to` is that one.
fn check_target(inputs: &Inputs<'_>, to: &SiteName) -> Result<(), PlanError> {
    let (app, spec) = (inputs.app.clone(), inputs.spec);
    if !spec.has_site(to) {
        let (home, recovery) = (spec.home.clone(), spec.recovery.clone());
        return Err(PlanError::UnknownSite { app, site: to.clone(), home, recovery });
    }
    if inputs.parent.writer == *to {
        return Err(PlanError::AlreadyThere { app, site: to.clone(), epoch: inputs.epoch() });
    }
    Ok(())
}

fn connected_agent<'a>(
    inputs: &'a Inputs<'_>,
    doing: &'static str,
    site: &SiteName,
) -> Result<&'a AgentView, PlanError> {
    let (app, site_name) = (inputs.app.clone(), site.clone());
    match inputs.agent_at(site) {
        None => Err(PlanError::NoAgent { doing, app, site: site_name }),
        Some(view) if !view.connected => Err(PlanError::AgentAway { doing, app, site: site_name }),
        Some(view) => Ok(view),
    }
}

/// Refuses when an asset could not be brought back at all.
fn check_points(inputs: &Inputs<'_>, doing: &'static str, site: &SiteName) -> Result<(), PlanError> {
    let missing = inputs
        .spec
        .asset_names()
        .find(|asset| inputs.asset_at(site, asset, Role::Recovery).is_none_or(|status| status.point.is_none()));
    match missing {
        None => Ok(()),
        Some(asset) => Err(PlanError::NoRecoveryPoint {
            doing,
            app: inputs.app.clone(),
            asset: asset.clone(),
            site: site.clone(),
            epoch: inputs.epoch(),
        }),
    }
}
