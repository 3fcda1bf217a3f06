//! Targets by time, transaction and name are found by the marks that are kept, not by reading the log through.

use std::fs;
use std::path::PathBuf;

use levee_database::Error;
use levee_database::postgres::marks;
use levee_database::postgres::restore::RecoveryTarget;
use levee_journal::{LogJournal, MarkBlock};
use levee_model::Epoch;
use levee_model::postgres::{Lsn, SystemIdentifier, TimelineId};
use levee_testing::postgres::Cluster;

use crate::restoring::{Archiving, RecoverySide};

const TIMELINE: TimelineId = TimelineId(1);

/// The files of a timeline whose names end so, by ascending start.
fn files(journal: &LogJournal, system: SystemIdentifier, suffix: &str) -> Vec<PathBuf> {
    let folder = journal.dir().join(system.to_string()).join("00000001");
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.to_str().unwrap().ends_with(suffix)).collect();
    files.sort();
    files
}

#[test]
fn a_target_by_time_reads_no_log_whose_marks_are_kept() {
    let cluster = Cluster::builder().start();
    cluster.psql("create table t (n int)");
    let mut side = RecoverySide::new();
    side.journal = side.journal.clone().with_marks(marks::finder());
    let system: SystemIdentifier = cluster.psql("select system_identifier from pg_control_system()").parse().unwrap();
    let archiving = Archiving::start(&cluster, &side.journal);
    let base = side.base(&cluster);
    let (mut times, mut transactions) = (Vec::new(), Vec::new());
    for number in 0..5 {
        let insert = format!(
            "with i as (insert into t values ({number})) select pg_current_xact_id()::text::bigint % 4294967296"
        );
        transactions.push(cluster.psql(&insert).parse::<u32>().unwrap());
        cluster.psql(&format!("select pg_create_restore_point('point {number}')"));
        let micros: i64 =
            cluster.psql("select (extract(epoch from clock_timestamp())*1000000)::bigint").parse().unwrap();
        times.push(jiff::Timestamp::from_microsecond(micros).unwrap());
        cluster.switch_wal();
    }
    cluster.psql("insert into t values (5)");
    let end: Lsn = cluster.psql("select pg_current_wal_lsn()").parse().unwrap();
    side.wait_durable(system, TIMELINE, end);
    // The end of the archive closes what is full.
    drop(archiving);

    let kept = || side.journal.marks(system, TIMELINE, Lsn(0), Lsn(u64::MAX)).unwrap();
    let blocks: Vec<MarkBlock> = kept();
    let closed = files(&side.journal, system, ".zst.age");
    assert!(closed.len() >= 5 && blocks.len() == closed.len(), "{} of {}", blocks.len(), closed.len());

    // A segment between the base and the target that nobody can read any more.
    let damaged = &closed[closed.len() - 3];
    let whole = fs::read(damaged).unwrap();
    fs::write(damaged, &whole[..whole.len() / 2]).unwrap();
    let targets = [
        RecoveryTarget::Time(times[4]),
        RecoveryTarget::Xid { xid: transactions[4], inclusive: true },
        RecoveryTarget::Name("point 4".into()),
    ];
    let ends: Vec<Lsn> = targets.iter().map(|target| side.plan(target).unwrap().end).collect();
    assert!(ends[0] == ends[1] && ends[2] > ends[1] && ends[1] > base.facts.stop, "{ends:?}");

    // Without its marks that segment has to be read, and no other.
    let marks_of_damaged = &files(&side.journal, system, ".marks")[closed.len() - 3];
    let marks = fs::read(marks_of_damaged).unwrap();
    fs::remove_file(marks_of_damaged).unwrap();
    for target in &targets {
        assert!(matches!(side.plan(target), Err(Error::Journal { .. })), "{target}");
    }
    fs::write(marks_of_damaged, marks).unwrap();
    assert_eq!(kept(), blocks);
    fs::write(damaged, whole).unwrap();

    // What is missing is found again from the log, and says the same.
    files(&side.journal, system, ".marks").iter().for_each(|path| fs::remove_file(path).unwrap());
    assert_eq!(targets.iter().map(|target| side.plan(target).unwrap().end).collect::<Vec<_>>(), ends);
    let segment_size = base.facts.segment_size;
    let log = marks::Log { journal: &side.journal, system_identifier: system, timeline: TIMELINE, segment_size };
    let found = std::iter::repeat_with(|| log.index_one(Epoch(1)).unwrap()).take_while(|found| *found).count();
    assert_eq!(found, closed.len());
    let all = |blocks: &[MarkBlock]| blocks.iter().flat_map(|block| block.marks.clone()).collect::<Vec<_>>();
    assert_eq!(all(&kept()), all(&blocks));
    assert_eq!(side.journal.unmarked(system, TIMELINE).unwrap(), []);
}
