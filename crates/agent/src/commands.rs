//! Carrying out the server's commands, each once, and remembering how they ended.

use std::collections::{BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use levee_model::control::{Answer, Command, Done, Failure};
use tokio::sync::broadcast;
use tracing::{error, info};

use crate::error::Result;
use crate::folder::{AgentFolder, read_json, write_json};

/// Answers that are kept for commands that come again. A run has some dozens of steps.
const ANSWERS_MAX: usize = 512;
/// Answers that a stream has not sent yet. One that is missed is given when the server repeats its command.
const ENDED_MAX: usize = 64;

/// The commands that this agent has had.
#[derive(Clone)]
pub(crate) struct Commands(Arc<Shared>);

struct Shared {
    path: PathBuf,
    /// Held for look-ups and while an answer is written, never while a command is carried out.
    known: Mutex<Known>,
    ended: broadcast::Sender<Answer>,
}

struct Known {
    running: BTreeSet<String>,
    /// Oldest first.
    answers: VecDeque<Answer>,
}

impl Commands {
    pub fn open(folder: &AgentFolder) -> Result<Commands> {
        let path = folder.answers();
        let answers = read_json(&path)?.unwrap_or_default();
        let known = Mutex::new(Known { running: BTreeSet::new(), answers });
        Ok(Commands(Arc::new(Shared { path, known, ended: broadcast::Sender::new(ENDED_MAX) })))
    }

    /// Hears of every command that ends from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Answer> {
        self.0.ended.subscribe()
    }

    /// Begins a command on a thread of its own. One that has ended before is answered from memory, and one that is
    /// under way is left alone. `execute` blocks.
    pub fn begin<E>(&self, command: Command, execute: E)
    where
        E: FnOnce(&Command) -> Result<Done, Failure> + Send + 'static,
    {
        {
            let mut known = self.lock();
            if let Some(answer) = known.answers.iter().find(|answer| answer.command == command.id) {
                // Nobody may be listening any more; then the server asks again.
                let _ = self.0.ended.send(answer.clone());
                return;
            }
            if !known.running.insert(command.id.clone()) {
                return;
            }
        }
        let commands = self.clone();
        tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            info!(command = %command.id, run = %command.run, app = %command.app, action = ?command.action, "begun");
            let result = catch_unwind(AssertUnwindSafe(|| execute(&command))).unwrap_or_else(|_| {
                let message = "the action failed inside the agent; its log says where".into();
                Err(Failure { message, transient: false })
            });
            let seconds = began.elapsed().as_secs_f64();
            info!(command = %command.id, seconds, ?result, "ended");
            commands.end(Answer { command: command.id, result, seconds });
        });
    }

    fn end(&self, answer: Answer) {
        let mut known = self.lock();
        known.running.remove(&answer.command);
        // What may succeed at the next attempt is not remembered, so that the attempt is made.
        if !matches!(&answer.result, Err(failure) if failure.transient) {
            known.answers.push_back(answer.clone());
            while known.answers.len() > ANSWERS_MAX {
                known.answers.pop_front();
            }
            // Without the file a repeated command is carried out again, and finds its work done.
            if let Err(error) = write_json(&self.0.path, &known.answers) {
                error!(error = levee_wire::chain(&error), "an answer could not be kept");
            }
        }
        drop(known);
        let _ = self.0.ended.send(answer);
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
