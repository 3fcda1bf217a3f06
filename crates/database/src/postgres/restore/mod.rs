//! Bringing a cluster back: a base backup out of a vault, and the log out of a journal.
//!
//! `plan` decides and checks everything first; `prepare` then makes a data directory that is ready to be
//! started: PostgreSQL itself fetches the log through `restore_command` (`levee database fetch-wal`) and
//! replays it.

mod configuration;
mod place;
mod plan;
mod settings;
mod timelines;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use levee_engine::postgres::{ConnectOptions, Host};
use levee_journal::LogJournal;
use levee_vault::{Progress, Vault};

use crate::postgres::instance::{Instance, OsUser};
use crate::{Error, Result};

pub use place::default_tablespaces;
pub use plan::{RecoveryTarget, RestorePlan, Stop, plan};
pub use timelines::Leg;

/// What the server does when it has come to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Opens for writing on a new timeline.
    Promote,
    /// Stays open for reading only, so that one may look first; `pg_wal_replay_resume()` promotes it.
    Pause,
    /// Goes on replaying whatever the journal gets, until it is promoted.
    Standby,
}

/// Who can reach the restored server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Only whoever can get at its socket in the private folder; no password is asked there.
    Isolated,
    At(IpAddr),
}

/// A restore to be carried out.
pub struct RestoreRequest<'a> {
    pub vault: &'a Vault,
    pub plan: &'a RestorePlan,
    pub journal: &'a LogJournal,
    pub identity_file: &'a Path,
    /// The `levee` binary that `restore_command` runs.
    pub fetch_wal_program: &'a Path,
    /// Must not exist, or be empty.
    pub data_directory: &'a Path,
    /// Gets the server's socket and log, and what only the server may read. Made, with mode 0700, for the
    /// server's user. Whoever removes the restored server removes it as well.
    pub private_directory: &'a Path,
    /// Where each tablespace of the source is put: path there = path here. Those that are not named go
    /// below `DATA_DIRECTORY.tablespaces`.
    pub tablespaces: &'a BTreeMap<PathBuf, PathBuf>,
    /// The operating system's user that the server runs as.
    pub os_user: &'a str,
    /// The folder of the server's programs; found by version when it is not given.
    pub binaries: Option<&'a Path>,
    pub mode: Mode,
    pub network: Network,
    pub port: u16,
    /// Compare every file with the base backup's manifest.
    pub verify: bool,
}

/// A data directory that is ready to be started.
#[derive(Clone, Debug)]
pub struct Prepared {
    pub instance: Instance,
    pub files: u64,
    pub bytes: u64,
    pub copy: Duration,
    /// Zero when it was not asked for.
    pub verification: Duration,
}

/// Restores the base and writes what recovery needs. Nothing is started. The data directory appears
/// under its name only when it is whole.
///
/// # Errors
/// `NotEmpty`, `NoBinaries`, `NoSuchUser`, `JournalClosedTo` before anything is written; `BaseDamaged` where another
/// base backup may do.
pub fn prepare(request: &RestoreRequest<'_>, progress: &dyn Progress) -> Result<Prepared> {
    prepare_from_base(request, progress).map_err(|error| match &error {
        Error::Vault { source, .. } if source.is_damage() => damaged_base(request, error.with_causes()),
        _ => error,
    })
}

fn damaged_base(request: &RestoreRequest<'_>, first: String) -> Error {
    let base = &request.plan.base;
    Error::BaseDamaged { snapshot: base.snapshot.short(), started_at: base.facts.started_at, first }
}

fn prepare_from_base(request: &RestoreRequest<'_>, progress: &dyn Progress) -> Result<Prepared> {
    let user = OsUser::find(request.os_user)?;
    let major = request.plan.base.facts.server_version / 10_000;
    let binaries = crate::postgres::instance::Binaries::find(major, request.binaries)?;
    let layout = place::Layout::of(request)?;
    layout.check_free()?;
    place::check_socket_path(request.private_directory, request.port)?;
    place::private_directory(request.private_directory, &user)?;
    let identity_file = place::readable_identity(request, &user)?;
    place::check_fetch_wal(request, &user, &identity_file)?;
    let settings = settings::of(request, &identity_file)?;

    let begun = Instant::now();
    let summary = layout.restore(request, &user, progress)?;
    let copy = begun.elapsed();
    let incoming = Instance::open(
        layout.incoming(),
        request.os_user,
        Some(binaries.folder()),
        Some(&request.private_directory.join("postgresql.log")),
    )?;
    let begun = Instant::now();
    if request.verify {
        incoming.verify_backup()?;
    }
    let verification = begun.elapsed();
    layout.place_configuration(request)?;
    settings::write(layout.incoming(), &settings)?;
    if request.network == Network::Isolated {
        place::write_open_hba(request.private_directory, &user)?;
    }
    layout.link_final()?;
    layout.give_to(&user)?;
    layout.enter(request.mode, &user)?;
    let instance = Instance::open(
        request.data_directory,
        request.os_user,
        Some(binaries.folder()),
        Some(&request.private_directory.join("postgresql.log")),
    )?;
    Ok(Prepared { instance, files: summary.files, bytes: summary.bytes, copy, verification })
}

/// How to connect to a restored server by the socket in its private folder.
pub fn private_connect(private_directory: &Path, port: u16, user: &str) -> ConnectOptions {
    ConnectOptions::new(Host::Unix(private_directory.into()), port, user)
}

/// Takes back what a server needed only to fetch log: the identity that it could read, once it is promoted.
pub fn forget_identity(private_directory: &Path) -> Result<()> {
    let path = place::identity_copy(private_directory);
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::File { doing: "removing", path, source })
        }
        _ => Ok(()),
    }
}
