//! Carrying runs out: one task for each open run owns its state machine.
//!
//! The order is always the same: an event changes the run, the run is made durable, its effects are
//! carried out. So a server that is killed at any moment finds each run as it was before or after an
//! event, and sends what is in flight again.

mod actor;
mod closeness;
mod held;
mod serve;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use levee_model::control::Failure;
use levee_model::{AppName, AssetName, RunId};
use levee_plan::{Event, Outcome, PlanKind, Run, StepId};
use tokio::sync::{mpsc, oneshot, watch};

use crate::control::{BackupView, RunSummary};
use crate::error::{Result, ServerError};
use crate::proofs;
use crate::server::{Shared, proven_key};
use crate::state::{KeyValue, Op};

const RUN: &str = "run/";
const OPEN: &str = "open-run/";

pub fn run_key(run: &RunId) -> String {
    format!("{RUN}{run}")
}

/// Holds the id of the one run of an app that is under way.
pub fn open_key(app: &AppName) -> String {
    format!("{OPEN}{app}")
}

/// What reaches a run's task.
enum Message {
    /// An operator's wish, with the way back for the answer.
    Asked {
        event: Event,
        answer: oneshot::Sender<Result<Run>>,
    },
    Ended {
        step: StepId,
        attempt: u32,
        result: Result<Outcome, Failure>,
        seconds: f64,
    },
    /// Another agent may serve the app now: what is in flight is sent again.
    Resend,
}

#[derive(Clone)]
struct Open {
    messages: mpsc::UnboundedSender<Message>,
    changes: watch::Receiver<Run>,
}

/// The runs that are under way.
#[derive(Default)]
pub struct Runs {
    /// Looked up by the API, changed when a run begins or ends.
    open: Mutex<BTreeMap<RunId, Open>>,
}

impl Runs {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<RunId, Open>> {
        self.open.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The run of each app that is under way.
    pub fn open(&self) -> BTreeMap<AppName, (RunId, PlanKind)> {
        let describe = |(id, open): (&RunId, &Open)| {
            let run = open.changes.borrow();
            (run.plan.app.clone(), (id.clone(), run.plan.kind))
        };
        self.lock().iter().map(describe).collect()
    }

    pub fn get(&self, id: &RunId) -> Option<Run> {
        self.lock().get(id).map(|open| open.changes.borrow().clone())
    }

    pub fn watch(&self, id: &RunId) -> Option<watch::Receiver<Run>> {
        self.lock().get(id).map(|open| open.changes.clone())
    }

    pub fn summaries(&self) -> Vec<RunSummary> {
        self.lock().values().map(|open| summary(&open.changes.borrow())).collect()
    }

    /// Hands an operator's wish to a run. `None` when it is not under way.
    pub async fn ask(&self, id: &RunId, event: Event) -> Option<Result<Run>> {
        let messages = self.lock().get(id)?.messages.clone();
        let (answer, answered) = oneshot::channel();
        messages.send(Message::Asked { event, answer }).ok()?;
        answered.await.ok()
    }

    /// The agents that serve apps have changed.
    pub fn resend(&self) {
        for open in self.lock().values() {
            let _ = open.messages.send(Message::Resend);
        }
    }
}

pub fn summary(run: &Run) -> RunSummary {
    RunSummary {
        id: run.id.clone(),
        kind: run.plan.kind,
        app: run.plan.app.clone(),
        from: run.plan.from.clone(),
        to: run.plan.to.clone(),
        state: run.state,
        requested_by: run.requested_by.clone(),
        started_at: run.started_at,
        ended_at: run.ended_at,
    }
}

impl Shared {
    /// Starts the task of a run that is durable already. Must be called inside the runtime.
    pub fn carry_out(self: &Arc<Self>, run: Run, is_new: bool) {
        let (messages, received) = mpsc::unbounded_channel();
        let (publish, changes) = watch::channel(run.clone());
        self.runs.lock().insert(run.id.clone(), Open { messages: messages.clone(), changes });
        let actor = actor::Actor::new(self.clone(), run, messages, received, publish);
        self.tasks.spawn(&tokio::runtime::Handle::current(), actor.drive(is_new));
    }

    /// Takes up every run that was under way when the server ended, and lets go of apps whose run is gone.
    pub fn resume_runs(self: &Arc<Self>) -> Result<()> {
        for kv in self.store.range(RUN)?.values {
            let run: Run = kv.parse()?;
            if run.state.has_ended() {
                self.close_run(&run)?;
            } else {
                tracing::info!(run = %run.id, app = %run.plan.app, "taking up a run");
                self.carry_out(run, false);
            }
        }
        self.let_go_of_lost_runs()
    }

    /// Moves a run that has ended into the history. Done again after a crash in between, it changes nothing.
    fn close_run(&self, run: &Run) -> Result<()> {
        self.history.put_run(run, &summary(run))?;
        let mut ops = vec![Op::delete(run_key(&run.id))];
        let mut proven = self.proven(&run.plan.app)?;
        if proofs::add_proven(&mut proven, run) {
            ops.push(Op::put(proven_key(&run.plan.app), &proven)?);
        }
        let open = self.store.get(&open_key(&run.plan.app))?;
        let is_ours = |kv: &KeyValue| kv.parse::<RunId>().is_ok_and(|id| id == run.id);
        if open.as_ref().is_some_and(is_ours) {
            ops.push(Op::delete(open_key(&run.plan.app)));
        }
        self.store.txn(&[], &ops)?;
        Ok(())
    }

    /// The newest backup of each asset that a run has restored and probed.
    pub fn proven(&self, app: &AppName) -> Result<BTreeMap<AssetName, BackupView>> {
        Ok(self.store.get(&proven_key(app))?.map(|kv| kv.parse()).transpose()?.unwrap_or_default())
    }

    /// A run, under way or ended.
    pub fn find_run(&self, id: &RunId) -> Result<Run> {
        match self.runs.get(id) {
            Some(run) => Ok(run),
            None => self.history.run(id)?.ok_or_else(|| ServerError::UnknownRun { run: id.clone() }),
        }
    }
}
