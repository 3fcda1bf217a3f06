//! rustic, another reader and writer of vaults, where it is installed.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{process, tools};

/// Names its program where that is not in the search path.
pub const VARIABLE: &str = "RUSTIC";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rustic {
    program: PathBuf,
    version: String,
}

impl Rustic {
    /// `None` where there is none, which is said: it is in no distribution, and so not installed by `xtask setup`.
    pub fn find() -> Option<Rustic> {
        let program = match std::env::var_os(VARIABLE) {
            Some(program) => PathBuf::from(program),
            None => match tools::find("rustic") {
                Some(program) => program,
                None => {
                    crate::leave_out(&format!("rustic is not installed, and {VARIABLE} doesn't name its program"));
                    return None;
                }
            },
        };
        let printed = process::run(Command::new(&program).arg("--version"));
        let version = printed.split_whitespace().last().unwrap_or("unknown").to_string();
        Some(Rustic { program, version })
    }

    pub fn version(&self) -> &str {
        &self.version
    }

    /// A command on a repository (a folder, or an address as `-r` takes it), with its password in the environment and
    /// neither a cache nor a profile of the user's own: `home` is an empty folder.
    pub fn command(&self, repository: impl AsRef<OsStr>, password: &str, home: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.env("RUSTIC_REPOSITORY", repository).env("RUSTIC_PASSWORD", password).env("HOME", home);
        command.env_remove("XDG_CONFIG_HOME").current_dir(home).arg("--no-cache");
        command
    }
}
