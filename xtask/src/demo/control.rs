//! The demo's operator: everything here is what a person would type.

use std::collections::BTreeMap;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use levee_testing::levee::{Binary, ServerPlace};
use levee_testing::process;
use levee_testing::wait::poll;
use serde_json::Value;

use super::report::{PASSED, Step};

const PROTECTED_MAX: Duration = Duration::from_secs(300);

/// The `levee` command line, with a server's address and token in the environment.
#[derive(Clone)]
pub struct Operator {
    binary: Binary,
    server: ServerPlace,
}

impl Operator {
    pub fn new(binary: Binary, server: ServerPlace) -> Operator {
        Operator { binary, server }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.binary.operator(&self.server);
        command.args(arguments);
        command
    }

    /// Runs a command to its end; the error holds what it said on standard error.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = process::output(&mut self.command(arguments));
        if !output.status.success() {
            bail!("{}", failure_text(arguments, &output));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Carries out a plan to its end and returns the run, also where it has failed: the exit code then says no more
    /// than the run does.
    pub fn ended_run(&self, arguments: &[&str]) -> Result<Run> {
        let output = process::output(&mut self.command(&[arguments, &["--json"]].concat()));
        let run = Run::last_in(&String::from_utf8_lossy(&output.stdout));
        let run = run.with_context(|| failure_text(arguments, &output))?;
        if !run.has_ended() {
            run.check_done()?;
        }
        Ok(run)
    }

    /// Runs a command with `--json` and returns the value that it printed last.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let printed = self.run(&[arguments, &["--json"]].concat())?;
        let last = last_line(&printed);
        serde_json::from_str(last).with_context(|| format!("levee {} printed no JSON: {last}", arguments.join(" ")))
    }

    /// The run of the shop that is under way.
    pub fn open_run(&self) -> Result<Option<Run>> {
        match self.status()?.open_run {
            Some(id) => Ok(Some(Run(self.json(&["run", "show", &id])?))),
            None => Ok(None),
        }
    }

    /// Waits until the shop is written at a site and the other site has opened its copies with its own keys.
    pub fn wait_protected(&self, writer: &str) -> Result<()> {
        let mut last: Option<ShopStatus> = None;
        let protected = poll(PROTECTED_MAX, || {
            let status = self.status().ok()?;
            let is_protected = status.writer == writer && status.is_protected();
            last = Some(status);
            is_protected.then_some(())
        });
        match protected {
            Some(()) => Ok(()),
            None => bail!(
                "the shop was not protected after {} s: {}",
                PROTECTED_MAX.as_secs(),
                last.map_or_else(
                    || "the server gave no status".into(),
                    |status| format!("{} ({})", status.ages(), status.problems())
                )
            ),
        }
    }

    /// How the shop stands.
    pub fn status(&self) -> Result<ShopStatus> {
        // The exit code says whether all is well; here only the figures are wanted.
        let output = self.command(&["status", "--json"]).output().context("cannot start levee status")?;
        let value: Value = serde_json::from_slice(&output.stdout).with_context(|| {
            format!("levee status printed no JSON: {}", String::from_utf8_lossy(&output.stderr).trim())
        })?;
        ShopStatus::parse(&value).context("levee status says nothing of the shop")
    }
}

fn failure_text(arguments: &[&str], output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    format!("levee {} failed ({}): {}", arguments.join(" "), output.status, said.trim())
}

/// The last line that says something.
fn last_line(printed: &str) -> &str {
    printed.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default()
}

/// What `levee status --json` says of the shop.
#[derive(Clone, Debug, PartialEq)]
pub struct ShopStatus {
    pub writer: String,
    pub assets: Vec<Asset>,
    pub problems: Vec<String>,
    pub open_run: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Asset {
    pub name: String,
    pub protected: bool,
    pub state: String,
    pub age_s: Option<f64>,
    pub problems: Vec<String>,
}

impl ShopStatus {
    fn parse(value: &Value) -> Option<ShopStatus> {
        let shop = value.get("apps")?.as_array()?.iter().find(|app| app["app"] == "shop")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let texts = |value: &Value| value.as_array().into_iter().flatten().map(text).collect::<Vec<_>>();
        let assets = shop["assets"].as_array()?.iter().map(|asset| Asset {
            name: text(&asset["asset"]),
            protected: asset["protected"].as_bool().unwrap_or(false),
            state: text(&asset["state"]),
            age_s: asset["age_s"].as_f64(),
            problems: texts(&asset["problems"]),
        });
        let assets = assets.collect();
        let open_run = shop["open_run"].as_str().map(str::to_string);
        Some(ShopStatus { writer: text(&shop["writer"]), assets, problems: texts(&shop["problems"]), open_run })
    }

    pub fn is_protected(&self) -> bool {
        !self.assets.is_empty() && self.assets.iter().all(|asset| asset.protected)
    }

    /// `orders 0.3 s, documents 4.1 s`
    pub fn ages(&self) -> String {
        let ages = self.assets.iter().map(|asset| match asset.age_s {
            Some(age) => format!("{} {age:.1} s", asset.name),
            None => format!("{} {}", asset.name, asset.state),
        });
        ages.collect::<Vec<_>>().join(", ")
    }

    /// Everything that is said to be wrong.
    pub fn problems(&self) -> String {
        let of_assets = self.assets.iter().flat_map(|asset| asset.problems.iter());
        self.problems.iter().chain(of_assets).cloned().collect::<Vec<_>>().join("; ")
    }
}

/// A plan, as `--dry-run --json` has it.
pub struct Plan(pub Value);

impl Plan {
    /// For each asset the seconds before now that may be lost; `None` where that is not known.
    pub fn predicted_loss(&self) -> BTreeMap<String, Option<f64>> {
        let entry = |asset: &Value| Some((asset["asset"].as_str()?.to_string(), asset["age_s"].as_f64()));
        self.0["prediction"]["assets"].as_array().into_iter().flatten().filter_map(entry).collect()
    }

    /// What will be lost, and how long it should take.
    pub fn announcement(&self) -> String {
        let losses = loss_text(&self.predicted_loss());
        let time = match self.0["prediction"]["recovery_time_s"].as_f64() {
            Some(seconds) => format!("should take {seconds:.0} s"),
            None => "how long it takes was never measured".into(),
        };
        format!("at most lost: {losses}; {time}")
    }
}

/// `documents 4.1 s, orders unknown`
pub fn loss_text(predicted: &BTreeMap<String, Option<f64>>) -> String {
    let losses = predicted.iter().map(|(asset, age)| match age {
        Some(age) => format!("{asset} {age:.1} s"),
        None => format!("{asset} unknown"),
    });
    losses.collect::<Vec<_>>().join(", ")
}

/// A carrying-out of a plan, as `levee run show --json` has it.
pub struct Run(pub Value);

fn moment(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

/// What an asset answered to the probe's questions.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    pub asset: String,
    pub passed: bool,
    pub detail: String,
}

impl Run {
    /// The run that a command has printed last. The lines before it are the steps that have ended.
    fn last_in(printed: &str) -> Option<Run> {
        let value: Value = serde_json::from_str(last_line(printed)).ok()?;
        (value["state"].is_string() && value["steps"].is_object()).then_some(Run(value))
    }

    /// Whether nothing of it goes on or waits for the operator.
    fn has_ended(&self) -> bool {
        matches!(self.0["state"].as_str(), Some("done" | "failed" | "aborted"))
    }

    pub fn check_done(&self) -> Result<()> {
        if self.0["state"] != "done" {
            bail!("the run ended as {}: {}", self.0["state"], self.failures());
        }
        Ok(())
    }

    fn failures(&self) -> String {
        let failed = self
            .records()
            .filter_map(|(id, record)| Some(format!("{id}: {}", record.get("failure")?.get("message")?.as_str()?)));
        failed.collect::<Vec<_>>().join("; ")
    }

    fn records(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.0["steps"].as_object().into_iter().flatten()
    }

    /// Whether every question of the probes was answered.
    pub fn is_probed(&self) -> bool {
        let mut probes = self.records().filter(|(id, _)| id.starts_with("probe")).peekable();
        probes.peek().is_some() && probes.all(|(_, record)| record["state"] == "done")
    }

    pub fn probes(&self) -> Vec<Probe> {
        let probes = self.0["facts"]["probes"].as_object().into_iter().flatten();
        probes
            .map(|(asset, result)| Probe {
                asset: asset.clone(),
                passed: result["passed"].as_bool().unwrap_or(false),
                detail: result["detail"].as_str().unwrap_or_default().into(),
            })
            .collect()
    }

    /// `passed`, or what has failed.
    pub fn verdict(&self) -> String {
        let failures = self.failures();
        if !failures.is_empty() {
            return failures;
        }
        let probes = self.probes();
        let failed = probes.iter().filter(|probe| !probe.passed);
        let failed: Vec<String> = failed.map(|probe| format!("{}: {}", probe.asset, probe.detail)).collect();
        match () {
            () if !failed.is_empty() => failed.join("; "),
            () if self.0["state"] != "done" => format!("the run ended as {}", self.0["state"]),
            () if probes.is_empty() => "nothing was probed".into(),
            () => PASSED.into(),
        }
    }

    /// When the periodic copies were begun that the run has chosen.
    pub fn copied_at(&self) -> Vec<Timestamp> {
        let points = self.0["facts"]["point"]["assets"].as_object().into_iter().flatten();
        points.filter_map(|(_, point)| moment(&point["position"]["taken_at"])).collect()
    }

    /// When the name of the shop had been given its new address.
    pub fn switched_at(&self) -> Option<Timestamp> {
        moment(&self.0["steps"]["switch"]["ended_at"])
    }

    /// How long data were copied or a database started and replayed its log. What went on side by side counts once.
    pub fn copied_and_replayed_s(&self) -> f64 {
        let spans = self.records().filter_map(|(_, record)| {
            let done = &record["outcome"]["done"];
            let seconds = done["copy_s"].as_f64().or_else(|| done["replay_s"].as_f64())?;
            let end = moment(&record["ended_at"])?.as_duration().as_secs_f64();
            Some((end - seconds, end))
        });
        let mut spans: Vec<(f64, f64)> = spans.collect();
        spans.sort_by(|one, other| one.0.total_cmp(&other.0));
        let (mut sum, mut until) = (0.0, f64::MIN);
        for (begin, end) in spans {
            sum += (end - begin.max(until)).max(0.0);
            until = end.max(until);
        }
        sum
    }

    /// What each step took, in the plan's order.
    pub fn steps(&self) -> Vec<Step> {
        let plan = self.0["plan"]["steps"].as_array();
        plan.into_iter()
            .flatten()
            .filter_map(|step| {
                let id = step["id"].as_str()?;
                let seconds = self.0["steps"][id]["seconds"].as_f64()?;
                Some(Step { step: id.into(), seconds })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_read() {
        let status = serde_json::json!({"apps": [{
            "app": "shop", "writer": "east", "problems": ["a"], "open_run": null,
            "assets": [
                {"asset": "orders", "protected": true, "state": "protected", "age_s": 0.26, "problems": []},
                {"asset": "documents", "protected": false, "state": "copying", "age_s": null, "problems": ["b"]},
            ],
        }]});
        let shop = ShopStatus::parse(&status).unwrap();
        assert!(!shop.is_protected());
        assert_eq!((shop.ages().as_str(), shop.problems().as_str()), ("orders 0.3 s, documents copying", "a; b"));
        assert_eq!(ShopStatus::parse(&serde_json::json!({"apps": []})), None);
    }

    #[test]
    fn the_run_is_read_from_the_last_line() {
        let step = r#"{"event":"step","run":"r","step":"probe-orders","record":{"state":"failed"}}"#;
        let run = serde_json::json!({
            "id": "r", "state": "failed",
            "steps": {"probe-orders": {"state": "failed", "failure": {"message": "the probe failed: no orders"}}},
            "facts": {"probes": {"orders": {"passed": false, "detail": "no orders"}}},
        })
        .to_string();
        let failed = Run::last_in(&format!("{step}\n{run}\n\n")).unwrap();
        assert!(failed.has_ended() && !failed.is_probed());
        assert_eq!(failed.verdict(), "probe-orders: the probe failed: no orders");
        for printed in ["", "no JSON", step, &run[1..]] {
            assert!(Run::last_in(printed).is_none(), "{printed}");
        }
    }

    #[test]
    fn a_drill_has_passed_only_when_everything_was_answered() {
        let check = |state: &str, probes: Value, expected: &str| {
            let run = Run(serde_json::json!({"state": state, "steps": {}, "facts": {"probes": probes}}));
            assert_eq!(run.verdict(), expected);
        };
        let answered = serde_json::json!({"orders": {"passed": true, "detail": "newest order 7"}});
        check("done", answered.clone(), "passed");
        check("aborted", answered, "the run ended as \"aborted\"");
        check("done", serde_json::json!({}), "nothing was probed");
        check("done", serde_json::json!({"orders": {"passed": false, "detail": "no orders"}}), "orders: no orders");
    }

    #[test]
    fn a_run_is_read() {
        let run = Run(serde_json::json!({
            "state": "blocked",
            "plan": {"steps": [{"id": "seal"}, {"id": "probe-orders"}]},
            "steps": {
                "probe-orders": {"state": "failed", "failure": {"message": "no room"}},
                "seal": {"state": "done", "seconds": 1.5},
            },
            "facts": {"probes": {"orders": {"passed": false, "detail": "f"}}},
        }));
        assert_eq!(run.steps().len(), 1);
        assert!(!run.is_probed() && !run.probes()[0].passed);
        assert!(run.check_done().unwrap_err().to_string().ends_with("probe-orders: no room"));
        let run = Run(serde_json::json!({"steps": {
            "rebuild-orders": {"ended_at": "2026-11-27T10:00:04Z", "outcome": {"done": {"copy_s": 3.0}}},
            "rebuild-documents": {"ended_at": "2026-11-27T10:00:05Z", "outcome": {"done": {"copy_s": 2.5}}},
            "start-orders": {"ended_at": "2026-11-27T10:00:09Z", "outcome": {"done": {"replay_s": 2.0}}},
            "switch": {"ended_at": "2026-11-27T10:00:10Z", "outcome": {"done": {"done": "nothing"}}},
        }}));
        assert_eq!(run.copied_and_replayed_s(), 4.0 + 2.0);
        assert_eq!(run.switched_at(), "2026-11-27T10:00:10Z".parse().ok());
        let plan = Plan(serde_json::json!({"prediction": {
            "assets": [{"asset": "orders", "age_s": 0.5}, {"asset": "documents", "age_s": null}], "recovery_time_s": 9.4,
        }}));
        assert_eq!(plan.announcement(), "at most lost: documents unknown, orders 0.5 s; should take 9 s");
    }
}
