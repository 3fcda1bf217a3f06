use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use levee_plan::{Effect, Event, Executor, Outcome, Run, StepState};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::{Message, run_key};
use crate::config::Config;
use crate::error::Result;
use crate::hub::Reply;
use crate::server::Shared;
use crate::state::Op;

/// How long to wait before a run that could not be made durable is tried again. Nothing goes on until then.
const PERSIST_AGAIN: Duration = Duration::from_secs(1);

/// The task of one run.
pub struct Actor {
    shared: Arc<Shared>,
    run: Run,
    own: mpsc::UnboundedSender<Message>,
    messages: mpsc::UnboundedReceiver<Message>,
    reply: mpsc::UnboundedSender<Reply>,
    replies: mpsc::UnboundedReceiver<Reply>,
    publish: watch::Sender<Run>,
    /// Steps that the server itself carries out. Dropped, and so ended, with the run.
    served: JoinSet<()>,
    wake_at: Option<Timestamp>,
}

impl Actor {
    pub fn new(
        shared: Arc<Shared>,
        run: Run,
        own: mpsc::UnboundedSender<Message>,
        messages: mpsc::UnboundedReceiver<Message>,
        publish: watch::Sender<Run>,
    ) -> Self {
        let (reply, replies) = mpsc::unbounded_channel();
        Self { shared, run, own, messages, reply, replies, publish, served: JoinSet::new(), wake_at: None }
    }

    /// Carries the run out to its end.
    pub async fn drive(mut self, is_new: bool) {
        if !is_new {
            // The server that began them may have ended before it could say so.
            for (id, record) in &self.run.steps {
                if let StepState::Running { .. } = record.state {
                    tracing::info!(run = %self.run.id, step = %id, state = record.state.as_str(), "step goes on");
                }
            }
            let again = self.run.resume();
            self.carry_out(again).await;
        }
        self.take(if is_new { Event::Begin } else { Event::Tick }).await;
        while !self.run.state.has_ended() {
            let pause = self.wake_at.map(|at| Duration::try_from(at.duration_since(Timestamp::now())));
            let wake = async {
                match pause {
                    Some(Ok(pause)) => tokio::time::sleep(pause).await,
                    // A time that has passed.
                    Some(Err(_)) => {}
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(message) = self.messages.recv() => self.message(message).await,
                Some(reply) = self.replies.recv() => self.reply(reply).await,
                () = wake => {
                    self.wake_at = None;
                    self.take(Event::Tick).await;
                }
                Some(_) = self.served.join_next(), if !self.served.is_empty() => {}
            }
        }
        self.end().await;
    }

    async fn message(&mut self, message: Message) {
        match message {
            Message::Asked { event, answer } => {
                // The run answers before anything has changed when it refuses.
                let mut changed = self.run.clone();
                match changed.handle(event, Timestamp::now()) {
                    Ok(effects) => {
                        self.keep(changed).await;
                        self.carry_out(effects).await;
                        reply_to(answer, Ok(self.run.clone()));
                    }
                    Err(error) => reply_to(answer, Err(error.into())),
                }
            }
            Message::Ended { step, attempt, result, seconds } => {
                self.take(Event::Ended { step, attempt, result, seconds }).await;
            }
            Message::Resend => {
                let again = self.run.resume();
                self.carry_out(again.into_iter().filter(|effect| matches!(effect, Effect::Act { .. })).collect()).await;
            }
        }
    }

    async fn reply(&mut self, reply: Reply) {
        match reply {
            Reply::Answer(answer) => {
                let Some((step, attempt)) = self.run.parse_command_id(&answer.command) else { return };
                let result = answer.result.map(Outcome::of);
                self.take(Event::Ended { step, attempt, result, seconds: answer.seconds }).await;
            }
            Reply::Gone { agent } => {
                let shared = self.shared.clone();
                let config = shared.blocking(|shared| Config::read(&shared.store)).await;
                let site = config.ok().and_then(|config| Some(config.agents.get(&agent)?.value.site.clone()));
                if let Some(site) = site {
                    self.take(Event::AgentGone { site }).await;
                }
            }
        }
    }

    /// An event that a run never refuses.
    async fn take(&mut self, event: Event) {
        let mut changed = self.run.clone();
        match changed.handle(event, Timestamp::now()) {
            Ok(effects) => {
                self.keep(changed).await;
                self.carry_out(effects).await;
            }
            Err(error) => tracing::error!(run = %self.run.id, %error, "the run refused an event"),
        }
    }

    /// Makes the changed run durable, however long it takes, and shows it. Only then may its effects happen.
    async fn keep(&mut self, changed: Run) {
        if changed == self.run {
            return;
        }
        loop {
            let run = changed.clone();
            let kept = self.shared.clone().blocking(move |shared| {
                shared.store.txn(&[], &[Op::put(run_key(&run.id), &run)?])?;
                Ok(())
            });
            match kept.await {
                Ok(()) => break,
                Err(error) => {
                    tracing::error!(run = %changed.id, error = %levee_wire::chain(&error), "the run cannot be made durable; it waits");
                    tokio::time::sleep(PERSIST_AGAIN).await;
                }
            }
        }
        for (id, record) in &changed.steps {
            if self.run.steps.get(id).is_none_or(|before| before.state != record.state) {
                tracing::info!(run = %changed.id, step = %id, state = record.state.as_str(), "step");
            }
        }
        self.run = changed;
        let in_flight: BTreeSet<String> = self
            .run
            .all_steps()
            .filter(|step| matches!(step.at, Executor::Agent(_)))
            .filter_map(|step| match self.run.steps.get(&step.id)?.state {
                StepState::Running { attempt } => Some(self.run.command_id(&step.id, attempt)),
                _ => None,
            })
            .collect();
        self.shared.hub.retain(&self.run.id, &in_flight);
        // An ended run is shown when it is in the history, so that nobody can miss it in between.
        if !self.run.state.has_ended() {
            self.publish.send_replace(self.run.clone());
        }
    }

    async fn carry_out(&mut self, effects: Vec<Effect>) {
        let config = if effects.iter().any(|effect| matches!(effect, Effect::Act { .. })) {
            self.config().await
        } else {
            Config::default()
        };
        for effect in effects {
            match effect {
                Effect::Act { site, command, .. } => {
                    let agent = config.apps.get(&command.app).and_then(|app| app.value.agents.get(&site));
                    match agent {
                        Some(agent) => self.shared.hub.send(agent, *command, self.reply.clone()),
                        // Sent as soon as an agent joins there.
                        None => tracing::warn!(run = %self.run.id, %site, "no agent serves the app there; waiting"),
                    }
                }
                Effect::Serve { step, attempt, work } => {
                    let (shared, run, own) = (self.shared.clone(), self.run.clone(), self.own.clone());
                    self.served.spawn(async move {
                        let started = tokio::time::Instant::now();
                        let result = super::serve::carry_out(&shared, &run, &step, attempt, &work).await;
                        let seconds = started.elapsed().as_secs_f64();
                        let _ = own.send(Message::Ended { step, attempt, result, seconds });
                    });
                }
                Effect::Wake { at } => {
                    self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
                }
            }
        }
    }

    /// What is wanted, read again until it can be read.
    async fn config(&self) -> Config {
        loop {
            match self.shared.clone().blocking(|shared| Config::read(&shared.store)).await {
                Ok(config) => return config,
                Err(error) => {
                    tracing::error!(error = %levee_wire::chain(&error), "the state cannot be read; the run waits");
                    tokio::time::sleep(PERSIST_AGAIN).await;
                }
            }
        }
    }

    async fn end(self) {
        tracing::info!(run = %self.run.id, state = self.run.state.as_str(), "run ended");
        loop {
            let run = self.run.clone();
            match self.shared.clone().blocking(move |shared| shared.close_run(&run)).await {
                Ok(()) => break,
                Err(error) => {
                    tracing::error!(run = %self.run.id, error = %levee_wire::chain(&error), "the run cannot be closed; trying again");
                    tokio::time::sleep(PERSIST_AGAIN).await;
                }
            }
        }
        self.shared.runs.lock().remove(&self.run.id);
        self.publish.send_replace(self.run.clone());
    }
}

fn reply_to(answer: oneshot::Sender<Result<Run>>, result: Result<Run>) {
    // Whoever asked may have gone; the run goes on.
    let _ = answer.send(result);
}
