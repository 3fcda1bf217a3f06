//! `levee vault …` as a user runs it, with stock restic as the witness.

mod bandwidth;
mod copies;
mod dry_runs;
mod emulators;
mod exit_codes;
mod full_disk;
mod hooks;
mod image_restores;
mod images;
mod incomplete_copies;
mod interrupted;
mod json;
mod keys;
mod maintenance;
mod mounting;
mod options;
mod remote;
mod restic;
mod rustic;
mod serve;
mod signed;
mod sources;
mod stores;
mod terminal;
pub mod tree;
mod verbs;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use levee_testing::levee::Binary;

pub const PASSWORD: &str = "correct horse";

/// A folder for a test, with a vault that may be made in it.
pub struct Case {
    pub dir: tempfile::TempDir,
    pub vault: PathBuf,
}

impl Case {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let vault = dir.path().join("vault");
        Self { dir, vault }
    }

    /// With a vault made by Levee.
    pub fn with_vault() -> Self {
        let case = Self::new();
        case.levee(&["init"]);
        case
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `levee vault` on this vault with the right password.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(&self.vault);
        command.env("LEVEE_PASSWORD", PASSWORD).args(arguments);
        command
    }

    /// Runs `levee vault`, which must succeed, and returns what it printed.
    #[track_caller]
    pub fn levee(&self, arguments: &[&str]) -> String {
        succeed(&mut self.command(arguments))
    }

    /// Runs `levee vault`, which must end with `code`, and returns its standard error.
    #[track_caller]
    pub fn levee_fails(&self, code: i32, arguments: &[&str]) -> String {
        fail(code, &mut self.command(arguments))
    }

    /// Runs `levee vault … --json`, which must succeed, and returns its lines.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Vec<serde_json::Value> {
        let mut command = self.command(arguments);
        let text = succeed(command.arg("--json"));
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }

    /// Backs up and returns the summary.
    #[track_caller]
    pub fn backup(&self, arguments: &[&str]) -> serde_json::Value {
        let arguments: Vec<_> = ["backup"].iter().chain(arguments).copied().collect();
        let lines = self.json(&arguments);
        lines.into_iter().find(|line| line["message_type"] == "summary").expect("a summary")
    }
}

/// `levee vault` without a password.
pub fn command(vault: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Binary::find().command();
    command.args(["vault", "--vault"]).arg(vault).stdin(std::process::Stdio::null());
    command
}

#[track_caller]
pub fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, texts(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
pub fn fail(code: i32, command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{command:?}:\n{}", texts(&output));
    String::from_utf8(output.stderr).unwrap()
}

fn texts(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Where `path` comes out when a snapshot of it is restored to `target`.
pub fn below(target: &Path, path: &Path) -> PathBuf {
    target.join(path.strip_prefix("/").unwrap())
}
