//! Commands of the operator's around a backup: to bring what is stored to rest, to wake it again, to tell others.

mod running;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use levee_vault::BackupSummary;

use super::super::amounts::parse_duration;
use super::super::interrupt;
use crate::exit::Exit;
use crate::output::Output;
use running::Running;

/// What is run around the backup, each by `sh -c`.
#[derive(Clone, Debug, Args)]
pub struct HookArguments {
    /// Run a command first, when the vault is open; if it fails nothing is stored (can be repeated)
    #[arg(long, value_name = "COMMAND")]
    hook_before: Vec<String>,
    /// Run a command when the backup has failed or was interrupted (can be repeated)
    #[arg(long, value_name = "COMMAND")]
    hook_failed: Vec<String>,
    /// Run a command last, however the backup went, as soon as a command of --hook-before was begun (can be repeated)
    #[arg(long, value_name = "COMMAND")]
    hook_after: Vec<String>,
    /// End a hook that runs for longer, and take it for failed
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_duration)]
    hook_timeout: Duration,
}

/// What has become of a backup.
pub struct Stored {
    pub summary: BackupSummary,
    pub exit: Exit,
}

/// When a hook is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    Before,
    Failed,
    After,
}

impl Moment {
    fn word(self) -> &'static str {
        match self {
            Moment::Before => "before",
            Moment::Failed => "failed",
            Moment::After => "after",
        }
    }
}

/// Names and values of variables.
type Variables = Vec<(&'static str, String)>;

/// Stores something between the hooks. What has to be undone after the first of them is undone however it ends:
/// also when a signal ends this process.
pub fn around(
    hooks: &HookArguments,
    dry_run: bool,
    output: Output,
    store: impl FnOnce() -> anyhow::Result<Stored>,
) -> anyhow::Result<Exit> {
    let hooks = Hooks { arguments: hooks.clone(), output, running: Arc::default() };
    if hooks.is_empty() {
        return store().map(|stored| stored.exit);
    }
    if dry_run {
        output.note("the hooks are not run, since nothing is stored");
        return store().map(|stored| stored.exit);
    }
    let on_signal = {
        let hooks = hooks.clone();
        interrupt::before_the_end(move || hooks.interrupted())
    };
    let stored = hooks.run(Moment::Before, &[]).context("nothing was stored").and_then(|()| store());
    if !on_signal.take_back() {
        // A signal came first, and its thread ends this process when it is done.
        interrupt::wait_for_the_end();
    }
    let variables = variables(&stored);
    if let Err(error) = &stored
        && let Err(failed) = hooks.run(Moment::Failed, &variables)
    {
        output.note(&format!("{failed:#} (after: {error:#})"));
    }
    match (stored, hooks.run(Moment::After, &variables)) {
        (Ok(stored), Ok(())) => Ok(stored.exit),
        (Ok(stored), Err(error)) => {
            let saved = match &stored.summary.snapshot_id {
                Some(id) => format!("snapshot {} is saved, but what comes after it failed", id.short()),
                None => "the backup is done, but what comes after it failed".into(),
            };
            Err(error.context(saved))
        }
        (Err(error), Ok(())) => Err(error),
        (Err(error), Err(failed)) => {
            output.note(&format!("{failed:#}"));
            Err(error)
        }
    }
}

#[derive(Clone)]
struct Hooks {
    arguments: HookArguments,
    output: Output,
    /// The hook that runs now, so that a signal can end it. Held only to look or to change, never while waiting.
    running: Arc<Mutex<Option<Running>>>,
}

impl Hooks {
    fn is_empty(&self) -> bool {
        [Moment::Before, Moment::Failed, Moment::After].iter().all(|moment| self.commands(*moment).is_empty())
    }

    fn commands(&self, moment: Moment) -> &[String] {
        match moment {
            Moment::Before => &self.arguments.hook_before,
            Moment::Failed => &self.arguments.hook_failed,
            Moment::After => &self.arguments.hook_after,
        }
    }

    /// Runs the commands of a moment. Before the backup the first failure ends it; later all are run, and the first
    /// failure is told.
    fn run(&self, moment: Moment, variables: &[(&'static str, String)]) -> anyhow::Result<()> {
        let mut first = Ok(());
        for command in self.commands(moment) {
            self.output.note(&format!("running the {}-hook", moment.word()));
            let ran = self.run_one(moment, command, variables);
            if first.is_ok() {
                first = ran;
            }
            if first.is_err() && moment == Moment::Before {
                break;
            }
        }
        first
    }

    fn run_one(&self, moment: Moment, command: &str, variables: &[(&'static str, String)]) -> anyhow::Result<()> {
        let word = moment.word();
        let running = Running::start(command, word, variables).with_context(|| format!("the {word}-hook"))?;
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(running.clone());
        let ended = running.wait(self.arguments.hook_timeout);
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = None;
        ended.with_context(|| format!("the {word}-hook"))
    }

    /// A signal ends this process: what was begun is undone first.
    fn interrupted(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(running) = running {
            running.end();
        }
        let variables: Variables =
            vec![("LEVEE_BACKUP_RESULT", "interrupted".into()), ("LEVEE_ERROR", "it was interrupted".into())];
        for moment in [Moment::Failed, Moment::After] {
            if let Err(error) = self.run(moment, &variables) {
                self.output.note(&format!("{error:#}"));
            }
        }
    }
}

/// What a hook is told in its environment.
fn variables(stored: &anyhow::Result<Stored>) -> Variables {
    let Stored { summary, exit } = match stored {
        Ok(stored) => stored,
        Err(error) => {
            return vec![("LEVEE_BACKUP_RESULT", "failed".into()), ("LEVEE_ERROR", format!("{error:#}"))];
        }
    };
    let result = match (&summary.snapshot_id, *exit) {
        (None, _) => "unchanged",
        (Some(_), Exit::INCOMPLETE) => "incomplete",
        (Some(_), _) => "saved",
    };
    let duration_s = summary.ended_at.duration_since(summary.started_at).as_secs();
    let mut variables = vec![
        ("LEVEE_BACKUP_RESULT", result.to_string()),
        ("LEVEE_FILES_NEW", summary.files_new.to_string()),
        ("LEVEE_FILES_CHANGED", summary.files_changed.to_string()),
        ("LEVEE_FILES_UNMODIFIED", summary.files_unmodified.to_string()),
        ("LEVEE_FILES_UNREADABLE", summary.errors.count.to_string()),
        ("LEVEE_BYTES_PROCESSED", summary.total_bytes.to_string()),
        ("LEVEE_BYTES_ADDED", summary.data_added_bytes.to_string()),
        ("LEVEE_BYTES_STORED", summary.data_added_packed_bytes.to_string()),
        ("LEVEE_DURATION_S", duration_s.to_string()),
    ];
    variables.extend(summary.snapshot_id.map(|id| ("LEVEE_SNAPSHOT_ID", id.to_string())));
    variables
}
