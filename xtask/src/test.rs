//! Every test of the project, in one go.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::setup::{self, Needs};
use crate::tidy;
use crate::workspace::{run_cargo, run_cargo_with};

/// What runs for a moment beside the work on a crate, and for a minute here: backups, prunes and stock restic at once
/// in a vault.
const LONGER: [(&str, &str); 1] = [("LEVEE_VAULT_CHAOS_SECONDS", "60")];

/// Whoever sets one of these wants a test in its long form, which takes up to an hour and a half.
const LONG_FORMS: [&str; 9] = [
    "LEVEE_E2E_ALL",
    "LEVEE_E2E_KILLS",
    "LEVEE_IMAGE_MIB",
    "LEVEE_MUTATIONS",
    "LEVEE_TEST_ENTRIES",
    "LEVEE_VAULT_CHAOS_SECONDS",
    "LEVEE_VAULT_FAULTS_ALL",
    "LEVEE_VAULT_FORGET_SEEDS",
    "LEVEE_VAULT_TABLE_BLOBS",
];

/// Sets up, checks tidiness and runs all tests; ends with one line that says how it went.
pub fn run() -> Result<()> {
    let started = Instant::now();
    setup::set_up(Needs::Tests)?;
    tidy::run()?;
    let left_out = LeftOut::begin()?;
    // Tests of several crates start the program. It is built with the tests of its own crate, before any runs.
    let ran = if has_nextest() {
        let profile = if LONG_FORMS.iter().any(|name| is_set(name)) { "long" } else { "default" };
        let arguments = ["nextest", "run", "--workspace", "--no-fail-fast", "--profile", profile];
        run_cargo_with(&arguments, &left_out.variables())
            .and_then(|()| run_cargo(&["test", "--workspace", "--doc", "--quiet"]))
    } else {
        run_cargo_with(&["test", "--workspace", "--no-fail-fast"], &left_out.variables())
    };
    left_out.show();
    ran?;
    println!("all checks and tests passed in {} s", started.elapsed().as_secs());
    Ok(())
}

/// What tests said of themselves that this machine has no means for.
struct LeftOut {
    file: tempfile::NamedTempFile,
}

impl LeftOut {
    fn begin() -> Result<Self> {
        Ok(Self { file: tempfile::NamedTempFile::new().context("cannot make a temporary file")? })
    }

    fn variables(&self) -> Vec<(&str, &OsStr)> {
        let longer = LONGER.iter().filter(|(name, _)| !is_set(name)).map(|(name, value)| (*name, OsStr::new(*value)));
        longer.chain([(levee_testing::LEFT_OUT_VARIABLE, self.file.path().as_os_str())]).collect()
    }

    fn show(&self) {
        let lines = std::fs::read_to_string(self.file.path()).unwrap_or_default();
        let lines: BTreeSet<&str> = lines.lines().collect();
        for line in lines {
            println!("left out: {line}");
        }
    }
}

fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some()
}

fn has_nextest() -> bool {
    let mut command = Command::new("cargo-nextest");
    command.args(["nextest", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
