//! A server process on this machine: starting, stopping, promoting it, and looking at how it is.
//!
//! The server is detached from whoever started it and outlives it; afterwards it is found again by the
//! `postmaster.pid` in its data directory.

mod binaries;
mod configuration;
mod control_data;
mod os_user;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use levee_engine::postgres::{ConnectOptions, Connection};
use levee_model::postgres::{Lsn, TimelineId};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::{Error, Result};

use configuration::configuration_elsewhere;

pub use binaries::Binaries;
pub use control_data::ControlData;
pub use os_user::OsUser;

/// How often a change of state is looked for. Part of an app's recovery time.
const POLL_EVERY: Duration = Duration::from_millis(10);
/// How long a server may take to write its `postmaster.pid`.
const APPEAR_MAX: Duration = Duration::from_secs(10);
/// How long backends may take to end that were told to after their postmaster was killed.
const ORPHANS_MAX: Duration = Duration::from_secs(30);
/// How long the number of a killed postmaster may stay taken. The first process of some machines is slow to look.
const NUMBER_MAX: Duration = Duration::from_secs(15);
/// The lines of the server's log that an error shows.
const LOG_LINES_SHOWN: usize = 8;

/// How a server is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Disconnects everyone and writes a shutdown checkpoint: a clean end.
    Fast,
    /// At once, as a crash; the next start recovers.
    Immediate,
}

/// How far a server has come, by its `postmaster.pid` and its control file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServerState {
    Starting,
    Stopping,
    /// In recovery, and open for reading.
    Standby,
    /// Open for writing.
    Ready,
}

/// A server that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    pub pid: i32,
    pub state: ServerState,
}

/// One data directory, and what it takes to run a server on it.
#[derive(Clone, Debug)]
pub struct Instance {
    data_directory: PathBuf,
    binaries: Binaries,
    user: OsUser,
    log: PathBuf,
}

impl Instance {
    /// Looks at a data directory. `binaries` is the folder of the programs; found by the data's version
    /// when it is not given. `log` gets what the server prints before its own logging begins; it lies
    /// beside the data directory when it is not given.
    pub fn open(data_directory: &Path, os_user: &str, binaries: Option<&Path>, log: Option<&Path>) -> Result<Instance> {
        let major = major_version(data_directory)?;
        let beside = || {
            let mut name = data_directory.as_os_str().to_os_string();
            name.push(".log");
            PathBuf::from(name)
        };
        Ok(Instance {
            data_directory: data_directory.into(),
            binaries: Binaries::find(major, binaries)?,
            user: OsUser::find(os_user)?,
            log: log.map_or_else(beside, Path::to_path_buf),
        })
    }

    pub fn data_directory(&self) -> &Path {
        &self.data_directory
    }

    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    pub fn user(&self) -> &OsUser {
        &self.user
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The server that runs on this data directory, whoever started it.
    pub fn running(&self) -> Result<Option<Running>> {
        running(&self.data_directory)
    }

    /// Starts the server, unless it runs already, and waits until it has come to `until`. Replaying a
    /// long log takes as long as it takes: `timeout` bounds the whole wait.
    ///
    /// # Errors
    /// `ServerDied` with the end of its log when it gives up, `TimedOut`.
    pub fn start(&self, until: ServerState, timeout: Duration) -> Result<Running> {
        if self.running()?.is_none() {
            // A new server does not start beside the backends of one that was killed.
            self.end_orphans(ORPHANS_MAX)?;
            self.wait_for_number();
            self.spawn()?;
        }
        self.wait_for(until, timeout)
    }

    /// Waits until a running server has come to `until`.
    pub fn wait_for(&self, until: ServerState, timeout: Duration) -> Result<Running> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.running()? {
                Some(running) if running.state >= until => return Ok(running),
                Some(_) => {}
                None => {
                    return Err(Error::ServerDied {
                        data_directory: self.data_directory.clone(),
                        log: self.log.clone(),
                        last_lines: self.log_tail(),
                    });
                }
            }
            if Instant::now() >= deadline {
                return Err(self.timed_out("started", timeout));
            }
            std::thread::sleep(POLL_EVERY);
        }
    }

    fn spawn(&self) -> Result<()> {
        let log_error = |source| Error::File { doing: "creating the server's log", path: self.log.clone(), source };
        if let Some(folder) = self.log.parent() {
            fs::create_dir_all(folder).map_err(log_error)?;
        }
        OpenOptions::new().create(true).append(true).open(&self.log).map_err(log_error)?;
        if rustix::process::geteuid().is_root() {
            self.user.own(&self.log)?;
        }
        let mut command = self.command("pg_ctl")?;
        // pg_ctl starts the server in a session of its own.
        command.args(["start", "-W", "-s", "-D"]).arg(&self.data_directory).arg("-l").arg(&self.log);
        if let Some(configuration) = configuration_elsewhere(&self.data_directory)? {
            command.arg("-o").arg(format!("-c config_file='{}'", configuration.display()));
        }
        let logged_before = fs::metadata(&self.log).map_err(log_error)?.len();
        self.run("pg_ctl start", command)?;
        // The file is there as soon as the server has looked at its data directory.
        let deadline = Instant::now() + APPEAR_MAX;
        while self.running()?.is_none() && Instant::now() < deadline && !self.has_given_up(logged_before) {
            std::thread::sleep(POLL_EVERY);
        }
        Ok(())
    }

    /// Whether the server has said since then that it ends.
    fn has_given_up(&self, logged_before: u64) -> bool {
        let log = fs::read(&self.log).unwrap_or_default();
        let new = log.get(logged_before as usize..).unwrap_or_default();
        let new = String::from_utf8_lossy(new);
        new.lines().next_back().is_some_and(|line| line.contains("FATAL:") || line.contains("is shut down"))
    }

    /// Ends the server and waits until it is gone; one that does not run stays so.
    pub fn stop(&self, how: StopMode, timeout: Duration) -> Result<()> {
        let Some(running) = self.running()? else { return self.end_orphans(timeout) };
        let signal = match how {
            StopMode::Fast => Signal::INT,
            StopMode::Immediate => Signal::QUIT,
        };
        if let Some(pid) = Pid::from_raw(running.pid) {
            match kill_process(pid, signal) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(errno) => return Err(Error::System { doing: "signalling the server", source: errno.into() }),
            }
        }
        let deadline = Instant::now() + timeout;
        while self.running()?.is_some() {
            if Instant::now() >= deadline {
                return Err(self.timed_out("stopped", timeout));
            }
            std::thread::sleep(POLL_EVERY);
        }
        self.end_orphans(timeout)
    }

    /// Waits a moment for the number of a postmaster that has just been killed: until somebody has waited for it, a new one
    /// takes it for a server that runs. One that nobody waits for is PostgreSQL's to complain of.
    fn wait_for_number(&self) {
        let recorded = fs::read_to_string(self.data_directory.join("postmaster.pid")).unwrap_or_default();
        let number = recorded.lines().next().and_then(|line| line.trim().parse().ok()).and_then(Pid::from_raw);
        let deadline = Instant::now() + NUMBER_MAX;
        while number.is_some_and(has_ended_unheard) && Instant::now() < deadline {
            std::thread::sleep(POLL_EVERY);
        }
    }

    /// Ends what is left of a server whose postmaster was killed: its backends live on until they look for it, and may commit
    /// once more before they do.
    fn end_orphans(&self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        let mut told = Vec::new();
        loop {
            let left = processes_in(&self.data_directory)?;
            if left.is_empty() {
                return Ok(());
            }
            for process in left {
                if !told.contains(&process) {
                    // One that has ended in the meantime needs no telling.
                    let _ = kill_process(process, Signal::TERM);
                    told.push(process);
                }
            }
            if Instant::now() >= deadline {
                return Err(self.timed_out("ended with all its processes", timeout));
            }
            std::thread::sleep(POLL_EVERY);
        }
    }

    /// Ends recovery and waits until the server writes, on its new timeline.
    pub fn promote(&self, timeout: Duration) -> Result<TimelineId> {
        if self.running()?.is_some_and(|running| running.state == ServerState::Ready) {
            return self.timeline();
        }
        let mut command = self.command("pg_ctl")?;
        command.args(["promote", "-W", "-s", "-D"]).arg(&self.data_directory);
        self.run("pg_ctl promote", command)?;
        self.wait_for(ServerState::Ready, timeout)?;
        self.timeline()
    }

    /// The timeline that the server writes, or last wrote. Its history file is there before the first
    /// record of the timeline is.
    pub fn timeline(&self) -> Result<TimelineId> {
        let folder = self.data_directory.join("pg_wal");
        let error = |source| Error::File { doing: "listing", path: folder.clone(), source };
        let mut newest = self.control_data()?.timeline;
        for entry in fs::read_dir(&folder).map_err(error)? {
            let name = entry.map_err(error)?.file_name();
            let timeline = name.to_str().and_then(|name| name.strip_suffix(".history"));
            if let Some(timeline) = timeline.and_then(|hex| u32::from_str_radix(hex, 16).ok()) {
                newest = newest.max(TimelineId(timeline));
            }
        }
        Ok(newest)
    }

    pub fn control_data(&self) -> Result<ControlData> {
        control_data(&self.data_directory, &self.binaries)
    }

    /// Compares every file with the base backup's manifest, as `pg_verifybackup` does. The log is not
    /// looked at: it is in the journal.
    pub fn verify_backup(&self) -> Result<()> {
        let mut command = self.command("pg_verifybackup")?;
        // The map of the tablespaces is left out of a restored directory: their links are made directly.
        command.args(["--no-parse-wal", "--quiet", "--ignore=tablespace_map"]).arg(&self.data_directory);
        self.run("pg_verifybackup", command)
    }

    fn command(&self, program: &'static str) -> Result<Command> {
        self.user.command(&self.binaries.program(program))
    }

    fn run(&self, doing: &'static str, mut command: Command) -> Result<()> {
        // A pipe would stay open as long as the server lives; a file does not keep us waiting.
        let printed = tempfile::tempfile().map_err(|source| Error::System { doing, source })?;
        let copy = || printed.try_clone().map(Stdio::from).map_err(|source| Error::System { doing, source });
        command.stdin(Stdio::null()).stdout(copy()?).stderr(copy()?);
        let status = command.status().map_err(|source| Error::System { doing, source })?;
        if status.success() {
            return Ok(());
        }
        let mut text = Vec::new();
        let mut printed = printed;
        let read =
            std::io::Seek::rewind(&mut printed).and_then(|()| std::io::Read::read_to_end(&mut printed, &mut text));
        read.map_err(|source| Error::System { doing, source })?;
        Err(Error::Program { program: doing, printed: last_lines(&String::from_utf8_lossy(&text)) })
    }

    fn timed_out(&self, what: &'static str, timeout: Duration) -> Error {
        Error::ServerTimedOut {
            what,
            data_directory: self.data_directory.clone(),
            seconds: timeout.as_secs(),
            last_lines: self.log_tail(),
        }
    }

    /// The end of what the server printed.
    pub fn log_tail(&self) -> String {
        last_lines(&String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()))
    }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
}

/// The major version of a data directory.
pub fn major_version(data_directory: &Path) -> Result<u32> {
    let path = data_directory.join("PG_VERSION");
    let text = fs::read_to_string(&path).map_err(|source| Error::File {
        doing: "reading the version in",
        path: path.clone(),
        source,
    })?;
    text.trim().parse().map_err(|_| Error::UnsupportedVersion { version: text.trim().chars().take(20).collect() })
}

/// The facts in a data directory's control file.
pub fn control_data(data_directory: &Path, binaries: &Binaries) -> Result<ControlData> {
    let doing = "pg_controldata";
    let output = Command::new(binaries.program(doing))
        .env("LC_ALL", "C")
        .arg("-D")
        .arg(data_directory)
        .output()
        .map_err(|source| Error::System { doing, source })?;
    if !output.status.success() {
        return Err(Error::Program { program: doing, printed: last_lines(&String::from_utf8_lossy(&output.stderr)) });
    }
    ControlData::parse(&String::from_utf8_lossy(&output.stdout))
        .map_err(|line| Error::Program { program: doing, printed: format!("its output has no usable line {line:?}") })
}

/// The server that runs on a data directory, found by its `postmaster.pid`.
pub fn running(data_directory: &Path) -> Result<Option<Running>> {
    let path = data_directory.join("postmaster.pid");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::File { doing: "reading", path, source }),
    };
    let mut lines = text.lines();
    // A negative number is a single-user backend.
    let Some(pid) = lines.next().and_then(|line| line.trim().parse::<i32>().ok()).map(i32::abs) else {
        return Ok(None);
    };
    if !is_server_of(pid, data_directory) {
        return Ok(None);
    }
    let state = match lines.nth(6).map(str::trim) {
        // This is said of a standby that can be read as well.
        Some("ready") if is_in_production(data_directory)? => ServerState::Ready,
        Some("ready" | "standby") => ServerState::Standby,
        Some("stopping") => ServerState::Stopping,
        _ => ServerState::Starting,
    };
    Ok(Some(Running { pid, state }))
}

/// Whether recovery is over, as the control file says: `ControlFileData.state` in `pg_control.h`, the same
/// in 13 to 17. Read directly, since it is asked for a hundred times a second while a server starts.
fn is_in_production(data_directory: &Path) -> Result<bool> {
    const STATE_OFFSET: u64 = 16;
    const DB_IN_PRODUCTION: u32 = 6;
    let path = data_directory.join("global/pg_control");
    let mut state = [0; 4];
    fs::File::open(&path)
        .and_then(|file| std::os::unix::fs::FileExt::read_exact_at(&file, &mut state, STATE_OFFSET))
        .map_err(|source| Error::File { doing: "reading", path, source })?;
    Ok(u32::from_ne_bytes(state) == DB_IN_PRODUCTION)
}

/// Whether the process lives and works in this data directory: after a crash the number in a
/// `postmaster.pid` may belong to anybody.
fn is_server_of(pid: i32, data_directory: &Path) -> bool {
    let Some(process) = Pid::from_raw(pid) else { return false };
    match test_kill_process(process) {
        Ok(()) | Err(rustix::io::Errno::PERM) => {}
        Err(_) => return false,
    }
    if has_ended_unheard(process) {
        return false;
    }
    match works_in(pid, data_directory) {
        Ok(works_there) => works_there,
        // One that is about to end has none any more.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        // Another user's process shows no folder; then its number is all there is.
        Err(_) => true,
    }
}

/// Whether a process has this folder as its own. By device and inode: the path that it sees for itself is another folder's,
/// when it lives in a container.
fn works_in(pid: i32, folder: &Path) -> std::io::Result<bool> {
    let of = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let works_in = of(fs::metadata(format!("/proc/{pid}/cwd"))?);
    Ok(fs::metadata(folder).is_ok_and(|folder| of(folder) == works_in))
}

/// Whether a process has ended and its parent has not waited for it, so that its number is still taken.
fn has_ended_unheard(process: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
}

/// The processes of PostgreSQL that have this data directory as their folder. A shell that an operator has there does not
/// count.
fn processes_in(data_directory: &Path) -> Result<Vec<Pid>> {
    let error = |source| Error::File { doing: "looking for processes in", path: "/proc".into(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").map_err(error)? {
        let entry = entry.map_err(error)?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        // One that has ended in the meantime, and another user's, show no folder.
        let is_postgres = |name: String| matches!(name.trim_end(), "postgres" | "postmaster");
        if fs::read_to_string(entry.path().join("comm")).is_ok_and(is_postgres)
            && works_in(pid.as_raw_nonzero().get(), data_directory).unwrap_or(false)
        {
            found.push(pid);
        }
    }
    Ok(found)
}

/// How far a standby has replayed; `None` on a server that is no standby.
pub fn last_replayed(connection: &mut Connection) -> Result<Option<Lsn>> {
    let rows = connection
        .simple_query("SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() END")
        .map_err(Error::engine("asking a standby for its position"))?;
    Ok(rows.first().and_then(|row| row.get(0)).and_then(|lsn| lsn.parse().ok()))
}

/// Waits until a standby has replayed everything before `lsn`, and answers with where it is then.
///
/// # Errors
/// `IsPrimary` when it is no standby, `ReplayTooSlow` when it is not there in time.
pub fn wait_replayed(connect: &ConnectOptions, lsn: Lsn, timeout: Duration) -> Result<Lsn> {
    let deadline = Instant::now() + timeout;
    let mut connection = Connection::connect(connect).map_err(Error::engine("connecting to a standby"))?;
    loop {
        let replayed = last_replayed(&mut connection)?.ok_or(Error::IsPrimary)?;
        if replayed >= lsn {
            return Ok(replayed);
        }
        if Instant::now() >= deadline {
            return Err(Error::ReplayTooSlow { wanted: lsn, replayed, seconds: timeout.as_secs() });
        }
        std::thread::sleep(POLL_EVERY);
    }
}
