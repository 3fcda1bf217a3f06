//! When the archive of one machine makes its log durable.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;
use levee_database::postgres::archive::ArchiveOptions;
use levee_database::postgres::{JournalSink, Lineage, LogChunk, LogSink};
use levee_journal::{Identity, JournalKeys, LogJournal};
use levee_model::postgres::{Lsn, SegmentSize, SystemIdentifier, TimelineId};
use levee_model::{Epoch, FLUSH_INTERVAL};
use levee_testing::postgres::Cluster;

use crate::restoring::Archiving;
use crate::{options, wait_until};

const START: Lsn = Lsn(0x0300_0000);
const LINEAGE: Lineage = Lineage { system_identifier: SystemIdentifier(7), timeline: TimelineId(1) };

fn journal(folder: &Path) -> LogJournal {
    LogJournal::open(folder, JournalKeys::of_identity(Identity::generate())).unwrap()
}

fn append(sink: &mut JournalSink, lsn: Lsn, length: usize, may_wait: bool) -> Lsn {
    let bytes = Bytes::from(vec![7; length]);
    let end = Lsn(lsn.0 + length as u64);
    sink.append(LogChunk { lsn, bytes: &bytes, source_time: Timestamp::now(), source_end: end, may_wait }).unwrap();
    end
}

#[test]
fn what_no_commit_waits_for_is_flushed_when_its_time_has_come() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = JournalSink::new(journal(folder.path()), Epoch(1));
    sink.begin(LINEAGE, SegmentSize::DEFAULT, START).unwrap();
    let mut end = START;
    let begun = Instant::now();
    for _ in 0..10 {
        end = append(&mut sink, end, 8192, true);
    }
    sink.flush_due().unwrap();
    // A machine that stood still meanwhile has flushed for its time.
    assert!(sink.durable() == START || begun.elapsed() >= FLUSH_INTERVAL, "it was flushed at once");
    std::thread::sleep(FLUSH_INTERVAL);
    sink.flush_due().unwrap();
    assert_eq!(sink.durable(), end);
    // What a commit waits for takes everything before it along.
    let patient = append(&mut sink, end, 100, true);
    let waited_for = append(&mut sink, patient, 100, false);
    assert_eq!(sink.durable(), waited_for);
    // The end of a stream as well.
    let last = append(&mut sink, waited_for, 100, true);
    sink.flush().unwrap();
    assert_eq!(sink.durable(), last);
}

fn flushed(cluster: &Cluster) -> Lsn {
    cluster.flush_lsn().parse().unwrap()
}

/// The archive's flushes over a stretch of load, and the commits in it.
fn flushes_and_commits(cluster: &Cluster, seconds: u32) -> (usize, u64) {
    let sql = "select flush_lsn from pg_stat_replication where application_name = 'levee_test'";
    let (mut seen, mut moves) = (cluster.psql(sql), 0);
    let load = cluster.pgbench().command(&["-n", "-c", "2", "-T", &seconds.to_string()]);
    let load = {
        let mut load = load;
        std::thread::spawn(move || levee_testing::process::run(&mut load))
    };
    while !load.is_finished() {
        let now = cluster.psql(sql);
        moves += usize::from(now != seen);
        seen = now;
    }
    let printed = load.join().unwrap();
    let processed = printed.lines().find_map(|line| line.strip_prefix("number of transactions actually processed:"));
    (moves, processed.unwrap().trim().parse().unwrap())
}

#[test]
fn an_idle_source_is_flushed_within_the_interval_and_a_busy_one_not_for_each_commit() {
    let cluster = Cluster::builder().start();
    cluster.pgbench().initialize(1);
    cluster.psql("create table t (a int)");
    let folder = tempfile::tempdir().unwrap();
    let journal = journal(folder.path());
    let _archiving = Archiving::with(ArchiveOptions::new(options(&cluster), "levee_test"), &journal);
    let system: SystemIdentifier = cluster.psql("select system_identifier from pg_control_system()").parse().unwrap();
    let durable = || journal.extent(system, TimelineId(1)).unwrap().map_or(Lsn(0), |extent| extent.durable_end);
    wait_until("it has caught up", || durable() >= flushed(&cluster));
    // It flushes at once until it has seen that nobody waits for it.
    std::thread::sleep(Duration::from_millis(2500));

    let (flushes, commits) = flushes_and_commits(&cluster, 2);
    assert!(commits > 50 && flushes < 20, "{flushes} flushes for {commits} commits in two seconds");
    for _ in 0..3 {
        cluster.psql("insert into t values (1)");
        let (end, begun) = (flushed(&cluster), Instant::now());
        wait_until("the last commit is durable", || durable() >= end);
        // Three times what it should take: other tests run beside this one.
        assert!(begun.elapsed() < 3 * FLUSH_INTERVAL, "{:?}", begun.elapsed());
        std::thread::sleep(FLUSH_INTERVAL);
    }
}

#[test]
fn a_commit_that_waits_is_acknowledged_at_once() {
    let cluster = Cluster::builder().start();
    cluster.psql("create table t (a int)");
    let folder = tempfile::tempdir().unwrap();
    let journal = journal(folder.path());
    let options = ArchiveOptions { zero_loss: true, ..ArchiveOptions::new(options(&cluster), "levee_test") };
    let _archiving = Archiving::with(options, &journal);
    cluster.set("synchronous_standby_names", "FIRST 1 (levee_test)");
    wait_until("it is the synchronous standby", || {
        cluster.psql("select sync_state from pg_stat_replication") == "sync"
    });
    // Also after it has looked whether somebody waits for it.
    std::thread::sleep(Duration::from_millis(2500));
    const COMMITS: u32 = 50;
    let begun = Instant::now();
    let mut command = cluster.psql_command("postgres");
    levee_testing::process::run(command.args((0..COMMITS).flat_map(|_| ["-c", "insert into t values (1)"])));
    let each = begun.elapsed() / COMMITS;
    assert!(each < FLUSH_INTERVAL / 4, "{each:?} for each commit");
}
