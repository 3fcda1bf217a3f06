//! A standby on a journal: it follows, survives kills, and takes over with nothing lost.

use std::time::{Duration, Instant};

use levee_database::postgres::instance::{self, ServerState, StopMode};
use levee_database::postgres::restore::{Mode, RecoveryTarget, private_connect};
use levee_database::postgres::standby;
use levee_model::postgres::{Lsn, TimelineId};
use levee_testing::postgres::{Cluster, Stop};

use crate::restoring::{Archiving, RecoverySide};
use crate::wait_until;

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_standby_follows_the_journal_and_takes_over_with_everything() {
    let mut cluster = Cluster::builder().start();
    let pgbench = cluster.pgbench();
    pgbench.initialize(1);
    cluster.psql("create table moments (n int)");
    let side = RecoverySide::new();
    let archiving = Archiving::start(&cluster, &side.journal);
    let base = side.base(&cluster);
    let (system, timeline) = (base.facts.system_identifier, base.facts.timeline);
    side.wait_durable(system, timeline, base.facts.stop);
    let plan = side.plan(&RecoveryTarget::Newest).unwrap();
    let restored = side.restore("standby", &plan, Mode::Standby);
    let connect = private_connect(&restored.private_directory, restored.port, "postgres");

    // How long a commit takes to be visible at the standby, without load and a segment ending in between.
    let mut lags = Vec::new();
    for n in 0..10 {
        cluster.psql(&format!("insert into moments values ({n})"));
        let begun = Instant::now();
        wait_until("the standby shows the row", || {
            restored.query("select count(*) from moments") == (n + 1).to_string()
        });
        lags.push(begun.elapsed());
        if n == 4 {
            cluster.switch_wal();
        }
    }
    lags.sort();
    eprintln!("replay lag: median {:?}, worst {:?}", lags[lags.len() / 2], lags[lags.len() - 1]);
    assert!(lags[lags.len() / 2] < Duration::from_secs(2), "{lags:?}");

    // Killed in the middle of it, it goes on where it was.
    let running = restored.instance.running().unwrap().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(running.pid).unwrap(), rustix::process::Signal::KILL)
        .unwrap();
    wait_until("the standby is gone", || restored.instance.running().unwrap().is_none());
    pgbench.run(&["-c", "2", "-t", "500"]);
    wait_until("it starts again", || restored.instance.start(ServerState::Standby, LONG).is_ok());

    // A clean stop of the source, and the standby takes over with every record.
    let rows = cluster.psql("select count(*) from pgbench_history");
    cluster.stop(Stop::Fast);
    let binaries = restored.instance.binaries().clone();
    let control = instance::control_data(cluster.data_directory(), &binaries).unwrap();
    assert!(control.is_shut_down());
    wait_until("the shutdown checkpoint is durable", || side.durable_end(system, timeline) > control.checkpoint);
    let end = side.durable_end(system, timeline);
    let (promoted, took) = standby::promote_at(&restored.instance, &connect, end, LONG).unwrap();
    eprintln!("taken over in {took:?}");
    assert_eq!(promoted, TimelineId(2));
    assert_eq!(restored.query("select count(*) from pgbench_history"), rows);
    restored.query("insert into moments values (100)");
    drop(archiving);
    assert!(restored.instance.control_data().unwrap().system_identifier == system);
    restored.instance.stop(StopMode::Fast, LONG).unwrap();
    assert!(restored.instance.control_data().unwrap().is_shut_down());
    assert_eq!(restored.instance.running().unwrap(), None);

    // As any server, it can be started again, although its log ends with a shutdown.
    restored.instance.start(ServerState::Ready, LONG).unwrap();
    assert_eq!(restored.query("select count(*) from pgbench_history"), rows);
    assert_eq!(restored.instance.promote(LONG).unwrap(), TimelineId(2));
}

#[test]
fn progress_is_told_in_bytes() {
    let cluster = Cluster::builder().start();
    let side = RecoverySide::new();
    let _archiving = Archiving::start(&cluster, &side.journal);
    let base = side.base(&cluster);
    let (system, timeline) = (base.facts.system_identifier, base.facts.timeline);
    side.wait_durable(system, timeline, base.facts.stop);
    let restored = side.restore("standby", &side.plan(&RecoveryTarget::Newest).unwrap(), Mode::Standby);
    let connect = private_connect(&restored.private_directory, restored.port, "postgres");
    cluster.psql("create table t as select generate_series(1, 10000) n");
    let end: Lsn = cluster.psql("select pg_current_wal_insert_lsn()").parse().unwrap();
    side.wait_durable(system, timeline, end);
    wait_until("it has replayed all", || {
        standby::progress(&connect, side.durable_end(system, timeline)).unwrap().behind_bytes == 0
    });
}
