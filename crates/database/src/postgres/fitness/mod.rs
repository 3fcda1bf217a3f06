//! Whether this host could run a database that was backed up elsewhere: what would hinder its restore or its start is said
//! while there is time, and not in the middle of a failover.
//!
//! `problems` compares and reads nothing; `Host::look` finds out what there is. What can't be found out is not judged.

mod disks;
mod extensions;
mod host;
mod listening;
mod locales;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use levee_model::protection::Difference;

use super::base::BaseFacts;

pub use disks::{Disk, free_bytes};
pub use extensions::{Available, Extensions};
pub use listening::is_listened_on;

/// So many databases are named where all of them have the same problem.
const NAMED_MAX: usize = 4;

/// Where a database would be restored on this host, and how its server would run.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub data_directory: &'a Path,
    /// Path at the source = path here.
    pub tablespaces: &'a BTreeMap<PathBuf, PathBuf>,
    pub os_user: &'a str,
    /// The folder of the server's programs; found by version when it is not given.
    pub binaries: Option<&'a Path>,
    pub address: IpAddr,
    pub port: u16,
    /// A copy stands there already, which needs no more room.
    pub is_restored: bool,
}

/// What a host has. What is `None` could not be found out.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// What a restore itself would refuse with: no programs of this version, no such user.
    pub refusals: Vec<String>,
    pub extensions: Option<Extensions>,
    pub libraries: Option<Libraries>,
    /// As `locale -a` names them.
    pub locales: Option<BTreeSet<String>>,
    /// Of the GNU C library, which is the version of its collations as well.
    pub libc: Option<String>,
    /// What each file system would have to take.
    pub disks: Vec<Disk>,
    /// The place's address, where something else than its server listens there.
    pub taken: Option<SocketAddr>,
}

/// The libraries that a server can load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Libraries {
    pub folder: PathBuf,
    /// Without `.so`.
    pub names: BTreeSet<String>,
}

/// What of a host does not fit a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// In words, with what to do.
    pub text: String,
    /// What it is when an operator may accept it; `None` for what keeps the database from running.
    pub difference: Option<Difference>,
}

impl From<String> for Misfit {
    fn from(text: String) -> Self {
        Self { text, difference: None }
    }
}

/// What would hinder the database's restore or start at this place, each with what to do. Reads some files and asks
/// `locale` and `getconf`, so that a disk that does not answer holds it up.
pub fn look(facts: &BaseFacts, place: &Place<'_>) -> Vec<Misfit> {
    problems(facts, &Host::look(facts, place))
}

/// What of the host does not fit the database, each with what to do.
pub fn problems(facts: &BaseFacts, host: &Host) -> Vec<Misfit> {
    let mut problems = host.refusals.clone();
    problems.extend(host.extensions.iter().flat_map(|here| extensions::missing(facts, here)));
    problems.extend(host.libraries.iter().flat_map(|here| missing_libraries(facts, here)));
    problems.extend(host.locales.iter().flat_map(|here| locales::missing(facts, here)));
    problems.extend(host.disks.iter().filter_map(Disk::problem));
    problems.extend(host.taken.map(|address| {
        format!(
            "port {} of {} is taken here by something else than this database: stop that, or give the database another \
             port (`port`)",
            address.port(),
            address.ip()
        )
    }));
    let other_collations = host.libc.as_ref().and_then(|here| other_collations(facts, here));
    let difference = other_collations.map(|text| Misfit { text, difference: Some(Difference::CLibrary) });
    problems.into_iter().map(Misfit::from).chain(difference).collect()
}

/// A server does not start without what it is told to load.
fn missing_libraries(facts: &BaseFacts, here: &Libraries) -> Vec<String> {
    let wanted = facts.settings.get("shared_preload_libraries").map_or("", String::as_str);
    let names = wanted.split(',').map(|name| name.trim().trim_matches('"')).filter_map(|name| {
        let name = name.strip_prefix("$libdir/").unwrap_or(name);
        let name = name.strip_suffix(".so").unwrap_or(name);
        // One with a path may be anywhere.
        (!name.is_empty() && !name.contains('/')).then_some(name)
    });
    let missing = names.filter(|name| !here.names.contains(*name)).map(|name| {
        format!(
            "the library {name} of shared_preload_libraries is not installed here (no {name}.so in {}), and without it the \
             server does not start: install its package",
            here.folder.display()
        )
    });
    missing.collect()
}

/// Text is sorted by the C library where no other provider was chosen, and another version may sort it another way.
fn other_collations(facts: &BaseFacts, here: &str) -> Option<String> {
    let of_libc = facts.databases.iter().filter(|database| database.locale_provider.as_deref() == Some("c"));
    let others = of_libc.filter_map(|database| {
        let version = database.collation_version.as_deref().filter(|version| *version != here)?;
        Some((database.name.as_str(), version))
    });
    let (names, versions): (Vec<&str>, BTreeSet<&str>) = others.unzip();
    if names.is_empty() {
        return None;
    }
    let versions: Vec<&str> = versions.into_iter().collect();
    Some(format!(
        "the collation provider's version differs: {} made with {} of the C library, and {here} is here, so that indexes on \
         text may be wrong after a failover. Give both sites the same release of the operating system; otherwise REINDEX \
         each database after a failover, and then ALTER DATABASE … REFRESH COLLATION VERSION",
        named(&names, "was", "were"),
        versions.join(" and ")
    ))
}

/// `database shop was`, `databases a, b and 7 more were`.
fn named(names: &[&str], one: &str, several: &str) -> String {
    match names {
        [name] => format!("database {name} {one}"),
        _ if names.len() <= NAMED_MAX => format!("databases {} {several}", names.join(", ")),
        _ => format!("databases {} and {} more {several}", names[..NAMED_MAX].join(", "), names.len() - NAMED_MAX),
    }
}

#[cfg(test)]
mod tests;
