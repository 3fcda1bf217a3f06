//! What is measured within the vault, by a program of its own crate: optimised, and built only for a measurement.

use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;

use super::tools::PASSWORD;
use crate::workspace::{cargo, run_cargo};

const PROGRAM: [&str; 8] =
    ["--release", "--quiet", "-p", "levee-vault", "--features", "measure", "--example", "measure"];

/// Builds the program, before anything is measured.
pub fn build() -> Result<()> {
    eprintln!("building what measures within the vault");
    run_cargo(&[&["build"], &PROGRAM[..]].concat())
}

/// Runs it and reads what it prints.
pub fn measure<T: DeserializeOwned>(arguments: &[&str]) -> Result<T> {
    let mut command = cargo(&[&["run"], &PROGRAM[..], &["--"], arguments].concat());
    let output = command.env("LEVEE_PASSWORD", PASSWORD).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!("cannot measure {} within the vault", arguments.join(" "));
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("what {} printed", arguments.join(" ")))
}
