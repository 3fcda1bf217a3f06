//! What the operator does and sees.

use std::fs;
use std::process::Output;

use levee_testing::process::output;
use levee_testing::wait::{poll, wait_until};
use serde_json::Value;

use super::{PATIENCE, Site, World};

impl World {
    /// Applies a protection file that must be accepted.
    #[track_caller]
    pub fn apply(&self, file: &str) {
        let output = self.try_apply(file);
        assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), self.log_tails());
    }

    /// Applies a protection file, whatever comes of it.
    pub fn try_apply(&self, file: &str) -> Output {
        let path = self.root.path().join("client/shop.toml");
        fs::write(&path, file).expect("our own folder");
        self.operator(&["apply", "-f", &path.to_string_lossy()])
    }

    /// Runs a command line of the operator, whatever comes of it.
    pub fn operator(&self, arguments: &[&str]) -> Output {
        output(self.binary.operator(&self.server_place).args(arguments))
    }

    /// Runs a command line of the operator that must succeed, and returns the last value that it prints.
    #[track_caller]
    pub fn expect(&self, arguments: &[&str]) -> Value {
        let output = self.operator(&[arguments, &["--json"]].concat());
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            panic!("levee {} failed ({}): {said}\n{}", arguments.join(" "), output.status, self.log_tails());
        }
        last_value(&output).unwrap_or_default()
    }

    /// How the shop stands; `None` when the server does not answer.
    pub fn status(&self) -> Option<Value> {
        // The exit code says whether all is well; here only the figures are wanted.
        let value = last_value(&self.operator(&["status", "--json"]))?;
        value["apps"].as_array()?.iter().find(|app| app["app"] == "shop").cloned()
    }

    /// Waits until the shop is written at a site and protected at the other.
    #[track_caller]
    pub fn wait_protected(&self, writer: Site) {
        let mut last = None;
        let protected = poll(PATIENCE, || {
            let status = self.status()?;
            let assets = status["assets"].as_array()?;
            let all = status["writer"] == writer.name() && assets.iter().all(|asset| asset["protected"] == true);
            last = Some(status);
            all.then_some(())
        });
        if protected.is_none() {
            panic!("not protected in time: {}\n{}", last.unwrap_or_default(), self.log_tails());
        }
    }

    /// Waits until the server knows whether a site's agent is connected.
    #[track_caller]
    pub fn wait_connected(&self, site: Site, connected: bool) {
        let name = &self.agent_places[site as usize].name;
        let what = format!("{name} to be {}", if connected { "connected" } else { "away" });
        wait_until(&what, PATIENCE, || {
            let status = last_value(&self.operator(&["status", "--json"])).unwrap_or_default();
            let mut agents = status["agents"].as_array().into_iter().flatten();
            agents.any(|agent| agent["agent"] == **name && agent["connected"] == connected)
        });
    }
}

fn last_value(output: &Output) -> Option<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().rfind(|line| !line.trim().is_empty())?).ok()
}
