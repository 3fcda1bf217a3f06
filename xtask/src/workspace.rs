//! Where the project lies, and running cargo in it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The project's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| ".".into(), Path::to_path_buf)
}

/// A cargo command in the project's root.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    // Set by the `cargo run` that started us, for this package alone: build scripts would see a change in them
    // and everything would be built again.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            command.env_remove(name);
        }
    }
    command
}

/// Runs cargo with its output on the terminal.
pub fn run_cargo(arguments: &[&str]) -> Result<()> {
    run_cargo_with(arguments, &[])
}

/// The same with variables, unless the caller has given them.
pub fn run_cargo_with(arguments: &[&str], variables: &[(&str, &OsStr)]) -> Result<()> {
    let variables = variables.iter().filter(|(name, _)| std::env::var_os(name).is_none()).copied();
    let status = cargo(arguments)
        .envs(variables)
        .status()
        .with_context(|| format!("cannot start cargo {}", arguments.join(" ")))?;
    if !status.success() {
        bail!("cargo {} failed", arguments.join(" "));
    }
    Ok(())
}

/// The program that the caller has named, or else `levee` built as it is released.
pub fn given_or_built(program: Option<&Path>) -> Result<PathBuf> {
    if let Some(program) = program {
        return std::path::absolute(program).context("there is no current folder");
    }
    run_cargo(&["build", "--release", "--quiet", "-p", "levee"])?;
    Ok(target_folder().join("release/levee"))
}

/// Where cargo puts what it builds.
fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |folder| root().join(folder))
}
