//! What the demo has measured. The names are the interface: scripts read the last line of `--json`.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::control::loss_text;

/// The verdict on a drill in which nothing has failed.
pub const PASSED: &str = "passed";

#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub drill: Drill,
    pub failover: Failover,
    pub switchover: Switchover,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Drill {
    /// From asking for the drill until its app had answered the probes.
    pub recovery_time_s: f64,
    /// How old the newest data in the drill were when it was asked for: orders by the client's ledger, files by when the copy
    /// was taken that the drill restored.
    pub recovery_point_age_s: f64,
    /// `passed`, or what failed.
    pub probe: String,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Failover {
    /// Orders that were acknowledged before the kill.
    pub acknowledged: u64,
    /// Those of them that are not in the database at the new site.
    pub lost: u64,
    /// Files with an acknowledged change that is not at the new site.
    pub files_lost: u64,
    /// From the newest moment before which nothing is lost until the kill.
    pub recovery_point_age_s: f64,
    /// From the kill until the first order was acknowledged at the new site.
    pub recovery_time_s: f64,
    /// Of that, what neither copying data took, nor a database's start and replay, nor the client until it used the
    /// name's new address: Levee's own share.
    pub levee_share_s: f64,
    /// What Levee said beforehand: for each asset, the seconds before the kill that may be lost; null where it could not say.
    pub predicted_loss: BTreeMap<String, Option<f64>>,
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Step {
    pub step: String,
    pub seconds: f64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Switchover {
    /// Orders that were acknowledged before the move, and not lost by the failover.
    pub acknowledged: u64,
    pub lost: u64,
    /// Files with an acknowledged change that is not at home. No name of the interface: it is 0, or the demo fails.
    #[serde(skip)]
    pub files_lost: u64,
    /// From the last order acknowledged at the old address until the first at the new one.
    pub interruption_s: f64,
}

impl Report {
    /// What is not as it must be, each in one sentence.
    pub fn faults(&self) -> Vec<String> {
        let Report { drill, switchover, .. } = self;
        let mut faults = Vec::new();
        if drill.probe != PASSED {
            faults.push(format!("the drill did not pass: {}", drill.probe));
        }
        if switchover.lost > 0 || switchover.files_lost > 0 {
            faults.push(format!(
                "the switchover has lost {} orders and changes of {} files; it must lose nothing",
                switchover.lost, switchover.files_lost
            ));
        }
        faults
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { drill, failover, switchover } = self;
        writeln!(
            formatter,
            "drill       rebuilt and probed in {:.1} s, data {:.1} s old, probe {}",
            drill.recovery_time_s, drill.recovery_point_age_s, drill.probe
        )?;
        writeln!(
            formatter,
            "failover    back after {:.1} s, {:.1} s of them Levee's own; of {} acknowledged orders {} lost; {} files with a lost change; recovery point {:.1} s old",
            failover.recovery_time_s,
            failover.levee_share_s,
            failover.acknowledged,
            failover.lost,
            failover.files_lost,
            failover.recovery_point_age_s
        )?;
        writeln!(formatter, "            announced beforehand, at most: {}", loss_text(&failover.predicted_loss))?;
        for step in &failover.steps {
            writeln!(formatter, "            {:<28} {:>6.1} s", step.step, step.seconds)?;
        }
        write!(
            formatter,
            "switchover  orders interrupted for {:.1} s; of {} acknowledged orders {} lost",
            switchover.interruption_s, switchover.acknowledged, switchover.lost
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_as_it_must_be_is_said() {
        let mut report = Report::default();
        report.drill.probe = PASSED.into();
        // A failover may lose what had not arrived.
        report.failover.lost = 3;
        assert_eq!(report.faults(), Vec::<String>::new());
        report.switchover.files_lost = 2;
        report.drill.probe = "probe-orders: no orders".into();
        let faults = report.faults();
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].ends_with("no orders"), "{faults:?}");
        assert!(faults[1].contains("0 orders and changes of 2 files"), "{faults:?}");
    }

    #[test]
    fn the_names_are_those_that_scripts_read() {
        let mut report = Report::default();
        report.failover.steps.push(Step { step: "seal".into(), seconds: 0.5 });
        report.failover.predicted_loss.insert("orders".into(), Some(0.25));
        let expected = r#"{"drill":{"recovery_time_s":0.0,"recovery_point_age_s":0.0,"probe":""},"failover":{"acknowledged":0,"lost":0,"files_lost":0,"recovery_point_age_s":0.0,"recovery_time_s":0.0,"levee_share_s":0.0,"predicted_loss":{"orders":0.25},"steps":[{"step":"seal","seconds":0.5}]},"switchover":{"acknowledged":0,"lost":0,"interruption_s":0.0}}"#;
        assert_eq!(serde_json::to_string(&report).unwrap(), expected);
    }
}
