use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{Binaries, Builder, Pgbench};
use crate::process::{kill_all_under, try_run};
use crate::wait::poll;
use crate::{Child, TempSite};

/// How long a server may take to start, recovery included, or to stop.
const START_OR_STOP_MAX: Duration = Duration::from_secs(60);

/// How a server is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Writes its shutdown checkpoint to the log, and waits until every standby has it.
    Fast,
    /// At once, as after a crash, but in good order for the operating system.
    Immediate,
}

/// One PostgreSQL cluster. Dropping it ends its processes and removes its folder.
#[derive(Debug)]
pub struct Cluster {
    // Dropped first, so that the folder is removed under no running server.
    server: Option<Child>,
    binaries: Binaries,
    environment: Vec<(String, String)>,
    place: Place,
}

/// Where a cluster has what.
#[derive(Debug)]
pub(super) struct Place {
    pub site: TempSite,
    pub data_directory: PathBuf,
    pub socket_directory: PathBuf,
    pub address: IpAddr,
    pub port: u16,
}

impl Cluster {
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(super) fn stopped(binaries: Binaries, place: Place, environment: Vec<(String, String)>) -> Cluster {
        Cluster { server: None, binaries, environment, place }
    }

    /// Starts the server and waits until it answers.
    #[track_caller]
    pub fn start(&mut self) {
        assert!(self.server.is_none(), "the cluster of port {} is already started", self.place.port);
        let log = self.log();
        let mut command = self.binaries.command("postgres");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let mut child = Child::spawn("postgres", command.arg("-D").arg(&self.place.data_directory), &log);
        let answered = poll(START_OR_STOP_MAX, || {
            if !child.is_running() {
                return Some(false);
            }
            self.try_psql("select 1").is_ok().then_some(true)
        });
        if answered != Some(true) {
            panic!("PostgreSQL on port {} did not start:\n{}", self.place.port, child.log_tail(30));
        }
        self.server = Some(child);
    }

    /// Stops the server; one that is not running stays so.
    #[track_caller]
    pub fn stop(&mut self, how: Stop) {
        let Some(mut child) = self.server.take() else { return };
        // Only the postmaster is asked: the others follow from what it decides.
        let signal = match how {
            Stop::Fast => Signal::INT,
            Stop::Immediate => Signal::QUIT,
        };
        send(child.pid(), signal);
        if child.wait(START_OR_STOP_MAX).is_none() {
            panic!("PostgreSQL on port {} did not stop:\n{}", self.place.port, child.log_tail(30));
        }
    }

    /// Ends every process of the cluster with SIGKILL, as the loss of the machine would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.server.take() {
            // Stopped first, so that it cannot clean up after a backend that dies before it does.
            send(child.pid(), Signal::STOP);
            kill_all_under(&self.place.data_directory);
            child.kill();
        }
    }

    #[track_caller]
    pub fn restart(&mut self, how: Stop) {
        self.stop(how);
        self.start();
    }

    pub fn is_running(&mut self) -> bool {
        self.server.as_mut().is_some_and(Child::is_running)
    }

    pub fn port(&self) -> u16 {
        self.place.port
    }

    pub fn address(&self) -> IpAddr {
        self.place.address
    }

    pub fn data_directory(&self) -> &Path {
        &self.place.data_directory
    }

    /// The folder of the unix socket `.s.PGSQL.PORT`.
    pub fn socket_directory(&self) -> &Path {
        &self.place.socket_directory
    }

    /// A scratch folder that goes with the cluster.
    pub fn site(&self) -> &TempSite {
        &self.place.site
    }

    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// What the server prints.
    pub fn log(&self) -> PathBuf {
        self.place.site.path().join("postgres.log")
    }

    /// `host=… port=… user=postgres dbname=…`, as libpq takes it.
    pub fn dsn(&self, database: &str) -> String {
        format!("host={} port={} user=postgres dbname={database}", self.place.address, self.place.port)
    }

    /// Asks the database `postgres` by the unix socket, as superuser, and returns the unaligned rows
    /// (fields divided by `|`, no header, no final newline). Panics on an error.
    #[track_caller]
    pub fn psql(&self, sql: &str) -> String {
        self.psql_in("postgres", sql)
    }

    /// As `psql`, in another database.
    #[track_caller]
    pub fn psql_in(&self, database: &str, sql: &str) -> String {
        match try_run(self.psql_command(database).args(["-c", sql])) {
            Ok(output) => output.trim_end_matches('\n').to_string(),
            Err(message) => panic!("{message}"),
        }
    }

    /// As `psql`, with the error's text as the error.
    pub fn try_psql(&self, sql: &str) -> Result<String, String> {
        try_run(self.psql_command("postgres").args(["-c", sql])).map(|output| output.trim_end_matches('\n').to_string())
    }

    /// psql by the unix socket, in its machine-readable form; it stops at the first error.
    pub fn psql_command(&self, database: &str) -> Command {
        let mut command = self.binaries.command("psql");
        command
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database])
            .arg("-h")
            .arg(&self.place.socket_directory)
            .args(["-p", &self.place.port.to_string()])
            .env("PGCONNECT_TIMEOUT", "5");
        command
    }

    /// Changes a setting in the running server, as far as it takes effect without a restart.
    #[track_caller]
    pub fn set(&self, name: &str, value: &str) {
        self.psql(&format!("alter system set {name} = '{}'", value.replace('\'', "''")));
        self.psql("select pg_reload_conf()");
    }

    /// The end of what is flushed, as PostgreSQL prints it (`0/16B3748`).
    #[track_caller]
    pub fn flush_lsn(&self) -> String {
        self.psql("select pg_current_wal_flush_lsn()")
    }

    /// Ends the current log segment.
    #[track_caller]
    pub fn switch_wal(&self) -> String {
        self.psql("select pg_switch_wal()")
    }

    /// Load on the database `postgres` of this cluster.
    pub fn pgbench(&self) -> Pgbench {
        Pgbench::new(
            self.binaries.clone(),
            &self.place.socket_directory.to_string_lossy(),
            self.place.port,
            "postgres",
            "postgres",
        )
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill();
    }
}

fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended by itself a moment ago.
        let _ = kill_process(pid, signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::Version;

    #[test]
    fn every_version_starts_answers_stops_and_comes_back_after_a_kill() {
        for version in Version::available() {
            let mut cluster = Cluster::builder().version(version).setting("work_mem", "5MB").start();
            assert!(cluster.psql("show server_version").starts_with(&version.major().to_string()));
            assert_eq!(cluster.psql("show work_mem"), "5MB");
            assert_eq!(cluster.psql("show data_checksums"), "on");
            cluster.psql("create table t (a int); insert into t values (1), (2)");
            cluster.restart(Stop::Fast);
            cluster.kill();
            assert!(!cluster.is_running());
            assert!(cluster.try_psql("select 1").is_err());
            cluster.start();
            assert_eq!(cluster.psql("select a from t order by a"), "1\n2");
            cluster.stop(Stop::Immediate);
            let folder = cluster.site().path().to_path_buf();
            drop(cluster);
            assert!(!folder.exists());
        }
    }

    #[test]
    fn a_backup_by_the_stock_tool_verifies() {
        let cluster = Cluster::builder().start();
        let backup = cluster.site().database_folder("backup");
        let mut command = cluster.binaries().command("pg_basebackup");
        crate::process::run(command.arg("-D").arg(&backup).args(["-d", &cluster.dsn("postgres")]));
        assert!(cluster.binaries().verify_backup(&backup, &[]).contains("successfully verified"));
    }

    #[test]
    fn passwords_are_asked_for_over_tcp() {
        let cluster = Cluster::builder().superuser_password("a secret").start();
        let connect = |password: &str| {
            let mut command = cluster.binaries().command("psql");
            try_run(
                command
                    .args(["-X", "-w", "-c", "select 1", "-d", &cluster.dsn("postgres")])
                    .env("PGPASSWORD", password),
            )
        };
        assert!(connect("a secret").is_ok());
        assert!(connect("another").unwrap_err().contains("password authentication failed"));
    }
}
