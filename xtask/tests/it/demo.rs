//! The demo in small: the whole story is told, and its figures are those of the client's ledger.

use std::process::Command;

use levee_testing::levee::Binary;
use levee_testing::process::output;
use serde_json::Value;

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

fn number(report: &Value, path: &str) -> f64 {
    report.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} is no number in {report:#}"))
}

#[test]
fn the_quick_demo_tells_the_whole_story() {
    let report = report(&[]);
    assert_eq!(report["drill"]["probe"], "passed", "{report:#}");
    for path in ["/drill/recovery_time_s", "/failover/recovery_time_s", "/switchover/interruption_s"] {
        assert!(number(&report, path) > 0.0, "{path}: {report:#}");
    }
    let acknowledged = number(&report, "/failover/acknowledged");
    assert!(acknowledged > 0.0 && number(&report, "/failover/lost") < acknowledged, "{report:#}");
    assert!(number(&report, "/failover/recovery_point_age_s") < 60.0, "{report:#}");
    assert!(!report["failover"]["predicted_loss"].as_object().unwrap().is_empty(), "{report:#}");
    // Those that had changed within the recovery point's age, of a thousand that all change.
    assert!(number(&report, "/failover/files_lost") < 900.0, "{report:#}");
    let steps = report["failover"]["steps"].as_array().unwrap();
    assert!(steps.iter().any(|step| step["step"] == "rebuild-orders" && step["seconds"].is_f64()), "{report:#}");
    assert!(number(&report, "/switchover/acknowledged") > acknowledged, "{report:#}");
    assert_eq!(number(&report, "/switchover/lost"), 0.0, "{report:#}");
}
