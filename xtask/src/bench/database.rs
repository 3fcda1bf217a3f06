//! pgbench at full load against one PostgreSQL, whose log is taken away by `pg_receivewal`, by `levee database archive`,
//! or by two agents, as users run them.

mod archiver;
mod load;
mod report;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use levee_testing::levee::Binary;
use levee_testing::postgres::Cluster;
use levee_testing::wait::poll;

use crate::setup::{self, Needs};
use crate::workspace::given_or_built;
use archiver::Archiver;
use load::LagSampler;
use report::{Report, Sample};

const STREAMING_MAX: Duration = Duration::from_secs(60);
/// How long an archiver may go on working after the load has ended, or before it begins.
const SETTLED_MAX: Duration = Duration::from_secs(60);
/// An archiver is at rest when it takes less than this share of one processor in this time.
const REST_LOOK: Duration = Duration::from_secs(2);
const REST_SHARE: f64 = 0.03;

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
    /// Leave out the server and the two agents
    #[arg(long)]
    without_agents: bool,
    /// Use this program instead of building one
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

/// What is measured once in each round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Setup {
    archiver: Archiver,
    /// A commit waits until the archiver has it on disk.
    synchronous: bool,
}

impl Options {
    fn setups(&self) -> Vec<Setup> {
        let archivers = [Archiver::PgReceivewal, Archiver::Levee, Archiver::Agents];
        let setups =
            [false, true].into_iter().flat_map(|synchronous| archivers.map(|archiver| Setup { archiver, synchronous }));
        setups.filter(|setup| !self.without_agents || setup.archiver != Archiver::Agents).collect()
    }
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
    cluster.psql("create role levee login replication");
    cluster.psql("grant pg_monitor, pg_read_all_data to levee");
    cluster.pgbench().initialize(options.scale);
    let bench = Bench { cluster, binary, options };
    let samples = bench.measure_all()?;
    let report = Report::of(&samples, bench.options.rounds, bench.options.seconds, bench.options.clients);
    if bench.options.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}

struct Bench {
    cluster: Cluster,
    binary: Binary,
    options: Options,
}

impl Bench {
    fn measure_all(&self) -> Result<Vec<Sample>> {
        let mut samples = Vec::new();
        for round in 1..=self.options.rounds {
            // Every second round runs the other way about, so that nobody always comes after a checkpoint.
            let mut order = self.options.setups();
            if round % 2 == 0 {
                order.reverse();
            }
            for setup in order {
                let sample = self.measure(setup).with_context(|| format!("{setup:?}, round {round}"))?;
                eprintln!("round {round}: {sample}");
                samples.push(sample);
            }
        }
        Ok(samples)
    }

    fn measure(&self, setup: Setup) -> Result<Sample> {
        let cluster = &self.cluster;
        let archiver = setup.archiver.start(cluster, &self.binary, setup.synchronous)?;
        let name = archiver.name();
        let is_streaming = || {
            let sql = format!(
                "select count(*) from pg_stat_replication where application_name = '{name}' and state = 'streaming'"
            );
            (cluster.psql(&sql) == "1").then_some(())
        };
        poll(STREAMING_MAX, is_streaming)
            .ok_or_else(|| anyhow!("{name} did not begin to stream:\n{}", archiver.log_tails(20)))?;
        if setup.synchronous {
            cluster.set("synchronous_standby_names", name);
        }
        archiver.wait_ready()?;
        cluster.psql("checkpoint");
        self.wait_for_rest(&archiver)?;

        let sampler = LagSampler::start(SocketAddr::new(cluster.address(), cluster.port()), name)?;
        let (cpu_before_s, log_before) = (archiver.cpu_seconds()?, self.log_bytes()?);
        let (clients, seconds) = (self.options.clients.to_string(), self.options.seconds.to_string());
        let load = cluster.pgbench().run(&["-n", "-c", &clients, "-j", "2", "-T", &seconds]);
        let lags_s = sampler.stop();
        let log_gb = self.log_bytes()?.saturating_sub(log_before) as f64 / 1e9;
        // Work that was put off counts as well.
        let settled = poll(SETTLED_MAX, || archiver.is_settled().then_some(()));
        settled.ok_or_else(|| anyhow!("{name} still works on the log {} s after the load", SETTLED_MAX.as_secs()))?;
        let cpu_s_per_gb = (archiver.cpu_seconds()? - cpu_before_s) / log_gb;

        cluster.set("synchronous_standby_names", "");
        drop(archiver);
        self.drop_slots()?;
        Ok(Sample { setup, load, lags_s, log_gb, cpu_s_per_gb })
    }

    /// Waits until whatever comes once is over: log that had piled up is closed, and a new base backup read again.
    fn wait_for_rest(&self, archiver: &archiver::Running) -> Result<()> {
        let mut before_s = f64::NEG_INFINITY;
        let rests = poll(SETTLED_MAX, || {
            std::thread::sleep(REST_LOOK);
            let now_s = archiver.cpu_seconds().ok()?;
            let rests = archiver.is_settled() && now_s - before_s <= REST_LOOK.as_secs_f64() * REST_SHARE;
            before_s = now_s;
            rests.then_some(())
        });
        rests.ok_or_else(|| anyhow!("{} is still at work {} s after it began", archiver.name(), SETTLED_MAX.as_secs()))
    }

    /// How much log the database has written since it was made.
    fn log_bytes(&self) -> Result<u64> {
        let bytes = self.cluster.psql("select pg_current_wal_lsn() - '0/0'::pg_lsn");
        bytes.parse().with_context(|| format!("the server's position is {bytes:?}"))
    }

    /// A slot that stays behind holds log back, and the next measurement pays for it.
    fn drop_slots(&self) -> Result<()> {
        let dropped = poll(STREAMING_MAX, || {
            self.cluster.try_psql("select pg_drop_replication_slot(slot_name) from pg_replication_slots").ok()
        });
        dropped.map(drop).context("the replication slots of an archiver that has ended stay in use")
    }
}
