//! The inside of the machine: what an ending changes, and what may begin next.

use jiff::{SignedDuration, Timestamp};
use levee_model::AssetName;
use levee_model::SiteName;
use levee_model::control::{Action, Command, Done, Failure, Place};

use super::loss::{describe_left, describe_unasked};
use super::{Effect, Outcome, ProbeResult, Run, RunState, StepState};
use crate::plan::{Assertion, Executor, Step, StepId, When, Work};
use crate::retry::backoff;

fn after(now: Timestamp, seconds: i64) -> Timestamp {
    now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

impl Run {
    pub(super) fn ended(
        &mut self,
        id: &StepId,
        attempt: u32,
        result: Result<Outcome, Failure>,
        seconds: f64,
        now: Timestamp,
    ) {
        let Some((step, record)) = self.step(id) else { return };
        // Only the attempt that is in flight counts: a repeated answer, and one of an attempt that was
        // given up, must not be taken for the present one.
        if record.state != (StepState::Running { attempt }) {
            return;
        }
        let (step, asset_names) = (step.clone(), self.asset_names());
        let result = result.and_then(|outcome| match outcome.done {
            ref done if !Self::done_fits(&step.work, done) => Err(Failure {
                message: format!("the answer does not fit the step: {done:?}; the agent may be of another version"),
                transient: false,
            }),
            Done::Point { ref point } if step.work == Work::ChoosePoint => {
                match asset_names.iter().find(|asset| !point.assets.contains_key(*asset)) {
                    Some(asset) => Err(Failure {
                        message: format!("{} has no complete recovery point of {asset}", self.plan.to),
                        transient: true,
                    }),
                    None => Ok(outcome),
                }
            }
            _ => Ok(outcome),
        });
        if let Ok(outcome) = &result {
            self.learn(&step.work, outcome);
        }
        let result = result.and_then(|outcome| match &outcome.done {
            // A database may need a moment until it answers.
            Done::Probed { passed: false, detail } => {
                Err(Failure { message: format!("the probe failed: {detail}"), transient: true })
            }
            _ => Ok(outcome),
        });
        let Some(record) = self.steps.get_mut(id) else { return };
        match result {
            Ok(mut outcome) => {
                if let Done::Stopped { left, .. } = &outcome.done
                    && !left.is_empty()
                {
                    outcome.note = Some(describe_left(&self.plan.from, left));
                }
                if let Done::Point { point } = &outcome.done
                    && step.work == Work::ChoosePoint
                    && self.facts.assertion.is_some()
                    && self.facts.stopped.is_none()
                {
                    outcome.note = Some(describe_unasked(&self.plan, point));
                }
                if let Done::Rebuilt { passed_over: Some(passed_over), .. } = &outcome.done {
                    outcome.note = Some(passed_over.clone());
                }
                record.state = StepState::Done;
                record.outcome = Some(outcome);
                record.seconds = Some(seconds);
                record.ended_at = Some(now);
            }
            Err(failure) if failure.transient && record.attempts < record.attempts_allowed => {
                let wait = SignedDuration::try_from(backoff(record.attempts)).unwrap_or(SignedDuration::from_secs(5));
                record.state = StepState::Backoff { until: now.checked_add(wait).unwrap_or(Timestamp::MAX), failure };
            }
            Err(failure) => {
                record.state = StepState::Failed { failure };
                record.ended_at = Some(now);
            }
        }
    }

    fn asset_names(&self) -> Vec<AssetName> {
        self.plan.prediction.assets.iter().map(|asset| asset.asset.clone()).collect()
    }

    fn learn(&mut self, work: &Work, outcome: &Outcome) {
        match (&outcome.done, work) {
            (Done::Stopped { point, left }, Work::Stop { .. }) => {
                self.facts.stopped = Some(point.clone());
                self.facts.point = Some(point.clone());
                self.facts.left = left.clone();
            }
            (Done::Point { point }, Work::ChoosePoint) => self.facts.point = Some(point.clone()),
            (Done::Probed { passed, detail }, Work::Probe { asset, .. }) => {
                let result = ProbeResult { passed: *passed, detail: detail.clone() };
                self.facts.probes.insert(asset.clone(), result);
            }
            _ => {}
        }
    }

    /// A stop that may be replaced by the operator's word is, when nobody is there to answer.
    pub(super) fn agent_gone(&mut self, site: &SiteName, now: Timestamp) {
        let waiting: Vec<StepId> = self
            .plan
            .steps
            .iter()
            .filter(|step| step.at == Executor::Agent(site.clone()) && self.may_be_asserted(step))
            .map(|step| step.id.clone())
            .collect();
        for id in waiting {
            self.take_assertion(&id, "the agent is not connected", now);
        }
    }

    fn may_be_asserted(&self, step: &Step) -> bool {
        matches!(step.work, Work::Stop { or_assertion: true, .. })
            && self
                .steps
                .get(&step.id)
                .is_some_and(|record| matches!(record.state, StepState::Running { .. } | StepState::Backoff { .. }))
    }

    fn take_assertion(&mut self, id: &StepId, why: &str, now: Timestamp) {
        let Some(assertion) = self.plan.assertion.clone() else { return };
        let Assertion { by, .. } = &assertion;
        let note = format!("{why}: {by} has said that {} is down", self.plan.from);
        if let Some(record) = self.steps.get_mut(id) {
            record.state = StepState::Done;
            record.outcome = Some(Outcome { done: Done::Nothing, note: Some(note) });
            record.ended_at = Some(now);
        }
        self.facts.assertion = Some(assertion);
    }

    /// When each stop that is in flight is given up for the operator's word.
    pub(super) fn patience_ends(&self) -> impl Iterator<Item = Timestamp> {
        self.plan.steps.iter().filter(|step| self.may_be_asserted(step)).filter_map(|step| self.patience_end(step))
    }

    fn patience_end(&self, step: &Step) -> Option<Timestamp> {
        let Work::Stop { patience_s, .. } = step.work else { return None };
        Some(after(self.steps.get(&step.id)?.started_at?, i64::from(patience_s)))
    }

    /// From now on only cleaning up and taking back is begun.
    pub(super) fn stop_begin(&mut self, now: Timestamp) {
        self.state = RunState::Stopping;
        for step in &self.plan.steps {
            let Some(record) = self.steps.get_mut(&step.id) else { continue };
            let goes = match record.state {
                StepState::Waiting | StepState::Backoff { .. } => step.when == When::Done,
                StepState::Running { .. } => step.work.may_be_left(),
                _ => false,
            };
            if goes {
                record.state = StepState::Cancelled;
                record.ended_at = Some(now);
            }
        }
    }

    /// Begins what may begin, and settles the run's state.
    pub(super) fn advance(&mut self, now: Timestamp) -> Vec<Effect> {
        if self.state.has_ended() {
            return Vec::new();
        }
        let impatient: Vec<StepId> = self
            .plan
            .steps
            .iter()
            .filter(|step| self.may_be_asserted(step) && self.patience_end(step).is_some_and(|end| end <= now))
            .map(|step| step.id.clone())
            .collect();
        for id in impatient {
            self.take_assertion(&id, "it did not answer in time", now);
        }
        let mut effects = Vec::new();
        // Steps without an effect end as they begin, so what they free begins in the same sweep.
        while let Some(step) = self.next_ready(now) {
            self.begin(&step, now, &mut effects);
        }
        self.settle(now, &mut effects);
        effects
    }

    fn next_ready(&mut self, now: Timestamp) -> Option<Step> {
        if self.gives_up() && self.state != RunState::Stopping && self.has_failed_step() {
            self.stop_begin(now);
        }
        self.all_steps().find(|step| self.is_ready(step, now)).cloned()
    }

    fn has_failed_step(&self) -> bool {
        self.steps.values().any(|record| matches!(record.state, StepState::Failed { .. }))
    }

    fn is_ready(&self, step: &Step, now: Timestamp) -> bool {
        let Some(record) = self.steps.get(&step.id) else { return false };
        let due = match &record.state {
            StepState::Waiting => true,
            StepState::Backoff { until, .. } => *until <= now,
            _ => false,
        };
        due && step.after.iter().all(|id| self.lets_go(id, step.when))
    }

    /// Whether a step that comes after may begin, as far as this one is concerned.
    fn lets_go(&self, id: &StepId, when: When) -> bool {
        let Some(record) = self.steps.get(id) else { return false };
        match &record.state {
            state if state.counts_as_done() => true,
            StepState::Cancelled => when == When::Ended,
            // A failed step can still be retried, unless the run is on its way out.
            StepState::Failed { .. } => when == When::Ended && self.state == RunState::Stopping,
            _ => false,
        }
    }

    fn begin(&mut self, step: &Step, now: Timestamp, effects: &mut Vec<Effect>) {
        let assertion = self.plan.assertion.clone();
        let Some(record) = self.steps.get_mut(&step.id) else { return };
        record.attempts += 1;
        record.started_at.get_or_insert(now);
        record.ended_at = None;
        let attempt = record.attempts;
        if step.work == Work::Assert {
            record.state = StepState::Done;
            record.ended_at = Some(now);
            record.seconds = Some(0.0);
            self.facts.assertion = assertion;
            return;
        }
        record.state = StepState::Running { attempt };
        match self.effect(step, attempt) {
            Some(effect) => effects.push(effect),
            None => {
                let message =
                    "the run knows no position for it: abort the run and make a new plan, or do the step by hand"
                        .into();
                if let Some(record) = self.steps.get_mut(&step.id) {
                    record.state = StepState::Failed { failure: Failure { message, transient: false } };
                    record.ended_at = Some(now);
                }
            }
        }
        if self.may_be_asserted(step)
            && let Some(at) = self.patience_end(step)
        {
            effects.push(Effect::Wake { at });
        }
    }

    pub(super) fn effect(&self, step: &Step, attempt: u32) -> Option<Effect> {
        let id = step.id.clone();
        match &step.at {
            Executor::Agent(site) => Some(Effect::Act {
                attempt,
                site: site.clone(),
                command: Box::new(Command {
                    id: self.command_id(&id, attempt),
                    run: self.id.clone(),
                    app: self.plan.app.clone(),
                    epoch: step.epoch,
                    revision: self.plan.parent.revision,
                    action: self.action(step)?,
                }),
                step: id,
            }),
            Executor::Server | Executor::Nodes => Some(Effect::Serve { step: id, attempt, work: step.work.clone() }),
        }
    }

    /// What the agent is asked for. A start after a rebuild that was done by hand says so: the agent has put nothing there.
    fn action(&self, step: &Step) -> Option<Action> {
        let is_skipped_rebuild = |id: &StepId| {
            self.step(id).is_some_and(|(before, record)| {
                let puts_it_there = matches!(before.work, Work::Rebuild { .. } | Work::CatchUp { .. });
                puts_it_there && matches!(record.state, StepState::Skipped { .. })
            })
        };
        Some(match step.work.action(&self.facts)? {
            Action::Start { asset, place: Place::Live, .. } => {
                Action::Start { asset, place: Place::Live, by_hand: step.after.iter().any(is_skipped_rebuild) }
            }
            action => action,
        })
    }

    fn settle(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let states = || self.steps.values().map(|record| &record.state);
        for state in states() {
            if let StepState::Backoff { until, .. } = state {
                effects.push(Effect::Wake { at: *until });
            }
        }
        let failed = self.has_failed_step();
        let open = states()
            .any(|state| matches!(state, StepState::Waiting | StepState::Running { .. } | StepState::Backoff { .. }));
        let undo_failed = self.undo.iter().any(|step| {
            self.steps.get(&step.id).is_some_and(|record| matches!(record.state, StepState::Failed { .. }))
        });
        let ending_failed = self.plan.steps.iter().any(|step| {
            step.when == When::Ended
                && self.steps.get(&step.id).is_some_and(|record| matches!(record.state, StepState::Failed { .. }))
        });
        self.state = match self.state {
            RunState::Stopping if self.facts.given_up.is_some() => RunState::Failed,
            // What was to be cleaned up or taken back and was not stays open: the operator retries or
            // skips it, and until then the run is not over.
            RunState::Stopping if open || undo_failed || ending_failed => RunState::Stopping,
            RunState::Stopping if self.facts.aborted_by.is_some() => RunState::Aborted,
            RunState::Stopping => RunState::Failed,
            _ if failed => RunState::Blocked,
            _ if open => RunState::Running,
            _ => RunState::Done,
        };
        if self.state.has_ended() {
            self.ended_at = Some(now);
        }
    }
}
