//! The commands of the fleet, against a real server and real agents.

mod apply;
mod connection;
mod join_killed;
mod reference;
mod up;
mod up_killed;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use levee_testing::levee::Binary;
use levee_testing::{Child, wait_for};
use serde_json::Value;

/// A home of its own, so that no context file of the machine is used or changed.
pub struct Home {
    pub folder: tempfile::TempDir,
}

impl Home {
    pub fn new() -> Home {
        Home { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Binary::find().command();
        command
            .args(arguments)
            .env("HOME", self.folder.path())
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("COLUMNS")
            .stdin(Stdio::null());
        command
    }

    /// Runs a command that must end with `code`.
    #[track_caller]
    pub fn ends(&self, code: i32, arguments: &[&str]) -> Ended {
        Ended::check(code, &mut self.command(arguments))
    }

    /// Runs a command that must succeed, and returns what it printed.
    #[track_caller]
    pub fn levee(&self, arguments: &[&str]) -> String {
        self.ends(0, arguments).stdout
    }

    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let printed = self.levee(&[arguments, &["--json"]].concat());
        serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {printed}"))
    }

    /// Starts `levee up` on free ports and waits until it is ready.
    #[track_caller]
    pub fn up(&self, site: &str) -> Service {
        let folder = self.path("levee");
        let mut command = self.command(&["up", "--json", "--site", site]);
        command.arg("--folder").arg(&folder);
        for port in ["--api-port", "--server-port", "--wire-port", "--store-port", "--dns-port"] {
            command.args([port, "0"]);
        }
        Service::start("up", &mut command, &self.path("up.log"))
    }
}

pub struct Ended {
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    #[track_caller]
    pub fn check(code: i32, command: &mut Command) -> Ended {
        let Output { status, stdout, stderr } = command.output().unwrap();
        let ended = Ended {
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        };
        assert_eq!(status.code(), Some(code), "{command:?}:\n{}{}", ended.stdout, ended.stderr);
        ended
    }
}

/// A process that prints one line of JSON when it is ready.
pub struct Service {
    pub child: Child,
    pub ready: Value,
}

impl Service {
    #[track_caller]
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Service {
        // A log of an earlier start would say that this one is ready.
        let _ = std::fs::remove_file(log);
        let child = Child::spawn(name, command, log);
        let ready = wait_for(&format!("{name} is ready: {}", log.display()), Duration::from_secs(60), || {
            let text = child.log_text();
            serde_json::from_str(text.lines().find(|line| line.starts_with('{'))?).ok()
        });
        Service { child, ready }
    }

    /// Asks it to end, which it must do well and soon.
    #[track_caller]
    pub fn stop(mut self) -> String {
        let status = self.child.terminate(Duration::from_secs(20));
        let log = self.child.log_text();
        assert_eq!(status.and_then(|status| status.code()), Some(0), "{log}");
        log
    }
}
