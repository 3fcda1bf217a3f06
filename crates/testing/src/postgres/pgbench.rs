use std::path::Path;
use std::process::Command;

use super::Binaries;
use crate::process::run;

/// PostgreSQL's own load generator.
#[derive(Clone, Debug)]
pub struct Pgbench {
    binaries: Binaries,
    host: String,
    port: u16,
    user: String,
    database: String,
}

/// What pgbench measured at the client.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PgbenchReport {
    pub transactions_per_s: f64,
    pub latency_average_ms: f64,
    pub transactions: u64,
}

impl Pgbench {
    /// `host` is an address, or the folder of a unix socket.
    pub fn new(binaries: Binaries, host: &str, port: u16, user: &str, database: &str) -> Pgbench {
        Pgbench { binaries, host: host.into(), port, user: user.into(), database: database.into() }
    }

    /// Fills the database's tables: about 15 MB for each unit of `scale`.
    #[track_caller]
    pub fn initialize(&self, scale: u32) {
        run(self.command(&["-i", "-q", "-s", &scale.to_string()]).env("PGOPTIONS", "-c synchronous_commit=local"));
    }

    /// Runs to the end and reports.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> PgbenchReport {
        let printed = run(&mut self.command(arguments));
        PgbenchReport::parse(&printed).unwrap_or_else(|| panic!("pgbench printed no figures:\n{printed}"))
    }

    /// A command that can be started in the background.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.binaries.command("pgbench");
        command
            .args(["-h", &self.host, "-p", &self.port.to_string(), "-U", &self.user])
            .args(arguments)
            .arg(&self.database);
        command
    }

    /// As `command`, run in a folder (for `--log`, which writes there).
    pub fn command_in(&self, folder: &Path, arguments: &[&str]) -> Command {
        let mut command = self.command(arguments);
        command.current_dir(folder);
        command
    }
}

impl PgbenchReport {
    fn parse(printed: &str) -> Option<PgbenchReport> {
        let value = |prefix: &str| {
            let rest = printed.lines().find_map(|line| line.strip_prefix(prefix))?;
            rest.trim().split(['/', ' ']).next().map(str::to_string)
        };
        Some(PgbenchReport {
            transactions_per_s: value("tps =")?.parse().ok()?,
            latency_average_ms: value("latency average =")?.parse().ok()?,
            transactions: value("number of transactions actually processed:")?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_read() {
        let printed = "pgbench (15.18 (Debian 15.18-0+deb12u1))\nscaling factor: 1\n\
                       number of transactions actually processed: 1000/1000\nnumber of failed transactions: 0 (0.000%)\n\
                       latency average = 1.250 ms\ninitial connection time = 2.5 ms\n\
                       tps = 800.120000 (without initial connection time)\n";
        let expected = PgbenchReport { transactions_per_s: 800.12, latency_average_ms: 1.25, transactions: 1000 };
        assert_eq!(PgbenchReport::parse(printed), Some(expected));
        assert_eq!(PgbenchReport::parse("nothing"), None);
    }

    #[test]
    fn load_runs_on_a_cluster() {
        let cluster = super::super::Cluster::builder().start();
        let pgbench = cluster.pgbench();
        pgbench.initialize(1);
        assert_eq!(pgbench.run(&["-c", "2", "-t", "50"]).transactions, 100);
    }
}
