//! pgbench at full load against one PostgreSQL, whose log is taken away by `pg_receivewal` or by Levee.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use levee_testing::levee::Binary;
use levee_testing::postgres::{Cluster, PgbenchReport};
use levee_testing::wait::poll;
use levee_testing::{Child, TempSite, tools};
use serde::Serialize;

use super::{median, percentile};
use crate::setup::{self, Needs};
use crate::workspace::given_or_built;
use levee_testing::postgres::Session;

const LAG_SAMPLE_INTERVAL: Duration = Duration::from_millis(100);
const STREAMING_MAX: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
pub struct Options {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// How often each set-up is measured
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// How long each measurement takes, in seconds
    #[arg(long, default_value_t = 15)]
    seconds: u32,
    /// pgbench's scale: about 15 MB for each unit
    #[arg(long, default_value_t = 20)]
    scale: u32,
    /// How many clients put load on the database
    #[arg(long, default_value_t = 8)]
    clients: u32,
    /// Use this program instead of building one
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

/// Who takes the log away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Archiver {
    PgReceivewal,
    Levee,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Setup {
    archiver: Archiver,
    /// A commit waits until the archiver has it on disk.
    synchronous: bool,
}

const SETUPS: [Setup; 4] = [
    Setup { archiver: Archiver::PgReceivewal, synchronous: false },
    Setup { archiver: Archiver::Levee, synchronous: false },
    Setup { archiver: Archiver::PgReceivewal, synchronous: true },
    Setup { archiver: Archiver::Levee, synchronous: true },
];

/// One measurement.
struct Sample {
    setup: Setup,
    load: PgbenchReport,
    /// How long flushed log was on its way to the archiver's disk, as PostgreSQL measures it, in seconds.
    lags_s: Vec<f64>,
}

#[derive(Debug, Serialize)]
struct Report {
    rounds: u32,
    seconds: u32,
    clients: u32,
    asynchronous: Comparison,
    synchronous: Comparison,
    /// Under full load, asynchronous.
    archive_lag_p99_s: f64,
}

#[derive(Debug, Serialize)]
struct Comparison {
    pg_receivewal: Figures,
    levee: Figures,
    /// Levee's throughput as a part of the other's.
    throughput_ratio: f64,
    /// The other's latency as a part of Levee's: above 1 Levee is the faster one.
    latency_ratio: f64,
}

/// Medians over the rounds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Figures {
    transactions_per_s: f64,
    latency_ms: f64,
}

pub fn run(options: Options) -> Result<()> {
    setup::set_up(Needs::Tests)?;
    let binary = Binary::at(given_or_built(options.binary.as_deref())?);
    let cluster = Cluster::builder()
        .fsync(true)
        .setting("shared_buffers", "256MB")
        .setting("max_wal_size", "8GB")
        .setting("checkpoint_timeout", "1h")
        .start();
    cluster.pgbench().initialize(options.scale);
    let bench = Bench { cluster, binary, options };
    let report = bench.measure_all()?;
    if bench.options.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print_table(&report);
    }
    Ok(())
}

struct Bench {
    cluster: Cluster,
    binary: Binary,
    options: Options,
}

impl Bench {
    fn measure_all(&self) -> Result<Report> {
        let mut samples = Vec::new();
        for round in 0..self.options.rounds {
            // Every second round runs the other way about, so that nobody always comes after a checkpoint.
            let mut order = SETUPS;
            if round % 2 == 1 {
                order.reverse();
            }
            for setup in order {
                let sample = self.measure(setup).with_context(|| format!("{setup:?}, round {}", round + 1))?;
                eprintln!(
                    "round {}: {:?}{}: {:.0} transactions/s, {:.2} ms",
                    round + 1,
                    setup.archiver,
                    if setup.synchronous { ", synchronous" } else { "" },
                    sample.load.transactions_per_s,
                    sample.load.latency_average_ms
                );
                samples.push(sample);
            }
        }
        let lags = samples
            .iter()
            .filter(|sample| sample.setup == SETUPS[1])
            .flat_map(|sample| sample.lags_s.iter().copied())
            .collect();
        Ok(Report {
            rounds: self.options.rounds,
            seconds: self.options.seconds,
            clients: self.options.clients,
            asynchronous: compare(&samples, false),
            synchronous: compare(&samples, true),
            archive_lag_p99_s: percentile(lags, 99.0),
        })
    }

    fn measure(&self, setup: Setup) -> Result<Sample> {
        let cluster = &self.cluster;
        let name = if setup.archiver == Archiver::Levee { "levee_bench" } else { "pg_receivewal_bench" };
        cluster.psql("checkpoint");
        let site = TempSite::new("bench");
        let log = site.path().join("log");
        let mut command = match setup.archiver {
            Archiver::PgReceivewal => self.pg_receivewal(&site, name, setup.synchronous),
            Archiver::Levee => self.levee(&site, name),
        };
        let archiver = Child::spawn(name, &mut command, &log);
        let is_streaming = || {
            let sql = format!(
                "select count(*) from pg_stat_replication where application_name = '{name}' and state = 'streaming'"
            );
            (cluster.psql(&sql) == "1").then_some(())
        };
        poll(STREAMING_MAX, is_streaming)
            .ok_or_else(|| anyhow!("{name} did not begin to stream:\n{}", archiver.log_tail(20)))?;
        if setup.synchronous {
            cluster.set("synchronous_standby_names", name);
        }
        let sampler = LagSampler::start(SocketAddr::new(cluster.address(), cluster.port()), name)?;
        let (clients, seconds) = (self.options.clients.to_string(), self.options.seconds.to_string());
        let load = cluster.pgbench().run(&["-n", "-c", &clients, "-j", "2", "-T", &seconds]);
        let lags_s = sampler.stop();
        cluster.set("synchronous_standby_names", "");
        drop(archiver);
        self.drop_slots()?;
        Ok(Sample { setup, load, lags_s })
    }

    fn pg_receivewal(&self, site: &TempSite, name: &str, synchronous: bool) -> Command {
        let binaries = self.cluster.binaries();
        let dsn = format!("{} application_name={name}", self.cluster.dsn("postgres"));
        let mut create = binaries.command("pg_receivewal");
        levee_testing::process::run(create.args(["--create-slot", "-S", name, "-d", &dsn]));
        let mut command = binaries.command("pg_receivewal");
        command.arg("-D").arg(site.database_folder("wal")).args(["-S", name, "-d", &dsn]);
        if synchronous {
            command.arg("--synchronous");
        }
        command
    }

    /// The archive goes by its slot's name.
    fn levee(&self, site: &TempSite, name: &str) -> Command {
        let identity = site.path().join("identity.txt");
        let keygen = tools::required("age-keygen");
        levee_testing::process::run(Command::new(keygen).arg("-o").arg(&identity));
        let mut command = self.binary.command();
        command
            .args(["database", "archive", "--asset", "bench/bench", "--slot", name])
            .args(["--connect", &self.cluster.dsn("postgres"), "--journal"])
            .arg(site.path().join("journal"))
            .arg("--identity-file")
            .arg(&identity);
        command
    }

    /// A slot that stays behind holds log back, and the next measurement pays for it.
    fn drop_slots(&self) -> Result<()> {
        let dropped = poll(STREAMING_MAX, || {
            self.cluster.try_psql("select pg_drop_replication_slot(slot_name) from pg_replication_slots").ok()
        });
        dropped.map(drop).context("the replication slots of an archiver that has ended stay in use")
    }
}

/// Asks PostgreSQL for the archiver's lag while the load runs.
struct LagSampler {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<f64>>,
}

impl LagSampler {
    fn start(address: SocketAddr, name: &str) -> Result<LagSampler> {
        let mut session =
            Session::open(address, "postgres", "postgres").context("cannot connect to measure the lag")?;
        // Nothing under way is no lag; PostgreSQL then says null.
        let sql = format!(
            "select coalesce(extract(epoch from flush_lag), 0) from pg_stat_replication where application_name = '{name}'"
        );
        let stop = Arc::new(AtomicBool::new(false));
        let told_to_stop = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut lags = Vec::new();
            while !told_to_stop.load(Ordering::Relaxed) {
                std::thread::sleep(LAG_SAMPLE_INTERVAL);
                let Ok(outcome) = session.query(&sql) else { break };
                lags.extend(outcome.values.first().and_then(|value| value.parse::<f64>().ok()));
            }
            lags
        });
        Ok(LagSampler { stop, thread })
    }

    fn stop(self) -> Vec<f64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

fn compare(samples: &[Sample], synchronous: bool) -> Comparison {
    let figures = |archiver| {
        let loads: Vec<PgbenchReport> = samples
            .iter()
            .filter(|sample| sample.setup == Setup { archiver, synchronous })
            .map(|sample| sample.load)
            .collect();
        Figures {
            transactions_per_s: median(loads.iter().map(|load| load.transactions_per_s).collect()),
            latency_ms: median(loads.iter().map(|load| load.latency_average_ms).collect()),
        }
    };
    let (pg_receivewal, levee) = (figures(Archiver::PgReceivewal), figures(Archiver::Levee));
    Comparison {
        pg_receivewal,
        levee,
        throughput_ratio: levee.transactions_per_s / pg_receivewal.transactions_per_s,
        latency_ratio: pg_receivewal.latency_ms / levee.latency_ms,
    }
}

fn print_table(report: &Report) {
    println!("{:<14}{:>16}{:>16}{:>12}{:>12}", "", "pg_receivewal", "Levee", "throughput", "latency");
    for (name, comparison) in [("asynchronous", &report.asynchronous), ("synchronous", &report.synchronous)] {
        let figures = |figures: Figures| format!("{:.0}/s {:.2} ms", figures.transactions_per_s, figures.latency_ms);
        println!(
            "{name:<14}{:>16}{:>16}{:>12.2}{:>12.2}",
            figures(comparison.pg_receivewal),
            figures(comparison.levee),
            comparison.throughput_ratio,
            comparison.latency_ratio
        );
    }
    println!("archive lag under full load, 99th percentile: {:.3} s", report.archive_lag_p99_s);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_above_one_are_good_for_levee() {
        let sample = |archiver, transactions_per_s, latency_average_ms| Sample {
            setup: Setup { archiver, synchronous: true },
            load: PgbenchReport { transactions_per_s, latency_average_ms, transactions: 1 },
            lags_s: Vec::new(),
        };
        let samples = [sample(Archiver::PgReceivewal, 100.0, 8.0), sample(Archiver::Levee, 200.0, 4.0)];
        let comparison = compare(&samples, true);
        assert_eq!((comparison.throughput_ratio, comparison.latency_ratio), (2.0, 2.0));
        assert!(compare(&samples, false).throughput_ratio.is_nan());
    }
}
