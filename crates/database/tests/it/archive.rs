use std::fs;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use levee_database::postgres::archive::{ArchiveEnd, ArchiveOptions, ArchiveStatus, run};
use levee_database::postgres::{SinkError, slot};
use levee_database::{Error, Result, StopSignal};
use levee_engine::postgres::{ConnectOptions, Host, SslMode};
use levee_model::postgres::{Lsn, SegmentSize, TimelineId, wal_file_name};
use levee_testing::postgres::{Cluster, Stop};

use crate::memory_sink::MemorySink;
use crate::{ROLE_HBA, early_status, options, role_options, wait_until};

/// An archive in a thread of its own.
struct Running {
    stop: StopSignal,
    status: Arc<Mutex<ArchiveStatus>>,
    thread: JoinHandle<Result<ArchiveEnd>>,
}

impl Running {
    fn start(options: ArchiveOptions, sink: &MemorySink) -> Self {
        let (stop, status) = (StopSignal::new().unwrap(), Arc::new(Mutex::new(ArchiveStatus::default())));
        let (mut sink, stop_seen, told) = (sink.clone(), stop.clone(), status.clone());
        let thread = std::thread::spawn(move || {
            run(&options, &mut sink, &stop_seen, &mut |status| *told.lock().unwrap() = status.clone())
        });
        Self { stop, status, thread }
    }

    fn status(&self) -> ArchiveStatus {
        self.status.lock().unwrap().clone()
    }

    #[track_caller]
    fn wait_until_streaming(&self) {
        wait_until("it streams", || self.status().connected);
    }

    /// Ended by itself.
    fn join(self) -> Result<ArchiveEnd> {
        wait_until("it ends", || self.thread.is_finished());
        self.thread.join().unwrap()
    }

    #[track_caller]
    fn stop(self) {
        self.stop.stop();
        assert_eq!(self.join().unwrap(), ArchiveEnd::Stopped);
    }
}

fn archive_options(cluster: &Cluster) -> ArchiveOptions {
    ArchiveOptions::new(options(cluster), "levee_test")
}

fn flushed(cluster: &Cluster) -> Lsn {
    cluster.flush_lsn().parse().unwrap()
}

/// What the sink has is what the server's own files have.
#[track_caller]
fn compare_with_files(cluster: &Cluster, sink: &MemorySink, timeline: u32) -> u64 {
    let size = SegmentSize::DEFAULT;
    let mut compared = 0;
    sink.with(|shared| {
        let log = &shared.logs[&TimelineId(timeline)];
        assert_eq!(log.start, log.start.segment_start(size));
        for (number, segment) in log.bytes.chunks(size.bytes() as usize).enumerate() {
            let start = Lsn(log.start.0 + number as u64 * size.bytes());
            let name = wal_file_name(TimelineId(timeline), start, size);
            let file = fs::read(cluster.data_directory().join("pg_wal").join(&name)).unwrap();
            assert!(file[..segment.len()] == *segment, "{name} differs");
            compared += segment.len() as u64;
        }
    });
    compared
}

#[test]
fn the_log_under_load_arrives_as_the_servers_own_files_have_it() {
    let cluster = Cluster::builder().setting("wal_keep_size", "2GB").start();
    let sink = MemorySink::new();
    let running = Running::start(archive_options(&cluster), &sink);
    running.wait_until_streaming();
    cluster.pgbench().initialize(5);
    cluster.pgbench().run(&["-c", "4", "-T", "3"]);
    cluster.switch_wal();
    cluster.psql("create table t as select generate_series(1, 1000) a");
    let end = flushed(&cluster);
    wait_until("all is there", || sink.end(1) >= end);
    assert!(compare_with_files(&cluster, &sink, 1) > 50_000_000);
    let status = running.status();
    assert!(status.durable >= Some(end) && status.problem.is_none(), "{status:?}");
    running.stop();
}

#[test]
fn the_age_of_the_recovery_point_is_known_when_idle_and_grows_when_the_sink_is_stuck() {
    let cluster = Cluster::builder().start();
    let sink = MemorySink::new();
    let running = Running::start(archive_options(&cluster), &sink);
    running.wait_until_streaming();
    let age = || {
        let as_of = running.status().as_of?;
        Some(Timestamp::now().duration_since(as_of))
    };
    // Nothing is written: an age that were not told anew would only grow.
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(500));
        wait_until("it is young", || age().is_some_and(|age| age < jiff::SignedDuration::from_millis(450)));
    }
    sink.with(|shared| shared.held = true);
    cluster.psql("create table t (a int)");
    std::thread::sleep(Duration::from_secs(1));
    assert!(age().unwrap() > jiff::SignedDuration::from_millis(900), "{:?}", age());
    let committed = Timestamp::now();
    sink.flush();
    wait_until("it is young again", || running.status().as_of.is_some_and(|as_of| as_of > committed));
    // The recovery side hears of the time as well.
    assert!(sink.with(|shared| shared.source.unwrap().0) > committed);
    running.stop();
}

#[test]
fn a_synchronous_commit_waits_for_the_sink_and_for_nothing_else() {
    let cluster = Cluster::builder().fsync(true).start();
    cluster.psql("create table t (a int)");
    let sink = MemorySink::new();
    let running = Running::start(ArchiveOptions { zero_loss: true, ..archive_options(&cluster) }, &sink);
    running.wait_until_streaming();
    cluster.set("synchronous_standby_names", "FIRST 1 (levee_test)");
    wait_until("it is the synchronous standby", || {
        cluster.psql("select sync_state from pg_stat_replication") == "sync"
    });
    assert_eq!(cluster.psql("select replay_lsn is null from pg_stat_replication"), "t");

    // Released at once: each would take the whole interval of the regular status, 100 ms, if that released it.
    let statements = "insert into t values (1);".repeat(200);
    let began = Instant::now();
    let mut command = cluster.psql_command("postgres");
    levee_testing::process::run(
        command
            .args(["-c", "set synchronous_commit = on"])
            .args(statements.split_inclusive(';').flat_map(|statement| ["-c", statement])),
    );
    let each = began.elapsed() / 200;
    assert!(each < Duration::from_millis(80), "{each:?} for each commit");

    // Held: the commit waits until the sink says that it is durable.
    sink.with(|shared| shared.held = true);
    let insert = {
        let mut command = cluster.psql_command("postgres");
        std::thread::spawn(move || levee_testing::process::run(command.args(["-c", "insert into t values (2)"])))
    };
    std::thread::sleep(Duration::from_millis(700));
    assert!(!insert.is_finished(), "the commit did not wait");
    sink.flush();
    wait_until("the commit returns", || insert.is_finished());
    insert.join().unwrap();

    sink.with(|shared| shared.held = false);
    cluster.set("synchronous_standby_names", "ANY 1 (levee_test, other)");
    wait_until("the weaker setting is told", || {
        running.status().zero_loss_problem.is_some_and(|problem| problem.contains("stand in for Levee"))
    });
    running.stop();
}

#[test]
fn commits_that_would_wait_for_ever_are_told_without_zero_loss_too() {
    let cluster = Cluster::builder().start();
    let running = Running::start(archive_options(&cluster), &MemorySink::new());
    running.wait_until_streaming();
    let told = || running.status().zero_loss_problem;
    // Nobody waits for this archive: it is another standby's matter. The settings are looked at every two seconds.
    cluster.set("synchronous_commit", "remote_apply");
    std::thread::sleep(Duration::from_millis(4500));
    assert_eq!(told(), None);
    for names in ["other, levee_test", "*"] {
        cluster.set("synchronous_standby_names", names);
        wait_until("it is told", || {
            told().is_some_and(|problem| problem.contains("`remote_apply`") && problem.contains("wait for ever"))
        });
        cluster.set("synchronous_standby_names", "");
        wait_until("it is told no more", || told().is_none());
    }
    assert_eq!(running.status().problem, None);
    running.stop();
}

#[test]
fn it_goes_on_after_a_crash_of_the_server_where_the_sink_is_durable() {
    let mut cluster = Cluster::builder().fsync(true).setting("wal_keep_size", "1GB").start();
    let sink = MemorySink::new();
    let running = Running::start(archive_options(&cluster), &sink);
    running.wait_until_streaming();
    cluster.pgbench().initialize(1);
    for _ in 0..3 {
        cluster.pgbench().run(&["-c", "2", "-T", "1"]);
        cluster.kill();
        wait_until("the loss is told", || running.status().problem.is_some());
        assert!(!running.status().connected);
        cluster.start();
        running.wait_until_streaming();
    }
    cluster.psql("create table t (a int)");
    let end = flushed(&cluster);
    wait_until("all is there", || sink.end(1) >= end);
    compare_with_files(&cluster, &sink, 1);
    running.stop();
}

#[test]
fn a_clean_stop_waits_until_the_shutdown_checkpoint_is_durable() {
    let mut cluster = Cluster::builder().start();
    let sink = MemorySink::new();
    let running = Running::start(archive_options(&cluster), &sink);
    running.wait_until_streaming();
    cluster.psql("create table t (a int)");
    cluster.stop(Stop::Fast);
    let mut decoder = levee_engine::postgres::wal::WalDecoder::new(SegmentSize::DEFAULT, Lsn(0));
    let mut last = None;
    sink.with(|shared| {
        let log = &shared.logs[&TimelineId(1)];
        decoder = levee_engine::postgres::wal::WalDecoder::new(SegmentSize::DEFAULT, log.start);
        decoder.feed(&log.bytes, |decoded| last = Some(decoded));
    });
    let last = format!("{last:?}");
    assert!(last.contains("ShutdownCheckpoint"), "{last}");
    cluster.start();
    running.wait_until_streaming();
    running.stop();
}

/// What an archive has stored that has ended. The table `t` is there.
#[track_caller]
fn archived_for_a_while(cluster: &Cluster) -> MemorySink {
    let sink = MemorySink::new();
    let running = Running::start(archive_options(cluster), &sink);
    running.wait_until_streaming();
    cluster.psql("create table t (a int)");
    let end = flushed(cluster);
    wait_until("all is there", || sink.end(1) >= end);
    running.stop();
    sink
}

/// Several segments: a server that keeps 32 MB at the most removes the older ones.
fn write_more_than_is_kept(cluster: &Cluster) {
    for _ in 0..8 {
        cluster.switch_wal();
        cluster.psql("insert into t values (1); checkpoint");
    }
}

#[test]
fn a_slot_dropped_behind_our_back_is_a_gap_only_when_the_log_is_gone() {
    let cluster = Cluster::builder().setting("min_wal_size", "32MB").setting("max_wal_size", "32MB").start();
    let sink = archived_for_a_while(&cluster);
    let drop_slot =
        || wait_until("the slot is free", || cluster.try_psql("select pg_drop_replication_slot('levee_test')").is_ok());

    drop_slot();
    cluster.psql("insert into t values (1)");
    let second = Running::start(archive_options(&cluster), &sink);
    second.wait_until_streaming();
    let end = flushed(&cluster);
    wait_until("all is there, although the slot was gone", || sink.end(1) >= end);
    second.stop();
    let stored = sink.end(1);

    drop_slot();
    write_more_than_is_kept(&cluster);
    let is_gap = |options: ArchiveOptions| {
        let error = Running::start(options, &sink).join().unwrap_err();
        assert!(matches!(&error, Error::Gap { needed, .. } if *needed == stored), "{error:?}");
    };
    is_gap(archive_options(&cluster));
    check_goes_on_behind_the_gap(&cluster);
    // Also when the server hears of the position before it has looked for the log there.
    drop_slot();
    let proxy = early_status::start(SocketAddr::new(cluster.address(), cluster.port()));
    let host = Host::Tcp(proxy.ip().to_string());
    let connect = ConnectOptions { ssl_mode: SslMode::Disable, ..ConnectOptions::new(host, proxy.port(), "postgres") };
    is_gap(ArchiveOptions::new(connect, "levee_test"));
    assert!(slot_restart(&cluster).unwrap() > stored);
    check_goes_on_behind_the_gap(&cluster);
}

#[test]
fn a_slot_that_passed_max_slot_wal_keep_size_is_named_with_the_gap_and_made_anew() {
    let cluster = Cluster::builder()
        .setting("min_wal_size", "32MB")
        .setting("max_wal_size", "32MB")
        .setting("max_slot_wal_keep_size", "16MB")
        .start();
    let sink = archived_for_a_while(&cluster);
    let stored = sink.end(1);
    write_more_than_is_kept(&cluster);
    wait_until("the server gives the slot up", || {
        cluster.psql("select wal_status from pg_replication_slots where slot_name = 'levee_test'") == "lost"
    });
    let error = Running::start(archive_options(&cluster), &sink).join().unwrap_err();
    assert!(matches!(&error, Error::Gap { needed, .. } if *needed == stored), "{error:?}");
    let message = error.to_string();
    assert!(message.contains("removed it (slot \"levee_test\" had passed max_slot_wal_keep_size)"), "{message}");
    assert!(message.contains(&format!("stays restorable up to {stored}; take a new base backup")), "{message}");
    assert!(slot_restart(&cluster).unwrap() > stored);
    check_goes_on_behind_the_gap(&cluster);
}

fn slot_restart(cluster: &Cluster) -> Option<Lsn> {
    slot::status(&options(cluster), "levee_test").unwrap()?.restart
}

/// A sink that has nothing gets what the slot holds.
#[track_caller]
fn check_goes_on_behind_the_gap(cluster: &Cluster) {
    let sink = MemorySink::new();
    let running = Running::start(archive_options(cluster), &sink);
    running.wait_until_streaming();
    let end = flushed(cluster);
    wait_until("what is behind the gap is there", || sink.end(1) >= end);
    running.stop();
}

/// As after a restore of the server's files, in which the slots are older than the log beside them.
#[test]
fn a_slot_that_reserves_removed_log_is_made_anew() {
    let mut cluster = Cluster::builder().setting("min_wal_size", "32MB").setting("max_wal_size", "32MB").start();
    let sink = MemorySink::new();
    let first = Running::start(archive_options(&cluster), &sink);
    first.wait_until_streaming();
    first.stop();
    let stored = sink.end(1);
    cluster.stop(Stop::Fast);
    let place = cluster.data_directory().join("pg_replslot/levee_test");
    let aside = cluster.data_directory().with_extension("slot");
    fs::rename(&place, &aside).unwrap();
    cluster.start();
    cluster.psql("create table t (a int)");
    write_more_than_is_kept(&cluster);
    cluster.stop(Stop::Fast);
    fs::rename(&aside, &place).unwrap();
    cluster.start();
    assert!(slot_restart(&cluster).unwrap() <= stored);
    let error = Running::start(archive_options(&cluster), &sink).join().unwrap_err();
    assert!(matches!(&error, Error::Gap { .. }), "{error:?}");
    check_goes_on_behind_the_gap(&cluster);
}

#[test]
fn the_slots_bound_is_kept_while_the_sink_is_away() {
    let cluster = Cluster::builder().hba(ROLE_HBA).start();
    let plain = ArchiveOptions::new(role_options(&cluster), "levee_test");
    let sink = MemorySink::new();
    let bound = 40 << 20;
    let running = Running::start(ArchiveOptions { slot_bound_bytes: Some(bound), ..plain }, &sink);
    running.wait_until_streaming();
    sink.with(|shared| shared.unavailable = true);
    wait_until("the sink's absence is told", || {
        running.status().problem.is_some_and(|problem| problem.contains("the link is down"))
    });
    // A burst of some 200 MB in a few seconds: the server writes while nobody takes anything.
    cluster.psql("create table t (a text)");
    for _ in 0..100 {
        cluster.psql("insert into t select repeat('x', 1000) from generate_series(1, 2000)");
        if running.thread.is_finished() {
            break;
        }
    }
    let end = running.join().unwrap();
    let ArchiveEnd::SlotDropped { held_bytes, bound_bytes } = end else { panic!("{end:?}") };
    println!("the bound of {bound_bytes} bytes was passed at {held_bytes}");
    assert!(bound_bytes == bound && held_bytes > bound && held_bytes < bound + (64 << 20), "{end:?}");
    assert_eq!(cluster.psql("select count(*) from pg_replication_slots"), "0");
}

#[test]
fn it_follows_the_source_onto_a_new_timeline() {
    let primary = Cluster::builder().setting("wal_keep_size", "1GB").start();
    primary.psql("create table t (a int)");
    let standby = standby_of(&primary);
    // The archive streams from the standby, as it may, and sees it promoted.
    let sink = MemorySink::new();
    let running = Running::start(archive_options(&standby), &sink);
    running.wait_until_streaming();
    primary.psql("insert into t values (1)");
    let end = flushed(&primary);
    wait_until("timeline 1 is there", || sink.end(1) >= end);
    standby.psql("select pg_promote()");
    standby.psql("insert into t values (2)");
    let end = flushed(&standby);
    wait_until("timeline 2 is there", || sink.end(2) >= end);
    compare_with_files(&standby, &sink, 2);
    let history = sink.with(|shared| String::from_utf8(shared.histories[&TimelineId(2)].clone()).unwrap());
    assert!(history.starts_with("1\t"), "{history}");
    let branch: Lsn = history.split('\t').nth(1).unwrap().parse().unwrap();
    assert_eq!(sink.end(1), branch, "timeline 1 is complete");
    running.stop();

    // An archive that was away during the promotion fetches the rest of the old timeline first.
    let late = MemorySink::new();
    late.with(|shared| {
        sink.with(|full| {
            let log = &full.logs[&TimelineId(1)];
            let cut = log.bytes.len() - 100;
            let durable = Lsn(log.start.0 + cut as u64);
            let log = crate::memory_sink::Log { start: log.start, bytes: log.bytes[..cut].to_vec(), durable };
            shared.logs.insert(TimelineId(1), log);
        })
    });
    let running = Running::start(archive_options(&standby), &late);
    wait_until("timeline 2 is there again", || late.end(2) >= end);
    assert_eq!(late.end(1), branch);
    running.stop();

    // One that has gone on beyond the fork on the old timeline has parted from this server.
    primary.pgbench().initialize(1);
    let parted = MemorySink::new();
    let running = Running::start(archive_options(&primary), &parted);
    let end = flushed(&primary);
    wait_until("the old timeline went on", || parted.end(1) >= end);
    running.stop();
    let error = Running::start(archive_options(&standby), &parted).join().unwrap_err();
    assert!(matches!(error, Error::Diverged { .. }), "{error:?}");
}

/// A cluster that replays what the other writes.
fn standby_of(primary: &Cluster) -> Cluster {
    let folder = primary.site().database_folder("standby");
    let data = folder.join("data");
    levee_testing::process::run(
        primary
            .binaries()
            .command("pg_basebackup")
            .arg("-D")
            .arg(&data)
            .args(["-R", "-c", "fast", "-d"])
            .arg(primary.dsn("postgres")),
    );
    let mut standby = Cluster::builder().create();
    fs::remove_dir_all(standby.data_directory()).unwrap();
    fs::rename(&data, standby.data_directory()).unwrap();
    let conf = standby.data_directory().join("postgresql.auto.conf");
    let own =
        format!("port = {}\nunix_socket_directories = '{}'\n", standby.port(), standby.socket_directory().display());
    fs::write(&conf, fs::read_to_string(&conf).unwrap() + &own).unwrap();
    standby.start();
    standby
}

#[test]
fn what_does_not_pass_ends_it_with_a_name() {
    let cluster = Cluster::builder().start();
    let sink = MemorySink::new();
    sink.with(|shared| shared.refuse = true);
    let error = Running::start(archive_options(&cluster), &sink).join().unwrap_err();
    assert!(matches!(error, Error::Sink(SinkError::Refused { .. })), "{error:?}");

    let sink = MemorySink::new();
    let running = Running::start(archive_options(&cluster), &sink);
    running.wait_until_streaming();
    running.stop();
    sink.with(|shared| {
        let log = shared.logs.get_mut(&TimelineId(1)).unwrap();
        log.bytes.resize(500 << 20, 0);
        log.durable = log.end();
    });
    let error = Running::start(archive_options(&cluster), &sink).join().unwrap_err();
    assert!(matches!(error, Error::SourceBehind { .. }), "{error:?}");

    // It says that all WAL senders are in use, and would not start with more of them.
    let minimal = Cluster::builder().setting("wal_level", "minimal").setting("max_wal_senders", "0").start();
    let error = Running::start(archive_options(&minimal), &MemorySink::new()).join().unwrap_err();
    assert!(matches!(error, Error::WalLevelMinimal), "{error:?}");

    let other = levee_model::postgres::SystemIdentifier(1);
    let options = ArchiveOptions { system_identifier: Some(other), ..archive_options(&cluster) };
    let error = Running::start(options, &MemorySink::new()).join().unwrap_err();
    assert!(matches!(error, Error::OtherCluster { .. }), "{error:?}");
}
