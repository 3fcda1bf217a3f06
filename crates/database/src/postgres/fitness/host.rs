//! What this host has, as far as it can be found out without starting a server.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Extensions, Host, Libraries, Place, disks, is_listened_on};
use crate::postgres::base::BaseFacts;
use crate::postgres::instance::{self, Binaries, OsUser};

impl Host {
    /// Looks at this host for one database.
    pub fn look(facts: &BaseFacts, place: &Place<'_>) -> Host {
        let mut refusals = Vec::new();
        // A restore asks the same of both.
        let user = OsUser::find(place.os_user).and_then(|user| user.command(Path::new("postgres")));
        refusals.extend(user.err().map(|error| error.with_causes()));
        let folder = match Binaries::find(facts.server_version / 10_000, place.binaries) {
            Ok(binaries) => Some(binaries.folder().canonicalize().unwrap_or_else(|_| binaries.folder().into())),
            Err(error) => {
                refusals.push(error.with_causes());
                None
            }
        };
        // Programs from elsewhere may have brought a C library of their own.
        let libc = folder.as_ref().filter(|folder| folder.starts_with("/usr")).and_then(|_| libc());
        Host {
            refusals,
            extensions: folder.as_deref().and_then(extensions),
            libraries: folder.as_deref().and_then(libraries),
            locales: libc.as_ref().and_then(|_| locales()),
            libc,
            disks: if place.is_restored { Vec::new() } else { disks::of(facts, place) },
            taken: taken(place),
        }
    }
}

/// Where distributions and PostgreSQL's own build put what belongs to the programs in `folder`.
fn candidates(folder: &Path, kind: &str) -> Vec<PathBuf> {
    let Some(home) = folder.parent() else { return Vec::new() };
    let mut candidates = vec![home.join(kind), home.join(kind).join("postgresql")];
    // Debian: /usr/lib/postgresql/15/bin and /usr/share/postgresql/15.
    if let (Some(version), Some(root)) = (home.file_name(), home.ancestors().nth(3)) {
        candidates.push(root.join(kind).join("postgresql").join(version));
    }
    candidates
}

/// Every server has this one: where it is, all the others are.
fn extensions(folder: &Path) -> Option<Extensions> {
    let folders = candidates(folder, "share").into_iter().map(|share| share.join("extension"));
    let folder = folders.into_iter().find(|folder| folder.join("plpgsql.control").is_file())?;
    Extensions::read(&folder)
}

fn libraries(folder: &Path) -> Option<Libraries> {
    let folder = candidates(folder, "lib").into_iter().find(|folder| folder.join("plpgsql.so").is_file())?;
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(&folder).ok()? {
        let name = entry.ok()?.file_name();
        names.extend(name.to_str().and_then(|name| name.strip_suffix(".so")).map(str::to_owned));
    }
    Some(Libraries { folder, names })
}

/// PostgreSQL takes the GNU C library's version for that of its collations.
fn libc() -> Option<String> {
    let printed = printed(Command::new("getconf").arg("GNU_LIBC_VERSION"))?;
    printed.trim().strip_prefix("glibc ").map(str::to_owned)
}

fn locales() -> Option<BTreeSet<String>> {
    let printed = printed(Command::new("locale").arg("-a"))?;
    let locales: BTreeSet<String> = printed.lines().map(|line| line.trim().to_owned()).collect();
    // This one is never missing from a list that is whole.
    locales.contains("C").then_some(locales)
}

fn printed(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Where something else listens. Looked at on both sides of the question whether it is the database's own server: that one
/// may be about to start or to end.
fn taken(place: &Place<'_>) -> Option<SocketAddr> {
    let address = SocketAddr::new(place.address, place.port);
    let is_another =
        is_listened_on(address)? && instance::running(place.data_directory).ok()?.is_none() && is_listened_on(address)?;
    is_another.then_some(address)
}
