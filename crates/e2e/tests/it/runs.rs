//! Runs as an operator follows them.

use std::fs;
use std::time::{Duration, Instant};

use levee_testing::wait::poll;
use serde_json::Value;

use super::world::{PATIENCE, Process, Site, World};

/// Kinds of runs, as the command line has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Failover,
    Switchover,
    Drill,
    /// Knows its site by itself: the one that does not write.
    Reprotect,
}

/// A run that was begun and is not followed.
pub struct Begun {
    pub id: String,
    /// What of the server's log is older than the run.
    log_offset: usize,
    /// A site that is lost: no operator could start anything there.
    lost: Option<Site>,
}

/// How a run came to its end.
#[derive(Debug)]
pub struct Ended {
    /// How often a step had to be retried by the operator.
    pub retries: usize,
    pub took: Duration,
}

impl Kind {
    pub fn command(self, to: Site) -> Vec<&'static str> {
        match self {
            Kind::Failover => vec!["failover", "shop", "--yes", "--to", to.name()],
            Kind::Switchover => vec!["switchover", "shop", "--yes", "--to", to.name()],
            Kind::Drill => vec!["drill", "shop", "--to", to.name()],
            Kind::Reprotect => vec!["reprotect", "shop"],
        }
    }

    /// The steps that such a run would have now, in their order.
    #[track_caller]
    pub fn steps(self, world: &World, to: Site) -> Vec<String> {
        steps_of(&world.expect(&[&self.command(to)[..], &["--dry-run"]].concat()))
    }
}

/// The steps of a plan, in their order.
fn steps_of(plan: &Value) -> Vec<String> {
    let steps = plan["steps"].as_array().into_iter().flatten();
    steps.filter_map(|step| Some(step["id"].as_str()?.to_string())).collect()
}

impl Begun {
    /// Starts a run.
    #[track_caller]
    pub fn new(world: &World, command: &[&str]) -> Begun {
        let log_offset = server_log(world).len();
        let run = world.expect(&[command, &["--no-wait"]].concat());
        let id = run["id"].as_str().unwrap_or_else(|| panic!("the run has no id: {run}")).to_string();
        Begun { id, log_offset, lost: None }
    }

    /// The failover of a site that is lost, begun.
    #[track_caller]
    pub fn of_lost(world: &World, lost: Site) -> Begun {
        let to = lost.other().name();
        let begun = Begun::new(world, &["failover", "shop", "--to", to, "--old-site-is-down", "--yes"]);
        Begun { lost: Some(lost), ..begun }
    }

    /// The same of a run that may be refused.
    pub fn try_new(world: &World, command: &[&str]) -> Result<Begun, String> {
        let log_offset = server_log(world).len();
        let output = world.operator(&[command, &["--no-wait", "--json"]].concat());
        let said = String::from_utf8_lossy(&output.stdout);
        let run: Value = said.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
        match run["id"].as_str() {
            Some(id) => Ok(Begun { id: id.to_string(), log_offset, lost: None }),
            None => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// The steps of this very run, in their order: a plan that is made a moment later may have others.
    #[track_caller]
    pub fn steps(&self, world: &World) -> Vec<String> {
        let run = self.state(world);
        let steps = steps_of(&run["plan"]);
        assert!(!steps.is_empty(), "the run has no steps: {run:#}");
        steps
    }

    /// Waits until the server has begun a step, durably, and is about to carry it out. The log is faster
    /// than any question.
    #[track_caller]
    pub fn wait_begun(&self, world: &World, step: &str) {
        let (run, step_field) = (format!("run={} ", self.id), format!("step={step} "));
        let begun = poll(PATIENCE, || {
            let log = server_log(world);
            let mut lines = log[self.log_offset..].lines();
            // What the server does at once, such as noting an assertion, is only said to be done.
            let has_begun = |line: &str| line.contains("state=\"running\"") || line.contains("state=\"done\"");
            let is_it = |line: &str| line.contains(&run) && line.contains(&step_field) && has_begun(line);
            lines.any(is_it).then_some(())
        });
        if begun.is_none() {
            panic!("the step {step} was never begun: {}\n{}", self.state(world), world.log_tails());
        }
    }

    /// Waits until the run is done. A run that waits for its operator is told to try again, a few times.
    #[track_caller]
    pub fn wait_done(&self, world: &World) -> Ended {
        self.wait_ended(world).unwrap_or_else(|run| panic!("the run ended badly: {run:#}\n{}", world.log_tails()))
    }

    /// The same, and the run as it stands where it has ended in another way. Where a run says that a database is to be
    /// started at the site that writes, that is done before.
    #[track_caller]
    pub fn wait_ended(&self, world: &World) -> Result<Ended, Value> {
        let begun = Instant::now();
        let mut retries = 0;
        let state = poll(PATIENCE, || {
            let run = self.state(world);
            match run["state"].as_str()? {
                "blocked" if retries < 3 => {
                    let steps = run["steps"].as_object().into_iter().flatten();
                    for (step, _) in steps.filter(|(_, record)| record["state"] == "failed") {
                        let why = run["steps"][step]["failure"]["message"].as_str().unwrap_or_default();
                        println!("    {step} is retried: {why}");
                        if why.contains("start-database") {
                            // Only the site that writes still lets it be started. One that is lost has not heard that
                            // it does not write any more.
                            for site in [Site::East, Site::West].into_iter().filter(|site| self.lost != Some(*site)) {
                                world.start_database(site);
                            }
                        }
                        retries += 1;
                        world.operator(&["run", "retry", &self.id, step]);
                    }
                    None
                }
                "blocked" | "failed" | "aborted" | "done" => Some(run),
                _ => None,
            }
        });
        match state {
            Some(run) if run["state"] == "done" => Ok(Ended { retries, took: begun.elapsed() }),
            Some(run) => Err(run),
            None => panic!("the run did not end: {:#}\n{}", self.state(world), world.log_tails()),
        }
    }

    /// The run as it stands, null when the server does not answer.
    pub fn state(&self, world: &World) -> Value {
        let output = world.operator(&["run", "show", &self.id, "--json"]);
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }
}

fn server_log(world: &World) -> String {
    String::from_utf8_lossy(&fs::read(world.log(Process::Server)).unwrap_or_default()).into_owned()
}
