//! Following a run on the terminal, one line for each step that ends.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use levee_api::{Client, RunWait};
use levee_model::RunId;
use levee_plan::{Plan, PlanKind, Run, RunState, SkipRule, Step, StepId, StepRecord, StepState};
use serde_json::json;

use super::text::seconds;
use crate::exit::{Ended, Exit};
use crate::output::Output;

/// How long the server may be away while a run is followed: it goes on by itself when it is back.
const AWAY_TIME_MAX: Duration = Duration::from_secs(120);
const RETRY_PAUSE: Duration = Duration::from_millis(300);

/// Follows a run until it has ended or waits for the operator. The last thing printed in JSON mode is
/// the run as a whole.
pub fn follow(client: &Client, id: &RunId, output: Output) -> anyhow::Result<Exit> {
    let mut wait = RunWait::default();
    let mut printer = Printer { output, shown: BTreeMap::new() };
    let mut away_since: Option<Instant> = None;
    loop {
        let change = match client.run_events(id, &wait) {
            Ok(change) => change,
            Err(error) if error.is_transient() => {
                let since = *away_since.get_or_insert_with(|| {
                    output.note(&format!("the server is away; run {id} goes on when it is back"));
                    Instant::now()
                });
                if since.elapsed() > AWAY_TIME_MAX {
                    let advice = format!("gave up following run {id}; look again with `levee run watch {id}`");
                    return Err(anyhow!(error).context(advice));
                }
                std::thread::sleep(RETRY_PAUSE);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        away_since = None;
        printer.show(&change.run)?;
        if change.run.state.has_ended() || change.run.state == RunState::Blocked {
            return end(&change.run, output);
        }
        wait.after = Some(change.mark);
    }
}

struct Printer {
    output: Output,
    /// The state of each step as it was last shown.
    shown: BTreeMap<StepId, StepState>,
}

impl Printer {
    fn show(&mut self, run: &Run) -> anyhow::Result<()> {
        let mut changed: Vec<(&Step, &StepRecord)> = run
            .all_steps()
            .filter_map(|step| Some((step, run.steps.get(&step.id)?)))
            .filter(|(step, record)| is_news(&record.state) && self.shown.get(&step.id) != Some(&record.state))
            .collect();
        changed.sort_by_key(|(_, record)| record.ended_at);
        for (step, record) in changed {
            self.line(run, step, record)?;
            self.shown.insert(step.id.clone(), record.state.clone());
        }
        Ok(())
    }

    fn line(&self, run: &Run, step: &Step, record: &StepRecord) -> anyhow::Result<()> {
        if self.output.is_quiet() && !self.output.is_json() {
            return Ok(());
        }
        let event = json!({ "event": "step", "run": run.id, "step": step.id, "title": step.title, "record": record });
        self.output.result(&event, |_| {
            let mut line = format!("{:>7}  {:<9} {} [{}]", elapsed(record), word(&record.state), step.title, step.at);
            match &record.state {
                StepState::Backoff { failure, .. } | StepState::Failed { failure } => {
                    line.push_str(&format!(": {}", failure.message));
                }
                StepState::Skipped { by, reason } => line.push_str(&format!(", by {by}: {reason}")),
                _ => {}
            }
            if let Some(note) = record.outcome.as_ref().and_then(|outcome| outcome.note.as_ref()) {
                line.push_str(&format!(" ({note})"));
            }
            line
        })
    }
}

/// Steps begin and wait without a line.
fn is_news(state: &StepState) -> bool {
    !matches!(state, StepState::Waiting | StepState::Running { .. } | StepState::Cancelled)
}

fn word(state: &StepState) -> &'static str {
    match state {
        StepState::Backoff { .. } => "again",
        other => other.as_str(),
    }
}

fn elapsed(record: &StepRecord) -> String {
    let by_clock = || Some(record.ended_at?.duration_since(record.started_at?).as_secs_f64());
    record.seconds.or_else(by_clock).map_or_else(String::new, seconds)
}

/// The last words on a run, and the exit code.
pub fn end(run: &Run, output: Output) -> anyhow::Result<Exit> {
    if output.is_json() {
        output.result(run, |_| String::new())?;
    } else if !output.is_quiet() {
        let took = run.ended_at.map(|ended| ended.duration_since(run.started_at).as_secs_f64());
        let took = took.map_or_else(String::new, |took| format!(" after {}", seconds(took)));
        output.result(run, |run| {
            format!("run {} ({} of {}) is {}{took}", run.id, run.plan.kind, run.plan.app, run.state.as_str())
        })?;
        for (asset, probe) in &run.facts.probes {
            let verdict = if probe.passed { "passed" } else { "did not pass" };
            output.note(&format!("  the probe of {asset} {verdict}: {}", probe.detail));
        }
    }
    match run.state {
        RunState::Done => Ok(Exit::DONE),
        RunState::Blocked => Err(Ended::with(Exit::WAITS, anyhow!("{}", advice(run)))),
        state => bail!("run {} is {}; `levee run show {}` says why", run.id, state.as_str(), run.id),
    }
}

/// What an operator can do about a run that waits.
fn advice(run: &Run) -> String {
    let id = &run.id;
    let failed = run
        .all_steps()
        .find(|step| run.steps.get(&step.id).is_some_and(|record| matches!(record.state, StepState::Failed { .. })));
    let step = failed.map_or_else(|| "STEP".to_string(), |step| step.id.to_string());
    let skip = match failed.map(|step| &step.skip) {
        Some(SkipRule::Never(_)) => String::new(),
        Some(SkipRule::AsAssertion) => format!(
            ", or give your word that {} is down and can write no more with `levee run skip {id} {step} --reason TEXT`",
            run.plan.from
        ),
        Some(SkipRule::ByHand) | None => {
            format!(", or do it by hand and `levee run skip {id} {step} --reason TEXT`")
        }
    };
    let abort = if run.is_cut_over() { String::new() } else { format!(", or end it with `levee run abort {id}`") };
    format!("run {id} waits at {step}: put right what is wrong and `levee run retry {id} {step}`{skip}{abort}")
}

/// A plan before it is carried out: what is lost, how long it takes, and the steps.
pub fn describe_plan(plan: &Plan) -> String {
    let mut text = plan.to_string();
    if plan.kind == PlanKind::Failover && plan.assertion.is_some() {
        text.push_str(&format!("  by your word that {} is down and can write no more\n", plan.from));
    }
    text
}
