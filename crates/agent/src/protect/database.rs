//! The agent's hand on PostgreSQL servers at this site: the app's own, and the copies of drills.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use levee_database::postgres::fitness;
use levee_database::postgres::gate::StartGate;
use levee_database::postgres::hindrance::Hindrance;
use levee_database::postgres::instance::{self, ControlData, Instance, Running, ServerState, StopMode};
use levee_database::postgres::restore::{self, Mode, Network, RecoveryTarget, RestoreRequest};
use levee_engine::postgres::{ConnectOptions, Connection, Host, Password};
use levee_model::control::{Failure, Place};
use levee_model::postgres::{Lsn, TimelineId};
use levee_model::protection::{PostgresSite, PostgresSpec, SqlProbe};
use levee_model::{AssetName, Epoch, LogPosition, RunId, SiteName};

use super::app::{App, failure, in_full, transient};
use super::damaged::Found;
use super::recovery::ROOM_MIN_BYTES;
use crate::secrets::Secrets;

/// How long a server may take to end, with its shutdown checkpoint.
const STOP_MAX: Duration = Duration::from_secs(120);
/// How long replay may take before a start counts as failed. The command may be sent again, and goes on.
const REPLAY_MAX: Duration = Duration::from_secs(3600);
/// How long an answer to a question of ours may take.
const ASK_MAX: Duration = Duration::from_secs(30);
/// So much of the end of a server's log is looked through.
const LOG_BYTES_MAX: u64 = 64 << 10;
/// So many characters of an answer are shown.
const SHOWN_MAX: usize = 200;

/// What a restored cluster is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recover {
    /// To be written to, in the app's own place.
    ToWrite,
    /// To follow the log, in the app's own place.
    ToFollow,
    /// To be looked at by nobody else.
    InIsolation,
}

/// The cluster's place at a site.
pub fn place<'a>(spec: &'a PostgresSpec, site: &SiteName) -> Result<&'a PostgresSite, Failure> {
    spec.at.get(site).ok_or_else(|| failure(format!("the protection file has no place for this database at {site}")))
}

/// How Levee connects to the app's own server at this site.
pub fn connect_options(secrets: &Secrets, here: &PostgresSite) -> Result<ConnectOptions, Failure> {
    let mut options = ConnectOptions::new(Host::Tcp(here.address.to_string()), here.port, here.user.clone());
    options.read_timeout = ASK_MAX;
    if let Some(name) = &here.password_secret {
        let secret = secrets.get(name).map_err(|error| failure(in_full(&error)))?;
        options.password = Some(Password::new(secret.as_str()));
    }
    Ok(options)
}

/// A database's place here, owned, so that it can be used without holding the assignment.
fn here(app: &App, asset: &AssetName) -> Result<PostgresSite, Failure> {
    let assignment = app.assignment();
    let spec = assignment
        .spec
        .postgres
        .get(asset)
        .ok_or_else(|| failure(format!("app {} has no database {asset}", app.name)))?;
    place(spec, &assignment.site).cloned()
}

fn open(app: &App, asset: &AssetName, here: &PostgresSite) -> Result<Instance, Failure> {
    Instance::open(&here.data_directory, &here.os_user, here.binaries.as_deref(), Some(&log(app, asset)))
        .map_err(|error| failure(format!("cannot use {}: {}", here.data_directory.display(), in_full(&error))))
}

/// The server's socket, its log and what only it may read.
fn private_directory(app: &App, asset: &AssetName) -> PathBuf {
    app.folder.server(asset)
}

fn log(app: &App, asset: &AssetName) -> PathBuf {
    private_directory(app, asset).join("postgresql.log")
}

/// The gate that every start of this app's databases here has to pass.
pub fn gate(app: &App) -> StartGate {
    StartGate::open(app.folder.root(), app.name.clone())
}

/// Shuts the start gate at the epoch that this site knows, durably.
pub fn shut_gate(app: &App) -> Result<(), Failure> {
    gate(app).shut(app.state().epoch).map_err(|error| failure(in_full(&error)))
}

/// Stops the app's own server at this site cleanly. One that does not run stays so.
pub fn stop_if_running(app: &App, asset: &AssetName, here: &PostgresSite) -> Result<(), Failure> {
    if !here.data_directory.join("PG_VERSION").exists() {
        return Ok(());
    }
    open(app, asset, here)?
        .stop(StopMode::Fast, STOP_MAX)
        .map_err(|error| transient(format!("{asset} did not stop: {}", in_full(&error))))
}

/// What the control file of the app's own cluster says.
pub fn control_data(app: &App, asset: &AssetName) -> Result<ControlData, Failure> {
    let here = here(app, asset)?;
    // A program of its own, which whatever killed the server may have killed as well.
    open(app, asset, &here)?
        .control_data()
        .map_err(|error| transient(format!("cannot read the control file of {asset}: {}", in_full(&error))))
}

/// What was restored.
pub struct Restored {
    pub bytes: u64,
    /// Base backups that turned out to be damaged on the way, in words.
    pub passed_over: Option<String>,
}

/// Restores a cluster to the newest point of this site's copies. Nothing is started. A base backup that turns out to be
/// damaged is passed over for the next older one, which reaches the same point with more log.
///
/// `position` is what the run has chosen; since the journal is sealed by then, its end is the same.
pub fn restore(
    app: &Arc<App>,
    asset: &AssetName,
    position: &LogPosition,
    target: &Path,
    recover: Recover,
    private: &Path,
) -> Result<Restored, Failure> {
    let fail = |error: &levee_database::Error| failure(format!("cannot restore {asset}: {}", in_full(error)));
    let here = here(app, asset)?;
    let journal = app.copies.journal(asset)?;
    let vault = app.copies.vault()?;
    let mut bases = app.copies.bases(asset)?;
    let (mode, network) = match recover {
        Recover::ToWrite => (Mode::Promote, Network::At(here.address)),
        Recover::ToFollow => (Mode::Standby, Network::At(here.address)),
        Recover::InIsolation => (Mode::Promote, Network::Isolated),
    };
    // A drill's tablespaces must not touch the app's own places.
    let nowhere = Default::default();
    let tablespaces = if recover == Recover::InIsolation { &nowhere } else { &here.tablespaces };
    let mut passed_over: Vec<String> = Vec::new();
    // What is said when nothing is left to restore from: the damage, and what is missing without that base.
    let beside = |passed_over: &[String], failure: Failure| Failure {
        message: match passed_over {
            [] => failure.message,
            _ => format!(
                "{}. Without it: {}. Mend the repository as docs/operating/faults.md says and retry, or restore {asset} \
                 by hand (`levee database restore`) and skip this step",
                passed_over.join(". "),
                failure.message
            ),
        },
        ..failure
    };
    loop {
        let plan = restore::plan(&journal, &bases, &RecoveryTarget::Newest, Some(position.timeline))
            .map_err(|error| beside(&passed_over, fail(&error)))?;
        if plan.system_identifier != position.system_identifier || plan.end < position.lsn {
            let reaches = failure(format!(
                "{asset} can be restored to {} of system {} only, and the plan wants {position} of system {}: make a new \
                 plan",
                plan.end, plan.system_identifier, position.system_identifier
            ));
            return Err(beside(&passed_over, reaches));
        }
        let request = RestoreRequest {
            vault: &vault,
            plan: &plan,
            journal: &journal,
            identity_file: &app.folder.journal_identity(),
            fetch_wal_program: &app.context.program,
            data_directory: target,
            private_directory: private,
            tablespaces,
            os_user: &here.os_user,
            binaries: here.binaries.as_deref(),
            mode,
            network,
            port: here.port,
            verify: false,
        };
        let base = &plan.base;
        match restore::prepare(&request, &()) {
            Ok(prepared) => {
                app.copies.damaged.clear(asset, &base.snapshot);
                let used = base.facts.started_at;
                let passed_over = (!passed_over.is_empty())
                    .then(|| format!("{}. Rebuilt from the one of {used:.0}", passed_over.join(". ")));
                return Ok(Restored { bytes: prepared.bytes, passed_over });
            }
            Err(error) if error.is_damaged_base() => {
                let said = in_full(&error);
                app.copies.damaged.note(asset, &base.snapshot, base.facts.started_at, Found::Rebuilding, &said);
                app.board.changed();
                passed_over.push(said);
                bases.retain(|other| other.snapshot != base.snapshot);
            }
            Err(error) => return Err(beside(&passed_over, fail(&error))),
        }
    }
}

/// Restores a cluster into the app's own place, which must be free.
pub fn restore_in_place(
    app: &Arc<App>,
    asset: &AssetName,
    position: &LogPosition,
    recover: Recover,
) -> Result<Restored, Failure> {
    let here = here(app, asset)?;
    restore(app, asset, position, &here.data_directory, recover, &private_directory(app, asset))
}

/// Why a standby does not run that was to be started.
pub struct NotRunning {
    pub failure: Failure,
    /// What the start has met that is no fault of the standby's data.
    pub hindrance: Option<Hindrance>,
}

impl From<Failure> for NotRunning {
    fn from(failure: Failure) -> Self {
        NotRunning { failure, hindrance: None }
    }
}

impl From<NotRunning> for Failure {
    fn from(not_running: NotRunning) -> Self {
        not_running.failure
    }
}

/// Sees to it that a staged standby runs.
pub fn run_standby(app: &Arc<App>, asset: &AssetName) -> Result<(), NotRunning> {
    let instance = open(app, asset, &here(app, asset)?)?;
    if running(&instance)?.is_some_and(|running| running.state >= ServerState::Standby) {
        return Ok(());
    }
    instance.start(ServerState::Standby, REPLAY_MAX).map(drop).map_err(|error| NotRunning {
        hindrance: Hindrance::of_error(&error),
        failure: transient(format!("the standby of {asset} does not run: {}", in_full(&error))),
    })
}

/// How long the log of the app's own server is: what it says from there on is of a later time.
pub fn logged_bytes(app: &App, asset: &AssetName) -> u64 {
    std::fs::metadata(log(app, asset)).map_or(0, |log| log.len())
}

/// What keeps the app's own server from running and is no fault of its data: by what it has logged since its log had
/// `logged_before` bytes, or by what can be seen from outside, since a server may log elsewhere or in another language.
pub fn hindrance(app: &App, asset: &AssetName, logged_before: u64) -> Result<Option<Hindrance>, Failure> {
    // A log that can't be read says nothing.
    let logged = logged_since(&log(app, asset), logged_before).unwrap_or_default();
    match Hindrance::in_log(&logged) {
        Some(hindrance) => Ok(Some(hindrance)),
        None => hindrance_from_outside(app, asset),
    }
}

/// The same, without its log.
pub fn hindrance_from_outside(app: &App, asset: &AssetName) -> Result<Option<Hindrance>, Failure> {
    let here = here(app, asset)?;
    let log_folder = here.data_directory.join("pg_wal");
    let mut folders = [&here.data_directory, &log_folder].into_iter().chain(here.tablespaces.values());
    if folders.any(|folder| fitness::free_bytes(folder).is_some_and(|free| free < ROOM_MIN_BYTES)) {
        return Ok(Some(Hindrance::DiskFull));
    }
    let is_taken = fitness::is_listened_on(SocketAddr::new(here.address, here.port)) == Some(true);
    Ok((is_taken && !runs(app, asset)?).then_some(Hindrance::PortTaken))
}

fn logged_since(log: &Path, before: u64) -> io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    // One that is shorter has been begun anew.
    let from = if before <= length { before } else { 0 };
    file.seek(SeekFrom::Start(from.max(length.saturating_sub(LOG_BYTES_MAX))))?;
    let mut logged = Vec::new();
    file.take(LOG_BYTES_MAX).read_to_end(&mut logged)?;
    Ok(String::from_utf8_lossy(&logged).into_owned())
}

/// Whether the app's own server at this site runs, however far it has come.
pub fn runs(app: &App, asset: &AssetName) -> Result<bool, Failure> {
    Ok(running(&open(app, asset, &here(app, asset)?)?)?.is_some())
}

fn running(instance: &Instance) -> Result<Option<Running>, Failure> {
    instance.running().map_err(|error| failure(in_full(&error)))
}

/// How far a staged standby has replayed.
pub fn replayed(app: &Arc<App>, asset: &AssetName) -> Result<Lsn, Failure> {
    let here = here(app, asset)?;
    let ask = || {
        let mut connection = Connection::connect(&connect_options(&app.context.secrets, &here)?)
            .map_err(|error| transient(format!("cannot ask the standby of {asset}: {}", in_full(&error))))?;
        instance::last_replayed(&mut connection)
            .map_err(|error| transient(format!("cannot ask the standby of {asset}: {}", in_full(&error))))
    };
    ask()?.ok_or_else(|| failure(format!("{asset} in {} is no standby", here.data_directory.display())))
}

/// Starts the app's own server for writing: it ends recovery when it is in it. Returns its timeline.
pub fn start_writing(app: &Arc<App>, asset: &AssetName, epoch: Epoch) -> Result<TimelineId, Failure> {
    let fail = |error: levee_database::Error| transient(format!("{asset} does not start: {}", in_full(&error)));
    let gate = gate(app);
    gate.reopen(epoch).map_err(fail)?;
    gate.check_start(epoch).map_err(fail)?;
    let instance = open(app, asset, &here(app, asset)?)?;
    let timeline = if instance.data_directory().join("standby.signal").exists() {
        instance.start(ServerState::Standby, REPLAY_MAX).map_err(fail)?;
        instance.promote(REPLAY_MAX).map_err(fail)?
    } else {
        instance.start(ServerState::Ready, REPLAY_MAX).map_err(fail)?;
        instance.timeline().map_err(fail)?
    };
    restore::forget_identity(&private_directory(app, asset)).map_err(fail)?;
    Ok(timeline)
}

/// Starts the app's own server until it has recovered from a crash, for no other purpose than to be stopped again: the
/// start gate stays shut, and whoever calls this has made sure that no other site writes.
pub fn recover(app: &App, asset: &AssetName) -> Result<(), Failure> {
    open(app, asset, &here(app, asset)?)?.start(ServerState::Ready, REPLAY_MAX).map(drop).map_err(|error| {
        transient(format!(
            "{asset} has died and does not recover, so that it cannot be stopped cleanly: {}",
            in_full(&error)
        ))
    })
}

/// Makes the commits of a server that Levee has restored wait for the archive. `false` when it is another's server,
/// whose settings are its operator's.
pub fn make_synchronous(app: &App, asset: &AssetName, application_name: &str) -> Result<bool, Failure> {
    let here = here(app, asset)?;
    let private = private_directory(app, asset);
    let socket = private.join(format!(".s.PGSQL.{}", here.port));
    if !socket.exists() {
        return Ok(false);
    }
    let fail = |reason: String| {
        failure(format!("cannot set synchronous_standby_names of {asset} to 'FIRST 1 ({application_name})': {reason}"))
    };
    let instance = open(app, asset, &here)?;
    let mut psql =
        instance.user().command(&instance.binaries().program("psql")).map_err(|error| fail(in_full(&error)))?;
    psql.args(["-X", "-q", "-w", "-d", "postgres", "-p", &here.port.to_string(), "-h"])
        .arg(&private)
        .arg("-c")
        .arg(format!("ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 ({application_name})'"))
        .args(["-c", "SELECT pg_reload_conf()"]);
    let output = psql.output().map_err(|error| fail(error.to_string()))?;
    if !output.status.success() {
        return Err(fail(String::from_utf8_lossy(&output.stderr).trim().into()));
    }
    Ok(true)
}

/// Where a drill's copy of a database has its data, and where its socket.
pub fn drill_places(app: &App, run: &RunId, asset: &AssetName) -> (PathBuf, PathBuf) {
    let folder = app.folder.run(run);
    (folder.join(asset.as_str()), folder.join(format!("{asset}.server")))
}

/// Restores a drill's copy.
pub fn restore_in_isolation(
    app: &Arc<App>,
    run: &RunId,
    asset: &AssetName,
    position: &LogPosition,
) -> Result<Restored, Failure> {
    let (data, private) = drill_places(app, run, asset);
    restore(app, asset, position, &data, Recover::InIsolation, &private)
}

fn open_isolated(app: &App, run: &RunId, asset: &AssetName) -> Result<Instance, Failure> {
    let here = here(app, asset)?;
    let (data, private) = drill_places(app, run, asset);
    Instance::open(&data, &here.os_user, here.binaries.as_deref(), Some(&private.join("postgresql.log")))
        .map_err(|error| failure(in_full(&error)))
}

/// Starts a drill's copy and waits until it has come to its point.
pub fn start_in_isolation(app: &Arc<App>, run: &RunId, asset: &AssetName) -> Result<TimelineId, Failure> {
    let fail =
        // It may have been killed while it recovered: then the next attempt goes on.
        |error: levee_database::Error| transient(format!("the copy of {asset} does not start: {}", in_full(&error)));
    let instance = open_isolated(app, run, asset)?;
    instance.start(ServerState::Ready, REPLAY_MAX).map_err(fail)?;
    instance.timeline().map_err(fail)
}

/// Ends a drill's server. Its data are thrown away, so there is nothing to wait for.
pub fn end_isolated(app: &Arc<App>, run: &RunId, asset: &AssetName) -> Result<(), Failure> {
    let (data, _) = drill_places(app, run, asset);
    if !data.join("PG_VERSION").exists() {
        return Ok(());
    }
    open_isolated(app, run, asset)?
        .stop(StopMode::Immediate, STOP_MAX)
        .map_err(|error| transient(format!("the copy of {asset} did not end: {}", in_full(&error))))
}

/// Asks a database the operator's questions. Without any it must answer at all, and be open for writing.
pub fn probe(
    app: &Arc<App>,
    run: &RunId,
    asset: &AssetName,
    place: &Place,
    probes: &[SqlProbe],
) -> Result<Result<String, String>, Failure> {
    let here = here(app, asset)?;
    let connect = match place {
        Place::Live => connect_options(&app.context.secrets, &here)?,
        Place::Drill => restore::private_connect(&drill_places(app, run, asset).1, here.port, &here.os_user),
    };
    let own = SqlProbe {
        database: "postgres".into(),
        sql: "SELECT NOT pg_is_in_recovery()".into(),
        expect: Some("t".into()),
    };
    let mut shown = Vec::new();
    for probe in std::iter::once(&own).chain(probes) {
        match ask(&connect, probe) {
            Ok(answer) if probe.expect.is_none() => shown.push(answer),
            Ok(_) => {}
            Err(reason) => return Ok(Err(format!("{:?} in database {}: {reason}", probe.sql, probe.database))),
        }
    }
    let answered = match probes.len() {
        0 => "the database answers and is open for writing".into(),
        count => format!("the database is open for writing and answers {count} question(s) as it should"),
    };
    let shown = if shown.is_empty() { String::new() } else { format!(": {}", shown.join(", ")) };
    Ok(Ok(answered + &shown))
}

/// The first value of the answer, as it is shown.
fn ask(connect: &ConnectOptions, probe: &SqlProbe) -> Result<String, String> {
    let mut connection =
        Connection::connect(&connect.with_database(probe.database.clone())).map_err(|error| in_full(&error))?;
    let rows = connection.simple_query(&probe.sql).map_err(|error| in_full(&error))?;
    let answer = rows.first().and_then(|row| row.get(0));
    let shown =
        answer.map_or("nothing".into(), |text| format!("{:?}", text.chars().take(SHOWN_MAX).collect::<String>()));
    match &probe.expect {
        Some(expected) if answer != Some(expected.as_str()) => {
            Err(format!("it answered {shown}, expected {expected:?}"))
        }
        _ => Ok(shown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_log_says_since_then_counts() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("postgresql.log");
        std::fs::write(&log, "old\nnew\n").unwrap();
        assert_eq!(logged_since(&log, 4).unwrap(), "new\n");
        assert_eq!(logged_since(&log, 8).unwrap(), "");
        assert_eq!(logged_since(&log, 9).unwrap(), "old\nnew\n", "it was begun anew");
        std::fs::write(&log, "x".repeat(LOG_BYTES_MAX as usize + 10)).unwrap();
        assert_eq!(logged_since(&log, 0).unwrap().len() as u64, LOG_BYTES_MAX, "it has a bound");
        assert!(logged_since(&folder.path().join("nowhere"), 0).is_err());
    }
}
