use std::time::{Duration, Instant};

use jiff::Timestamp;
use levee_engine::postgres::wal::{Decoded, Mark, MarkKind, WalDecoder};
use levee_engine::postgres::{ConnectOptions, Connection, Event};
use levee_model::postgres::{Lsn, SegmentSize, TimelineId};
use levee_testing::postgres::{Cluster, Stop, Version};
use levee_testing::process::try_run;

use crate::options;

/// Streams from `from` up to `until` by a connection of its own.
pub fn stream(options: &ConnectOptions, from: Lsn, until: Lsn) -> Vec<u8> {
    let connection = Connection::connect_replication(options).unwrap();
    let mut stream = connection.start_replication(None, TimelineId(1), from).unwrap();
    let mut log = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(30);
    while stream.position() < until {
        assert!(Instant::now() < deadline, "stuck at {}", stream.position());
        match stream.poll(Duration::from_millis(100)).unwrap() {
            Event::WalData { start, bytes, .. } => {
                assert_eq!(start, Lsn(from.0 + log.len() as u64));
                log.extend_from_slice(&bytes);
            }
            Event::Keepalive { reply_requested: true, .. } => {
                stream.send_status(from, from, Timestamp::now(), false).unwrap();
            }
            Event::Keepalive { .. } | Event::Idle => {}
            other => panic!("{other:?}"),
        }
    }
    log
}

fn decode(log: &[u8], start: Lsn, piece: usize) -> Vec<Decoded> {
    let mut decoder = WalDecoder::new(SegmentSize::DEFAULT, start);
    let mut found = Vec::new();
    for bytes in log.chunks(piece) {
        decoder.feed(bytes, |decoded| found.push(decoded));
    }
    found
}

fn marks(found: &[Decoded]) -> Vec<&Mark> {
    let mark = |decoded: &'_ Decoded| matches!(decoded, Decoded::Mark(_));
    assert!(found.iter().all(mark), "{found:?}");
    found.iter().filter_map(|decoded| if let Decoded::Mark(mark) = decoded { Some(mark) } else { None }).collect()
}

#[test]
fn marks_are_those_that_pg_waldump_shows() {
    for version in Version::MAIN {
        check_marks(&Cluster::builder().version(version).setting("max_prepared_transactions", "5").start());
    }
}

fn check_marks(cluster: &Cluster) {
    let start = Lsn(cluster.flush_lsn().parse::<Lsn>().unwrap().segment_start(SegmentSize::DEFAULT).0);
    cluster.pgbench().initialize(3);
    cluster.psql("create table t (a int)");
    cluster.psql("begin; insert into t values (1); savepoint s; insert into t values (2); rollback to s; prepare transaction 'p'");
    cluster.psql("commit prepared 'p'");
    cluster.psql("begin; insert into t values (3); rollback");
    cluster.psql("select pg_create_restore_point('before the change')");
    let segment_before = cluster.psql("select pg_walfile_name(pg_current_wal_lsn())");
    cluster.switch_wal();
    cluster.psql("insert into t select generate_series(1, 100000)");
    cluster.psql("select pg_logical_emit_message(false, 'levee', repeat('x', 3000000))");
    cluster.psql("truncate t; insert into t values (4)");
    cluster.pgbench().run(&["-c", "2", "-t", "100"]);
    let segment_last = cluster.psql("select pg_walfile_name(pg_current_wal_lsn())");
    assert!(segment_before < segment_last);
    let until: Lsn = cluster.flush_lsn().parse().unwrap();
    let log = stream(&options(cluster), start, until);

    let found = decode(&log, start, 8191);
    let found = marks(&found);
    let restore_point = found.iter().find(|mark| matches!(mark.kind, MarkKind::RestorePoint { .. })).unwrap();
    assert_eq!(restore_point.kind, MarkKind::RestorePoint { name: "before the change".into() });
    assert_eq!(found.iter().filter(|mark| mark.kind == MarkKind::Switch).count(), 1);
    for mark in &found {
        let Some(time) = mark.time else { continue };
        assert!(Timestamp::now().duration_since(time).abs() < jiff::SignedDuration::from_mins(5), "{mark:?}");
    }

    // The oracle: every commit and abort in the same order, with the same transactions.
    let mut command = cluster.binaries().command("pg_waldump");
    let dump = try_run(command.arg("-p").arg(cluster.data_directory().join("pg_wal")).args([
        "-r",
        "Transaction",
        "-s",
        &start.to_string(),
        "-e",
        &until.to_string(),
    ]));
    let dump = dump.unwrap();
    let expected: Vec<(bool, u32)> = dump
        .lines()
        .filter_map(|line| {
            let prepared = line.split("desc: ").nth(1)?;
            let xid: u32 = line.split("tx:").nth(1)?.split(',').next()?.trim().parse().ok()?;
            let named = || prepared.split_whitespace().nth(1)?.trim_end_matches(':').parse().ok();
            match prepared.split_whitespace().next()? {
                "COMMIT" => Some((true, xid)),
                "ABORT" => Some((false, xid)),
                "COMMIT_PREPARED" => Some((true, named()?)),
                "ABORT_PREPARED" => Some((false, named()?)),
                _ => None,
            }
        })
        .collect();
    assert!(expected.len() > 200, "{}", expected.len());
    let ours: Vec<(bool, u32)> = found
        .iter()
        .filter_map(|mark| match mark.kind {
            MarkKind::Commit { xid } => Some((true, xid.unwrap())),
            MarkKind::Abort { xid } => Some((false, xid.unwrap())),
            _ => None,
        })
        .collect();
    assert_eq!(ours, expected);

    // Pieces of any size give the same.
    let whole = decode(&log, start, log.len());
    assert_eq!(decode(&log, start, 8191), whole);
    assert_eq!(decode(&log[..200_000], start, 1), decode(&log[..200_000], start, 77));

    // Begun in the middle, the decoder finds the records from the next page on.
    let late = decode(&log[100_001..], Lsn(start.0 + 100_001), 4096);
    let late = marks(&late);
    assert!(late.len() > 100);
    assert!(late.iter().all(|mark| found.contains(mark)));

    // Damage loses the marks up to the next segment, and says so.
    let mut damaged = log.clone();
    damaged[50_000] ^= 1;
    let after = decode(&damaged, start, 4096);
    assert!(after.iter().any(|decoded| matches!(decoded, Decoded::LostSync { .. })), "{after:?}");
    let marks_after = after.iter().filter(|decoded| matches!(decoded, Decoded::Mark(_))).count();
    assert!(marks_after > 100, "decoding did not go on at the next segment");
}

#[test]
fn a_clean_stop_is_seen_and_the_stream_ends() {
    let mut cluster = Cluster::builder().start();
    let start: Lsn = cluster.flush_lsn().parse().unwrap();
    let start = start.segment_start(SegmentSize::DEFAULT);
    let connection = Connection::connect_replication(&options(&cluster)).unwrap();
    let mut stream = connection.start_replication(None, TimelineId(1), start).unwrap();
    let stopper = std::thread::spawn(move || cluster.stop(Stop::Fast));
    let mut log = Vec::new();
    loop {
        match stream.poll(Duration::from_secs(5)).unwrap() {
            Event::WalData { bytes, .. } => {
                log.extend_from_slice(&bytes);
                let end = stream.position();
                // The server may have sent everything and be gone already.
                let _ = stream.send_status(end, end, Timestamp::now(), false);
            }
            Event::Keepalive { reply_requested, .. } => {
                let end = stream.position();
                if reply_requested {
                    let _ = stream.send_status(end, end, Timestamp::now(), false);
                }
            }
            Event::Ended => break,
            other => panic!("{other:?}"),
        }
    }
    stopper.join().unwrap();
    let found = decode(&log, start, 1000);
    let last = marks(&found).last().copied().cloned().unwrap();
    assert_eq!((last.kind, last.lsn), (MarkKind::ShutdownCheckpoint, stream.position()));
    assert!(last.time.is_some());
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(
        start in 0u64..40_000_000,
        pieces in proptest::collection::vec(proptest::collection::vec(proptest::num::u8::ANY, 0..9000), 0..6),
    ) {
        let mut decoder = WalDecoder::new(SegmentSize::DEFAULT, Lsn(start));
        for piece in &pieces {
            decoder.feed(piece, |_| {});
        }
        proptest::prop_assert_eq!(decoder.position().0, start + pieces.iter().map(|piece| piece.len() as u64).sum::<u64>());
    }
}

#[test]
fn no_damage_makes_the_decoder_panic() {
    let cluster = Cluster::builder().start();
    let start: Lsn = cluster.psql("select redo_lsn from pg_control_checkpoint()").parse().unwrap();
    let start = start.segment_start(SegmentSize::DEFAULT);
    cluster.psql("create table t as select generate_series(1, 2000) a");
    let log = stream(&options(&cluster), start, cluster.flush_lsn().parse().unwrap());
    use proptest::prelude::*;
    let mut runner = proptest::test_runner::TestRunner::default();
    let changes = proptest::collection::vec((0..log.len(), any::<u8>()), 1..30);
    runner
        .run(&(changes, 1usize..20_000), |(changes, piece)| {
            let mut damaged = log.clone();
            for (at, byte) in changes {
                damaged[at] = byte;
            }
            decode(&damaged, start, piece);
            Ok(())
        })
        .unwrap();
}
