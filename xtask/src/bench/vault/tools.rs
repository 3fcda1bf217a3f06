//! The programs that are measured, and how each is told to do the same work.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use levee_testing::{process, restic, rustic, tools};

pub const PASSWORD: &str = "a password for a measurement";
/// The name of the one archive of a Borg repository.
const FIRST: &str = "first";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Levee,
    Restic,
    Borg,
    Rustic,
}

/// One program that keeps backups.
#[derive(Clone, Debug)]
pub struct Tool {
    /// As the report names it: for example `restic 0.19.1`.
    pub name: String,
    kind: Kind,
    program: PathBuf,
}

/// Where a tool keeps what one round needs.
pub struct Place {
    pub repository: PathBuf,
    /// For a tool's caches and settings, which must not be the user's own.
    pub home: PathBuf,
}

/// Levee first, then restic's newest, which the ratios are to, then the others that are there.
pub fn all(levee: PathBuf) -> Result<Vec<Tool>> {
    let mut found = vec![Tool { name: "levee".into(), kind: Kind::Levee, program: levee }];
    for version in [restic::Restic::newest(), Some(restic::Restic::distribution())].into_iter().flatten() {
        let name = format!("restic {}", version.version());
        found.push(Tool { name, kind: Kind::Restic, program: version.program().to_path_buf() });
    }
    let rustic = std::env::var_os(rustic::VARIABLE).map(PathBuf::from).or_else(|| tools::find("rustic"));
    for (name, kind, program) in [("borg", Kind::Borg, tools::find("borg")), ("rustic", Kind::Rustic, rustic)] {
        if let Some(program) = program {
            let printed = process::run(Command::new(&program).arg("--version"));
            let version = printed.split_whitespace().nth(1).unwrap_or("unknown");
            found.push(Tool { name: format!("{name} {version}"), kind, program });
        }
    }
    Ok(found)
}

impl Tool {
    pub fn is_levee(&self) -> bool {
        self.kind == Kind::Levee
    }

    pub fn is_restic(&self) -> bool {
        self.kind == Kind::Restic
    }

    fn command(&self, place: &Place) -> Command {
        let mut command = Command::new(&self.program);
        command.env("HOME", &place.home).env("XDG_CACHE_HOME", place.home.join("cache"));
        match self.kind {
            Kind::Levee => {
                command.arg("vault").env("LEVEE_VAULT", &place.repository).env("LEVEE_PASSWORD", PASSWORD);
            }
            Kind::Restic => {
                command.env("RESTIC_REPOSITORY", &place.repository).env("RESTIC_PASSWORD", PASSWORD);
            }
            Kind::Borg => {
                command
                    .env("BORG_BASE_DIR", &place.home)
                    .env("BORG_PASSPHRASE", PASSWORD)
                    .env("BORG_RELOCATED_REPO_ACCESS_IS_OK", "yes")
                    .env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes");
            }
            Kind::Rustic => {
                command.env("RUSTIC_REPOSITORY", &place.repository).env("RUSTIC_PASSWORD", PASSWORD);
                // Neither the user's own profile nor a bar that nobody sees.
                command.env_remove("XDG_CONFIG_HOME").env("RUSTIC_NO_PROGRESS", "true");
            }
        }
        command
    }

    /// Any command of Levee.
    pub fn levee(&self, place: &Place, arguments: &[&str]) -> Command {
        let mut command = self.command(place);
        command.args(arguments);
        command
    }

    fn archive(place: &Place, name: &str) -> String {
        format!("{}::{name}", place.repository.display())
    }

    pub fn init(&self, place: &Place) -> Command {
        let mut command = self.command(place);
        command.arg("init");
        if self.kind == Kind::Borg {
            command.args(["--encryption", "repokey"]).arg(&place.repository);
        }
        command
    }

    /// A backup; `number` counts those of this repository.
    pub fn backup(&self, place: &Place, source: &Path, number: u32) -> Command {
        let mut command = self.command(place);
        match self.kind {
            Kind::Borg => {
                let name = if number == 0 { FIRST.to_string() } else { format!("again-{number}") };
                command.args(["create", "--compression", "zstd,3"]).arg(Self::archive(place, &name)).arg(".");
            }
            _ => {
                command.arg("backup").arg(".");
            }
        }
        command.current_dir(source);
        command
    }

    /// A backup of a disk image: by Levee as one, by others as the file that it is to them.
    pub fn image_backup(&self, place: &Place, image: &Path, number: u32) -> Command {
        if self.is_levee() {
            let mut command = self.levee(place, &["backup", "--image"]);
            command.arg(image);
            return command;
        }
        self.backup(place, image.parent().unwrap_or(image), number)
    }

    /// Everything of the first backup, into an empty folder.
    pub fn restore(&self, place: &Place, target: &Path) -> Command {
        let mut command = self.command(place);
        match self.kind {
            Kind::Borg => {
                command.arg("extract").arg(Self::archive(place, FIRST)).current_dir(target);
            }
            Kind::Rustic => {
                command.args(["restore", "latest"]).arg(target);
            }
            Kind::Levee | Kind::Restic => {
                command.args(["restore", "latest", "--target"]).arg(target);
            }
        }
        command
    }

    /// Reads, decrypts and hashes everything.
    pub fn check(&self, place: &Place) -> Command {
        let mut command = self.command(place);
        match self.kind {
            Kind::Borg => command.args(["check", "--verify-data"]).arg(&place.repository),
            _ => command.args(["check", "--read-data"]),
        };
        command
    }
}

#[cfg(test)]
pub fn for_test() -> Vec<Tool> {
    [("levee", Kind::Levee), ("restic 0.19.0", Kind::Restic)]
        .map(|(name, kind)| Tool { name: name.into(), kind, program: name.into() })
        .to_vec()
}
