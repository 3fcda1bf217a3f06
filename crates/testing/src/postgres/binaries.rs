use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::embedded;
use crate::apt::{self, With};
use crate::users::User;
use crate::{cache, is_offline, process};

/// A PostgreSQL that the tests run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// From a package of the npm registry, as 14 and 16 are.
    V13,
    V14,
    /// The release's own (Debian 12).
    V15,
    V16,
    /// From the next release, in a private root.
    V17,
}

impl Version {
    /// The two that most tests run on: the release's own, and the newest.
    pub const MAIN: [Version; 2] = [Version::V15, Version::V17];

    /// Every version that Levee works with.
    pub const ALL: [Version; 5] = [Version::V13, Version::V14, Version::V15, Version::V16, Version::V17];

    /// All of them; without those that only the npm registry has where `LEVEE_TESTS_OFFLINE=1` says that there is no
    /// network.
    pub fn available() -> Vec<Version> {
        let is_had = |version: &Version| !is_offline() || version.package().is_none();
        Version::ALL.into_iter().filter(is_had).collect()
    }

    pub fn major(self) -> u32 {
        match self {
            Version::V13 => 13,
            Version::V14 => 14,
            Version::V15 => 15,
            Version::V16 => 16,
            Version::V17 => 17,
        }
    }

    /// The version of the npm package that it comes in.
    fn package(self) -> Option<&'static str> {
        match self {
            Version::V13 => Some("13.23.0-beta.16"),
            Version::V14 => Some("14.23.0-beta.17"),
            Version::V16 => Some("16.14.0-beta.17"),
            Version::V15 | Version::V17 => None,
        }
    }

    /// Downloads it, unless it is there. Returns the folder of its programs.
    pub fn install(self) -> Result<PathBuf, String> {
        match (self, self.package()) {
            (_, Some(package)) => embedded::install(self.major(), package),
            (Version::V17, None) => install_private(),
            (_, None) => Ok(PathBuf::from(format!("/usr/lib/postgresql/{}/bin", self.major()))),
        }
    }

    /// The programs of this version; panics, saying what to do, when they are not to be had.
    #[track_caller]
    pub fn binaries(self) -> Binaries {
        match self.install() {
            Ok(folder) if folder.join("postgres").exists() => Binaries { folder, user: User::for_database() },
            Ok(folder) => panic!("there is no PostgreSQL in {}: run `cargo xtask setup`", folder.display()),
            Err(message) => panic!("PostgreSQL {} is not to be had: {message}", self.major()),
        }
    }
}

/// The programs of one PostgreSQL, run as the database's user.
#[derive(Clone, Debug)]
pub struct Binaries {
    folder: PathBuf,
    user: Option<User>,
}

impl Binaries {
    /// The newest version that the machine's own release has installed.
    pub fn installed() -> Option<Binaries> {
        let folders = fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
        let newest = folders
            .filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin"))))
            .filter(|(_, folder)| folder.join("postgres").exists() && folder.join("pgbench").exists())
            .max()?;
        Some(Binaries { folder: newest.1, user: User::for_database() })
    }

    /// The folder of `postgres`, `pg_ctl` and the rest.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The user that the programs run as; `None` is the caller itself.
    pub fn user(&self) -> Option<&User> {
        self.user.as_ref()
    }

    /// A command of this version (`pg_verifybackup`, `pg_waldump`, `pg_basebackup`, `pg_receivewal`, …).
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.folder.join(program));
        // The caller's folder may be closed to that user, and its PG* settings name other servers.
        command.current_dir("/");
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("PG")) {
                command.env_remove(name);
            }
        }
        if let Some(user) = &self.user {
            user.apply(&mut command);
        }
        command
    }

    /// Panics, with what `pg_verifybackup` printed, when a restored data directory does not pass it.
    /// `arguments` are for example `--no-parse-wal`.
    #[track_caller]
    pub fn verify_backup(&self, data_directory: &Path, arguments: &[&str]) -> String {
        process::run(self.command("pg_verifybackup").args(arguments).arg(data_directory))
    }
}

/// Downloads PostgreSQL 17 and everything that it needs, down to the C library, into the cache, and
/// returns the folder of its programs, which run like any others.
fn install_private() -> Result<PathBuf, String> {
    let root = cache::filled_once("postgresql-17", |folder| {
        apt::unpack("trixie", "postgresql-17", With::Dependencies, folder)?;
        let final_place = cache::folder().join("postgresql-17");
        wrap_programs(folder, &final_place).map_err(|error| format!("cannot prepare the programs: {error}"))
    })?;
    Ok(root.join(PROGRAMS))
}

const PROGRAMS: &str = "usr/lib/postgresql/17/bin";

/// Puts a script in the place of every program, which starts it with the C library of its own
/// release. The programs find each other, and their files, by their own place, so a script has to
/// stand exactly there.
fn wrap_programs(root: &Path, final_place: &Path) -> std::io::Result<()> {
    let loader = loader(root)?;
    let programs = root.join(PROGRAMS);
    let originals = root.join("usr/lib/postgresql/17/elf");
    fs::create_dir_all(&originals)?;
    let libraries = [format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH), "usr/lib".into()]
        .map(|folder| final_place.join(folder).display().to_string())
        .join(":");
    for entry in fs::read_dir(&programs)? {
        let path = entry?.path();
        if !fs::read(&path)?.starts_with(b"\x7fELF") {
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        fs::rename(&path, originals.join(&name))?;
        let script = format!(
            "#!/bin/sh\nexec {loader} --library-path {libraries} --argv0 {argv0} {original} \"$@\"\n",
            loader = final_place.join(&loader).display(),
            argv0 = final_place.join(PROGRAMS).join(&name).display(),
            original = final_place.join("usr/lib/postgresql/17/elf").join(&name).display(),
        );
        fs::write(&path, script)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// The dynamic loader of an unpacked root, as a path relative to it.
fn loader(root: &Path) -> std::io::Result<PathBuf> {
    for folder in ["usr/lib64", "usr/lib", "lib64"] {
        for entry in fs::read_dir(root.join(folder)).into_iter().flatten() {
            let name = entry?.file_name();
            if name.to_string_lossy().starts_with("ld-linux") {
                return Ok(Path::new(folder).join(name));
            }
        }
    }
    Err(std::io::Error::new(std::io::ErrorKind::NotFound, "the packages brought no dynamic loader"))
}
