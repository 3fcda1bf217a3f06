//! Packages of the distribution: installed the ordinary way, or, where a newer release's version is
//! wanted, unpacked into a folder of their own by a private apt configuration, so that the machine's
//! sources stay as they are.

mod sources;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{output, try_run};
use sources::Source;

/// Whether this machine has Debian's package tools.
pub fn is_available() -> bool {
    Path::new("/usr/bin/apt-get").exists() && Path::new("/usr/bin/dpkg-deb").exists()
}

/// Which of these packages are not installed.
pub fn missing<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    let is_installed = |package: &str| {
        let status = output(Command::new("dpkg-query").args(["-W", "-f", "${Status}", package]));
        String::from_utf8_lossy(&status.stdout).contains("ok installed")
    };
    packages.iter().copied().filter(|package| !is_installed(package)).collect()
}

/// Installs packages of the machine's own release. No service that they bring is started.
pub fn install(packages: &[&str]) -> Result<(), String> {
    let policy = ServicePolicy::refuse()?;
    let apt_get = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        try_run(
            command
                .args(["-q", "-y", "-o", "Acquire::Retries=3"])
                .args(arguments)
                .env("DEBIAN_FRONTEND", "noninteractive"),
        )
    };
    apt_get(&["update"])?;
    let mut arguments = vec!["install", "--no-install-recommends"];
    arguments.extend(packages);
    apt_get(&arguments)?;
    drop(policy);
    Ok(())
}

/// Keeps packages from starting their services while it lives.
struct ServicePolicy {
    /// The file, when it was not there before.
    made: Option<PathBuf>,
}

impl ServicePolicy {
    fn refuse() -> Result<Self, String> {
        let path = PathBuf::from("/usr/sbin/policy-rc.d");
        if path.exists() {
            return Ok(Self { made: None });
        }
        let failed = |error| format!("cannot write {}: {error}", path.display());
        fs::write(&path, "#!/bin/sh\nexit 101\n").map_err(failed)?;
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).map_err(failed)?;
        Ok(Self { made: Some(path) })
    }
}

impl Drop for ServicePolicy {
    fn drop(&mut self) {
        if let Some(path) = &self.made {
            // Left behind it only keeps services from being started by later installations.
            let _ = fs::remove_file(path);
        }
    }
}

/// What to take along with a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum With {
    /// Nothing: the program runs on this machine's own libraries.
    Itself,
    /// Everything that it depends on, down to the C library.
    Dependencies,
}

/// Downloads a package of another release (a suite: `trixie`, `sid`) from the mirror that this
/// machine's own sources name, and unpacks it below `root`.
pub fn unpack(suite: &str, package: &str, with: With, root: &Path) -> Result<(), String> {
    let source = Source::of_this_machine()?;
    let work = tempfile::tempdir().map_err(|error| format!("cannot make a temporary folder: {error}"))?;
    let private = PrivateApt::new(work.path(), &source, suite)?;
    private.apt_get(&["update"])?;
    match with {
        With::Itself => private.apt_get(&["download", package])?,
        With::Dependencies => {
            private.apt_get(&["-y", "--download-only", "--no-install-recommends", "install", package])?
        }
    };
    let archives = work.path().join(match with {
        With::Itself => ".",
        With::Dependencies => "cache/archives",
    });
    let failed = |error| format!("cannot list {}: {error}", archives.display());
    let mut count = 0;
    for entry in fs::read_dir(&archives).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            try_run(Command::new("dpkg-deb").arg("-x").arg(&path).arg(root))?;
            count += 1;
        }
    }
    if count == 0 { Err(format!("apt-get has downloaded nothing for {package} of {suite}")) } else { Ok(()) }
}

/// An apt configuration that shares nothing with the machine's own.
struct PrivateApt {
    folder: PathBuf,
}

impl PrivateApt {
    fn new(folder: &Path, source: &Source, suite: &str) -> Result<Self, String> {
        let write = |name: &str, content: &str| {
            fs::write(folder.join(name), content).map_err(|error| format!("cannot write {name}: {error}"))
        };
        for name in ["lists/partial", "cache/archives/partial", "parts"] {
            fs::create_dir_all(folder.join(name)).map_err(|error| format!("cannot make the folder {name}: {error}"))?;
        }
        write("status", "")?;
        write("sources.list", &source.line(suite))?;
        let base = folder.display();
        write(
            "apt.conf",
            &format!(
                "Dir::Etc::sourcelist \"{base}/sources.list\";\n\
                 Dir::Etc::sourceparts \"{base}/parts\";\n\
                 Dir::Etc::preferences \"{base}/none\";\n\
                 Dir::Etc::preferencesparts \"{base}/parts\";\n\
                 Dir::State::lists \"{base}/lists\";\n\
                 Dir::State::status \"{base}/status\";\n\
                 Dir::Cache \"{base}/cache\";\n\
                 Acquire::Languages \"none\";\n\
                 Acquire::Retries \"3\";\n\
                 Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
                 Acquire::IndexTargets::deb::DEP-11-icons-small::DefaultEnabled \"false\";\n\
                 APT::Sandbox::User \"\";\n"
            ),
        )?;
        Ok(Self { folder: folder.into() })
    }

    fn apt_get(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new("apt-get");
        try_run(
            command.arg("-q").args(arguments).current_dir(&self.folder).env("APT_CONFIG", self.folder.join("apt.conf")),
        )
    }
}
