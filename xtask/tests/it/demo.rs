//! The demo in small: the whole story is told, and its figures are those of the client's ledger.

use std::process::Command;

use levee_testing::levee::Binary;
use levee_testing::process::output;
use serde_json::Value;

/// Generous, so that it holds on a slow machine with much else to do. What takes longer hangs.
const DURATION_S_MAX: f64 = 60.0;
/// What Levee may take of a failover beside copying and replaying.
const LEVEE_SHARE_S_MAX: f64 = 3.0;
/// Clocks are read by several processes.
const CLOCK_S: f64 = 0.2;
/// How many files the small shop has at most. All of them change in the end.
const FILES: f64 = 1000.0;

/// Runs the demo and takes its report from the last line.
fn report(arguments: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(["demo", "--quick", "--json", "--binary"]).arg(Binary::find().path()).args(arguments);
    let output = output(&mut command);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}\n{stderr}");
    let last = stdout.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error} in {last:?}\n{stdout}\n{stderr}"))
}

#[track_caller]
fn number(report: &Value, path: &str) -> f64 {
    report.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} is no number in {report:#}"))
}

/// What each step of the failover took.
#[track_caller]
fn steps(report: &Value) -> Vec<(String, f64)> {
    let steps = report["failover"]["steps"].as_array().unwrap_or_else(|| panic!("no steps in {report:#}"));
    steps.iter().map(|step| (step["step"].as_str().unwrap().into(), step["seconds"].as_f64().unwrap())).collect()
}

/// What holds with a database and without.
#[track_caller]
fn check_figures(report: &Value, assets: &[&str]) {
    assert_eq!(report["drill"]["probe"], "passed", "{report:#}");
    let durations = ["/drill/recovery_time_s", "/failover/recovery_time_s", "/switchover/interruption_s"];
    for path in durations {
        let duration_s = number(report, path);
        assert!(duration_s > 0.0 && duration_s < DURATION_S_MAX, "{path}: {report:#}");
    }
    for path in ["/drill/recovery_point_age_s", "/failover/recovery_point_age_s"] {
        let age_s = number(report, path);
        assert!((0.0..DURATION_S_MAX).contains(&age_s), "{path}: {report:#}");
    }
    let recovery_time_s = number(report, "/failover/recovery_time_s");
    let share_s = number(report, "/failover/levee_share_s");
    assert!(share_s > 0.0 && share_s < LEVEE_SHARE_S_MAX && share_s <= recovery_time_s, "{report:#}");
    assert!(number(report, "/failover/lost") <= number(report, "/failover/acknowledged"), "{report:#}");
    assert_eq!(number(report, "/switchover/lost"), 0.0, "{report:#}");
    let predicted = report["failover"]["predicted_loss"].as_object().unwrap();
    assert_eq!(predicted.keys().collect::<Vec<_>>(), assets, "{report:#}");

    let steps = steps(report);
    for (step, seconds) in &steps {
        assert!(*seconds >= 0.0, "{step}: {report:#}");
    }
    // Assets are rebuilt side by side, each by one step after the other. The shop is back while its name is switched,
    // and not before that begins.
    let took = |name: &str| steps.iter().find(|(step, _)| step == name).map_or(0.0, |(_, seconds)| *seconds);
    let first_s: f64 = ["assert", "advance", "seal", "choose"].map(took).iter().sum();
    for asset in assets {
        let steps_of_asset = ["rebuild", "start", "probe"].map(|step| format!("{step}-{asset}"));
        for step in &steps_of_asset {
            assert!(steps.iter().any(|(name, _)| name == step), "{step}: {report:#}");
        }
        let own_s: f64 = steps_of_asset.iter().map(|step| took(step)).sum();
        assert!(first_s + own_s <= recovery_time_s + CLOCK_S, "{asset}: {first_s} s and {own_s} s: {report:#}");
    }
}

#[test]
fn the_quick_demo_tells_the_whole_story() {
    let report = report(&[]);
    check_figures(&report, &["documents", "orders"]);
    let acknowledged = number(&report, "/failover/acknowledged");
    assert!(acknowledged > 0.0 && number(&report, "/failover/lost") < acknowledged, "{report:#}");
    // Those that had changed within the recovery point's age, of a thousand that all change.
    assert!(number(&report, "/failover/files_lost") < 0.9 * FILES, "{report:#}");
    assert!(number(&report, "/switchover/acknowledged") > acknowledged, "{report:#}");
}

/// Where PostgreSQL is not to be had, the demo runs with the files alone.
#[test]
fn the_quick_demo_without_a_database_tells_of_its_files() {
    let report = report(&["--no-postgres"]);
    check_figures(&report, &["documents"]);
    assert!((0.0..0.9 * FILES).contains(&number(&report, "/failover/files_lost")), "{report:#}");
    for path in ["/failover/acknowledged", "/failover/lost", "/switchover/acknowledged"] {
        assert_eq!(number(&report, path), 0.0, "there are no orders: {path}: {report:#}");
    }
}
