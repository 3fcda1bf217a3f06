//! The carrying-out of a plan, as a durable state machine.
//!
//! ```text
//! step:  Waiting ──▶ Running ──▶ Done
//!           │          │  ▲
//!           │          ▼  │ (transient, bounded)
//!           │        Backoff
//!           │          │ (attempts used up, or not transient)
//!           │          ▼
//!           │        Failed ──(retry)──▶ Running
//!           ▼          │
//!        Cancelled     └──(skip)──▶ Skipped
//!
//! run:   Running ⇄ Blocked (a step failed: the operator retries, skips or aborts)
//!           │  ╲
//!           ▼   ▶ Stopping ──▶ Aborted | Failed      (before the cut-over; a drill at any time;
//!                                                    after it by the word that the new site is down)
//!         Done
//! ```

mod advance;
mod loss;
mod record;

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use levee_model::control::{Command, Done, Failure, Place};
use levee_model::{RunId, SiteName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::RunError;
use crate::make::step_id;
use crate::plan::{Assertion, Executor, Plan, PlanKind, SkipRule, Step, StepId, When, Work};

pub use record::{Facts, GivenUp, Outcome, ProbeResult, StepRecord, StepState};

/// One carrying-out of a plan. It is stored as a whole after each event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Run {
    pub id: RunId,
    pub plan: Plan,
    pub state: RunState,
    pub requested_by: String,
    pub started_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// One for each step of the plan and of `undo`.
    pub steps: BTreeMap<StepId, StepRecord>,
    /// Steps that take back what an aborted run had begun.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub undo: Vec<Step>,
    pub facts: Facts,
}

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    Running,
    /// A step has failed; the operator retries it, skips it or aborts the run.
    Blocked,
    /// No new work is begun but cleaning up and taking back.
    Stopping,
    Done,
    /// It ended without reaching its end; everything was cleaned up.
    Failed,
    /// The operator has ended it; what it had begun was taken back.
    Aborted,
}

impl RunState {
    pub fn has_ended(self) -> bool {
        matches!(self, RunState::Done | RunState::Failed | RunState::Aborted)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            RunState::Running => "running",
            RunState::Blocked => "blocked",
            RunState::Stopping => "stopping",
            RunState::Done => "done",
            RunState::Failed => "failed",
            RunState::Aborted => "aborted",
        }
    }
}

/// What happens to a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Begin,
    /// An effect has ended. Repeated and late ones change nothing.
    Ended {
        step: StepId,
        attempt: u32,
        result: Result<Outcome, Failure>,
        seconds: f64,
    },
    /// No agent that serves the app at this site can be reached.
    AgentGone {
        site: SiteName,
    },
    /// Time has passed.
    Tick,
    Retry {
        step: StepId,
    },
    Skip {
        step: StepId,
        by: String,
        reason: String,
    },
    Abort {
        by: String,
    },
    /// The new site is lost after the cut-over: the operator's word that it is down ends the run.
    GiveUp {
        by: String,
        /// What is known of where the old site's data were set aside.
        set_aside: Vec<PathBuf>,
    },
}

/// What the shell has to do, after it has made the run durable.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Send the command to the agent that serves the app at this site, now or as soon as it connects.
    Act { step: StepId, attempt: u32, site: SiteName, command: Box<Command> },
    /// Carry out a step whose executor is the server or the nodes.
    Serve { step: StepId, attempt: u32, work: Work },
    /// Send `Event::Tick` at this time or later.
    Wake { at: Timestamp },
}

impl Run {
    pub fn new(id: RunId, plan: Plan, requested_by: impl Into<String>, now: Timestamp) -> Result<Self, RunError> {
        if plan.content_id() != plan.id {
            return Err(RunError::Tampered { plan: plan.id });
        }
        let steps = plan.steps.iter().map(|step| (step.id.clone(), StepRecord::default())).collect();
        Ok(Self {
            id,
            plan,
            state: RunState::Running,
            requested_by: requested_by.into(),
            started_at: now,
            ended_at: None,
            steps,
            undo: Vec::new(),
            facts: Facts::default(),
        })
    }

    /// All steps in order, those that take something back last.
    pub fn all_steps(&self) -> impl Iterator<Item = &Step> {
        self.plan.steps.iter().chain(&self.undo)
    }

    pub fn step(&self, id: &StepId) -> Option<(&Step, &StepRecord)> {
        let step = self.all_steps().find(|step| step.id == *id)?;
        Some((step, self.steps.get(id)?))
    }

    /// Takes an event in and says what to do. On an error nothing has changed.
    pub fn handle(&mut self, event: Event, now: Timestamp) -> Result<Vec<Effect>, RunError> {
        match event {
            Event::Begin | Event::Tick => {}
            Event::Ended { step, attempt, result, seconds } => self.ended(&step, attempt, result, seconds, now),
            Event::AgentGone { site } => self.agent_gone(&site, now),
            Event::Retry { step } => self.retry(&step)?,
            Event::Skip { step, by, reason } => self.skip(&step, by, reason, now)?,
            Event::Abort { by } => self.abort(by, now)?,
            Event::GiveUp { by, set_aside } => self.give_up(by, set_aside, now)?,
        }
        Ok(self.advance(now))
    }

    /// What to do again after a restart of the shell: everything that is in flight, as it was sent before.
    pub fn resume(&self) -> Vec<Effect> {
        let running = self.all_steps().filter_map(|step| match self.steps.get(&step.id)?.state {
            StepState::Running { attempt } => self.effect(step, attempt),
            StepState::Backoff { until, .. } => Some(Effect::Wake { at: until }),
            _ => None,
        });
        running.chain(self.patience_ends().map(|at| Effect::Wake { at })).collect()
    }

    /// The id of the command of a step's attempt.
    pub fn command_id(&self, step: &StepId, attempt: u32) -> String {
        format!("{}/{step}/{attempt}", self.id)
    }

    /// The step and attempt of a command of this run.
    pub fn parse_command_id(&self, id: &str) -> Option<(StepId, u32)> {
        let (step, attempt) = id.strip_prefix(self.id.as_str())?.strip_prefix('/')?.rsplit_once('/')?;
        Some((StepId(step.into()), attempt.parse().ok()?))
    }

    /// Whether the writer has changed, or the change is under way.
    pub fn is_cut_over(&self) -> bool {
        self.plan.cut_over().and_then(|step| self.steps.get(&step.id)).is_some_and(|record| {
            !matches!(record.state, StepState::Waiting | StepState::Cancelled | StepState::Failed { .. })
        })
    }

    fn retry(&mut self, id: &StepId) -> Result<(), RunError> {
        self.check_open()?;
        // A run on its way out does not take up again what it has let go.
        let is_let_go =
            self.state == RunState::Stopping && self.plan.step(id).is_some_and(|step| step.when == When::Done);
        if is_let_go {
            return Err(self.not_now(id, "retried"));
        }
        let record = self.record_mut(id)?;
        match record.state {
            StepState::Failed { .. } | StepState::Backoff { .. } => {
                // A fresh set of attempts; their numbers go on, so that no command id is used twice.
                record.attempts_allowed = record.attempts + crate::retry::ATTEMPTS_MAX;
                record.state = StepState::Waiting;
                Ok(())
            }
            _ => Err(self.not_now(id, "retried")),
        }
    }

    fn skip(&mut self, id: &StepId, by: String, reason: String, now: Timestamp) -> Result<(), RunError> {
        self.check_open()?;
        let Some((step, record)) = self.step(id) else {
            return Err(RunError::UnknownStep { run: self.id.clone(), step: id.clone() });
        };
        let in_hand =
            matches!(record.state, StepState::Failed { .. } | StepState::Backoff { .. } | StepState::Running { .. });
        if !in_hand {
            return Err(self.not_now(id, "skipped"));
        }
        if reason.trim().is_empty() {
            return Err(RunError::NoReason { run: self.id.clone(), step: id.clone() });
        }
        // A run that is being aborted gives nothing to a new writer, so any step that hangs can be left.
        if self.state != RunState::Stopping
            && let SkipRule::Never(why) = &step.skip
        {
            return Err(RunError::NotSkippable { run: self.id.clone(), step: id.clone(), why: why.clone() });
        }
        let is_stop = matches!(step.work, Work::Stop { .. });
        let is_assertion = step.skip == SkipRule::AsAssertion && self.state != RunState::Stopping;
        if is_assertion {
            self.facts.assertion = Some(Assertion::old_site_is_down(by.clone(), now));
        }
        let record = self.record_mut(id)?;
        record.state = StepState::Skipped { by, reason };
        record.ended_at = Some(now);
        if is_stop && self.state == RunState::Stopping {
            // The stop may still be at work: a start beside it could undo half of it. It is left to the operator.
            for step in &self.undo {
                if let Some(record) = self.steps.get_mut(&step.id) {
                    record.state = StepState::Cancelled;
                    record.ended_at = Some(now);
                }
            }
        }
        Ok(())
    }

    /// Whether skipping this step is safe only when the agent that works on it is away: a stop or a start
    /// at the old site that goes on unseen could cross the next one, and what is rebuilt unseen would take the place of what
    /// the operator has put there.
    pub fn must_not_be_left(&self, id: &StepId) -> bool {
        self.step(id).is_some_and(|(step, record)| {
            matches!(record.state, StepState::Running { .. })
                && (matches!(
                    step.work,
                    Work::Stop { .. } | Work::Rebuild { place: Place::Live, .. } | Work::CatchUp { .. }
                ) || self.undo.iter().any(|undo| undo.id == *id))
        })
    }

    fn abort(&mut self, by: String, now: Timestamp) -> Result<(), RunError> {
        self.check_open()?;
        if self.is_cut_over() {
            return Err(RunError::CutOver {
                run: self.id.clone(),
                to: self.plan.to.clone(),
                epoch: self.plan.epoch.next(),
            });
        }
        if self.facts.aborted_by.is_none() {
            self.facts.aborted_by = Some(by);
            self.stop_begin(now);
            self.plan_undo();
        }
        Ok(())
    }

    /// Ends a run whose new site is lost. Nothing is taken back: the old site's data were set aside when the epoch grew, and
    /// the epoch stays, so that the new site is stopped as an old one when it returns.
    fn give_up(&mut self, by: String, set_aside: Vec<PathBuf>, now: Timestamp) -> Result<(), RunError> {
        self.check_open()?;
        // While the epoch is about to grow nobody knows on which side of it the run is; that takes moments.
        let has_moved = self.plan.cut_over().and_then(|step| self.steps.get(&step.id));
        if !has_moved.is_some_and(|record| record.state == StepState::Done) {
            return Err(RunError::NotCutOver { run: self.id.clone() });
        }
        self.state = RunState::Stopping;
        self.facts.given_up = Some(GivenUp { assertion: Assertion::new_site_is_down(by, now), set_aside });
        for record in self.steps.values_mut().filter(|record| !record.state.counts_as_done()) {
            // What has failed still says why.
            if !matches!(record.state, StepState::Failed { .. }) {
                record.state = StepState::Cancelled;
            }
            record.ended_at = Some(now);
        }
        Ok(())
    }

    /// Adds the steps that let the old site write again, when it may have been stopped.
    ///
    /// It starts at the epoch at which it was stopped: nobody else was ever given a higher one. That is
    /// why an abort ends with the cut-over, and why it waits until a stop that was sent has ended.
    fn plan_undo(&mut self) {
        let stop_was_sent = self.plan.steps.iter().any(|step| {
            matches!(step.work, Work::Stop { .. }) && self.steps.get(&step.id).is_some_and(|record| record.attempts > 0)
        });
        if !stop_was_sent {
            return;
        }
        let everything: Vec<StepId> = self.plan.steps.iter().map(|step| step.id.clone()).collect();
        let from = &self.plan.from;
        for asset in self.plan.prediction.assets.iter().map(|asset| &asset.asset) {
            let id = step_id("undo-start", Some(asset));
            self.steps.insert(id.clone(), StepRecord::default());
            self.undo.push(Step {
                id,
                title: format!("Start {asset} at {from} again"),
                at: Executor::Agent(from.clone()),
                work: Work::Start { asset: asset.clone(), place: Place::Live },
                epoch: self.plan.epoch,
                after: everything.clone(),
                when: When::Ended,
                skip: SkipRule::ByHand,
                expected_s: None,
            });
        }
    }

    fn check_open(&self) -> Result<(), RunError> {
        if self.state.has_ended() {
            return Err(RunError::Ended { run: self.id.clone(), state: self.state.as_str().into() });
        }
        Ok(())
    }

    fn record_mut(&mut self, id: &StepId) -> Result<&mut StepRecord, RunError> {
        let run = self.id.clone();
        self.steps.get_mut(id).ok_or_else(|| RunError::UnknownStep { run, step: id.clone() })
    }

    fn not_now(&self, id: &StepId, asked: &'static str) -> RunError {
        let state = self.steps.get(id).map_or("unknown", |record| record.state.as_str()).to_string();
        RunError::NotNow { run: self.id.clone(), step: id.clone(), state, asked }
    }

    /// Whether a failed step ends the run by itself instead of waiting for the operator.
    fn gives_up(&self) -> bool {
        self.plan.kind == PlanKind::Drill
    }

    fn done_fits(work: &Work, done: &Done) -> bool {
        match work {
            // Only a failover may go on with a loss.
            Work::Stop { may_leave, .. } => {
                matches!(done, Done::Stopped { left, .. } if *may_leave || left.is_empty())
            }
            Work::ChoosePoint => matches!(done, Done::Point { .. }),
            Work::Probe { .. } => matches!(done, Done::Probed { .. }),
            _ => true,
        }
    }
}
