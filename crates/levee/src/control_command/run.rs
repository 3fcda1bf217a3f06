use std::fmt::Write;

use clap::{Args, Subcommand};
use levee_api::{RunFilter, RunSummary};
use levee_model::{AppName, RunId};
use levee_plan::{Run, StepState};

use super::connection::Connection;
use super::follow::follow;
use super::text::{moment, or_dash, seconds, table};
use crate::exit::Exit;
use crate::output::Output;

#[derive(Debug, Subcommand)]
pub enum RunCommand {
    /// List the runs, newest first
    List(ListArguments),
    /// Show a run with its steps
    Show(OneRun),
    /// Follow a run until it has ended or waits for you
    Watch(OneRun),
    /// Try a step again
    Retry {
        /// The run's id, as `levee run list` has it
        run: RunId,
        /// The step's id, as `levee run show` has it
        step: String,
        #[command(flatten)]
        connection: Connection,
    },
    /// Say that a step was done by hand
    Skip {
        /// The run's id, as `levee run list` has it
        run: RunId,
        /// The step's id, as `levee run show` has it
        step: String,
        /// What was done; it is recorded
        #[arg(long, value_name = "TEXT")]
        reason: String,
        #[command(flatten)]
        connection: Connection,
    },
    /// End a run before its cut-over; what it had begun is taken back
    Abort {
        /// The run's id, as `levee run list` has it
        run: RunId,
        /// Your word that the site it has cut the app over to is lost and can write no more: the run ends as failed
        #[arg(long)]
        new_site_is_down: bool,
        #[command(flatten)]
        connection: Connection,
    },
}

#[derive(Debug, Args)]
pub struct ListArguments {
    /// Only those of this app
    #[arg(long)]
    app: Option<AppName>,
    /// Only those that have not ended
    #[arg(long)]
    open: bool,
    /// The newest so many
    #[arg(long, default_value_t = 50)]
    limit: u32,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
pub struct OneRun {
    /// The run's id, as `levee run list` has it
    run: RunId,
    #[command(flatten)]
    connection: Connection,
}

pub fn run(command: RunCommand, output: Output) -> anyhow::Result<Exit> {
    match command {
        RunCommand::List(ListArguments { app, open, limit, connection }) => {
            let runs = connection.client()?.runs(&RunFilter { app, open, limit: Some(limit) })?;
            output.result(&runs, |runs| list(runs))?;
        }
        RunCommand::Show(OneRun { run, connection }) => {
            output.result(&connection.client()?.run(&run)?, describe)?;
        }
        RunCommand::Watch(OneRun { run, connection }) => return follow(&connection.client()?, &run, output),
        RunCommand::Retry { run, step, connection } => {
            output.result(&connection.client()?.retry_step(&run, &step)?, describe)?;
        }
        RunCommand::Skip { run, step, reason, connection } => {
            output.result(&connection.client()?.skip_step(&run, &step, &reason)?, describe)?;
        }
        RunCommand::Abort { run, new_site_is_down, connection } => {
            let client = connection.client()?;
            let ended = if new_site_is_down { client.give_up_run(&run)? } else { client.abort_run(&run)? };
            output.result(&ended, describe)?;
        }
    }
    Ok(Exit::DONE)
}

fn list(runs: &[RunSummary]) -> String {
    let rows: Vec<Vec<String>> = runs
        .iter()
        .map(|run| {
            vec![
                run.id.to_string(),
                run.kind.to_string(),
                run.app.to_string(),
                format!("{} → {}", run.from, run.to),
                run.state.as_str().into(),
                moment(run.started_at),
                or_dash(run.ended_at.map(|ended| seconds(ended.duration_since(run.started_at).as_secs_f64()))),
                run.requested_by.clone(),
            ]
        })
        .collect();
    table(&["RUN", "KIND", "APP", "SITES", "STATE", "STARTED", "TOOK", "BY"], &rows)
}

fn describe(run: &Run) -> String {
    let plan = &run.plan;
    let mut text = format!(
        "run {}: {} of {}, {} → {}, {}\nstarted {} by {}\n\n",
        run.id,
        plan.kind,
        plan.app,
        plan.from,
        plan.to,
        run.state.as_str(),
        moment(run.started_at),
        run.requested_by
    );
    if let Some(given_up) = &run.facts.given_up {
        let _ = write!(text, "given up by {}: {} is down. ", given_up.assertion.by, plan.to);
        let places: Vec<String> = given_up.set_aside.iter().map(|path| path.display().to_string()).collect();
        text += &match places.is_empty() {
            true => format!("The agent at {} has not said where its old data were set aside\n\n", plan.from),
            false => format!("The old data of {} were set aside in {}\n\n", plan.from, places.join(", ")),
        };
    }
    let rows: Vec<Vec<String>> = run
        .all_steps()
        .filter_map(|step| {
            let record = run.steps.get(&step.id)?;
            let said = match &record.state {
                StepState::Backoff { failure, .. } | StepState::Failed { failure } => failure.message.clone(),
                StepState::Skipped { by, reason } => format!("by {by}: {reason}"),
                _ => record.outcome.as_ref().and_then(|outcome| outcome.note.clone()).unwrap_or_default(),
            };
            let title = if said.is_empty() { step.title.clone() } else { format!("{}: {said}", step.title) };
            Some(vec![
                step.id.to_string(),
                step.at.to_string(),
                record.state.as_str().into(),
                or_dash(record.seconds.map(seconds)),
                title,
            ])
        })
        .collect();
    text.push_str(&table(&["STEP", "AT", "STATE", "TOOK", "WHAT"], &rows));
    text
}
