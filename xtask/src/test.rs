//! Every test of the project, in one go.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::Result;

use crate::setup::{self, Needs};
use crate::tidy;
use crate::workspace::{run_cargo, run_cargo_with};

/// What runs for a moment beside the work on a crate, and for a minute here: backups, prunes and stock restic at once
/// in a vault.
const LONGER: [(&str, &str); 1] = [("LEVEE_VAULT_CHAOS_SECONDS", "60")];

/// Sets up, checks tidiness and runs all tests; ends with one line that says how it went.
pub fn run() -> Result<()> {
    let started = Instant::now();
    setup::set_up(Needs::Tests)?;
    tidy::run()?;
    // Tests of several crates start the program. It is built with the tests of its own crate, before any runs.
    if has_nextest() {
        run_cargo_with(&["nextest", "run", "--workspace", "--no-fail-fast"], &LONGER)?;
        run_cargo(&["test", "--workspace", "--doc", "--quiet"])?;
    } else {
        run_cargo_with(&["test", "--workspace", "--no-fail-fast"], &LONGER)?;
    }
    println!("all checks and tests passed in {} s", started.elapsed().as_secs());
    Ok(())
}

fn has_nextest() -> bool {
    let mut command = Command::new("cargo-nextest");
    command.args(["nextest", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
