//! Stock restic, the independent reader and writer of vaults.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::apt::{self, With};
use crate::{cache, is_offline, process, tools};

/// One version of restic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restic {
    program: PathBuf,
    version: String,
}

/// All versions that vaults are held against: the release's own and the newest.
///
/// Panics when one of them is missing, so that no test passes without having been run; only with
/// `LEVEE_TESTS_OFFLINE=1` is the newest left out.
pub fn versions() -> Vec<Restic> {
    [Some(Restic::distribution()), Restic::newest()].into_iter().flatten().collect()
}

impl Restic {
    /// The version that the release has installed (0.14 on Debian 12).
    pub fn distribution() -> Restic {
        Restic::at(tools::required("restic"))
    }

    /// The newest version that the distribution's mirror has (0.19 or later), downloaded once and
    /// kept in the cache. `None` only when the machine is offline by `LEVEE_TESTS_OFFLINE=1`.
    pub fn newest() -> Option<Restic> {
        match install_newest() {
            Ok(program) => {
                let newest = Restic::at(program);
                // What is held against the distribution's own must be another one.
                let minor = newest.version.split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok());
                assert!(
                    minor >= Some(19),
                    "{} is restic {}, not 0.19 or later",
                    newest.program.display(),
                    newest.version
                );
                Some(newest)
            }
            Err(message) if is_offline() => {
                crate::leave_out(&format!("the newest restic is not to be had: {message}"));
                None
            }
            Err(message) => panic!(
                "the newest restic is not to be had ({message}); set {}=1 to test without it",
                crate::OFFLINE_VARIABLE
            ),
        }
    }

    fn at(program: PathBuf) -> Restic {
        let printed = process::run(Command::new(&program).arg("version"));
        let version = printed.split_whitespace().nth(1).unwrap_or("unknown").to_string();
        Restic { program, version }
    }

    pub fn program(&self) -> &Path {
        &self.program
    }

    /// For example `0.14.0`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// A command on a repository (a folder or an address as `-r` takes it), with its password in the
    /// environment and no cache.
    pub fn command(&self, repository: impl AsRef<std::ffi::OsStr>, password: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("-r").arg(repository).arg("--no-cache").env("RESTIC_PASSWORD", password);
        command
    }

    /// Runs restic and returns what it printed; panics when it fails.
    #[track_caller]
    pub fn run(&self, repository: &Path, password: &str, arguments: &[&str]) -> String {
        process::run(self.command(repository, password).args(arguments))
    }

    /// Runs restic, whatever comes of it.
    #[track_caller]
    pub fn output(&self, repository: &Path, password: &str, arguments: &[&str]) -> Output {
        process::output(self.command(repository, password).args(arguments))
    }
}

/// Downloads the newest restic into the cache, if it is not there yet.
pub fn install_newest() -> Result<PathBuf, String> {
    let root = cache::filled_once("restic-newest", |folder| apt::unpack("sid", "restic", With::Itself, folder))?;
    Ok(root.join("usr/bin/restic"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_make_and_check_a_repository() {
        let folder = tempfile::tempdir().unwrap();
        for restic in versions() {
            let repository = folder.path().join(restic.version());
            restic.run(&repository, "a password", &["init"]);
            assert!(restic.run(&repository, "a password", &["check"]).contains("no errors were found"));
            assert!(!restic.output(&repository, "another", &["snapshots"]).status.success());
        }
        assert!(Restic::distribution().version().starts_with("0."));
    }
}
