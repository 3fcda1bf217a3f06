use std::sync::atomic::{AtomicBool, Ordering};

use levee_journal::{Error, Identity, LogJournal};
use levee_model::postgres::{Lsn, SystemIdentifier, TimelineId};

use crate::{SEGMENT, START, SYSTEM, TIMELINE, at, check_log, files, keys, lineage, log, open};

#[test]
fn what_is_flushed_is_read_back_across_segments_and_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity::generate();
    let journal = open(dir.path(), &identity);
    let mut end = START;
    // Sizes that end inside, at and behind the ends of segments and of records.
    for sizes in [vec![1, 100, 8192], vec![SEGMENT as usize], vec![300_000, 700_000, 900_000], vec![]] {
        let mut writer = journal.writer(lineage(1), START).unwrap();
        assert_eq!((writer.end(), writer.durable()), (end, end));
        for size in sizes {
            writer.append(end, &log(end, size)).unwrap();
            end = Lsn(end.0 + size as u64);
            assert_eq!(writer.flush().unwrap(), end);
            let extent = open(dir.path(), &identity).extent(SYSTEM, TIMELINE).unwrap().unwrap();
            assert_eq!((extent.start, extent.durable_end), (START, end));
        }
        drop(writer);
        check_log(&journal, START, end);
        check_log(&journal, Lsn(START.0 + 7001), end);
    }
    let segments = end.bytes_since(START) / SEGMENT;
    let names = files(dir.path());
    assert_eq!(names.iter().filter(|name| name.ends_with(".zst.age")).count() as u64, segments, "{names:?}");
    assert_eq!(names.iter().filter(|name| name.ends_with(".tail")).count(), 1, "{names:?}");
    check_log(&journal, end, end);
    let missing = journal.reader(SYSTEM, TIMELINE, Lsn(end.0 + 1)).err().unwrap();
    assert!(matches!(missing, Error::NotHere { .. }), "{missing}");
    assert_eq!(journal.lineages().unwrap(), [(SYSTEM, TIMELINE)]);
}

#[test]
fn a_writer_without_an_identity_can_go_on_with_what_another_left() {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity::generate();
    let blind = LogJournal::open(
        dir.path(),
        levee_journal::JournalKeys { identity: None, recipients: vec![identity.recipient()] },
    )
    .unwrap();
    let half = SEGMENT / 2 + 1;
    for round in 0..4 {
        let from = Lsn(START.0 + round * half);
        let mut writer = blind.writer(lineage(1), START).unwrap();
        writer.append(from, &log(from, half as usize)).unwrap();
        writer.flush().unwrap();
    }
    // A segment of two runs stays a tail until somebody with the identity opens a writer.
    let journal = open(dir.path(), &identity);
    check_log(&journal, START, Lsn(START.0 + 4 * half));
    drop(journal.writer(lineage(1), START).unwrap());
    check_log(&journal, START, Lsn(START.0 + 4 * half));
    assert_eq!(files(dir.path()).iter().filter(|name| name.ends_with(".zst.age")).count(), 2);
    assert!(matches!(blind.segment(SYSTEM, TIMELINE, START), Err(Error::NoIdentity { .. })));
    let stranger = open(dir.path(), &Identity::generate());
    assert!(matches!(stranger.segment(SYSTEM, TIMELINE, START), Err(Error::WrongIdentity { .. })));
}

#[test]
fn segments_are_served_whole_or_padded() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path(), &Identity::generate());
    let mut writer = journal.writer(lineage(1), Lsn(START.0 + 5000)).unwrap();
    assert_eq!(writer.end(), START, "a new journal begins with a whole segment");
    writer.append(START, &log(START, SEGMENT as usize + 10)).unwrap();
    writer.flush().unwrap();
    writer.append(writer.end(), b"not flushed").unwrap();
    let first = journal.segment(SYSTEM, TIMELINE, START).unwrap().unwrap();
    assert!(first.complete && first.bytes == log(START, SEGMENT as usize));
    let next = Lsn(START.0 + SEGMENT);
    let second = journal.segment(SYSTEM, TIMELINE, next).unwrap().unwrap();
    assert!(!second.complete);
    assert_eq!((second.bytes.len() as u64, second.log_bytes), (SEGMENT, 10));
    assert_eq!(second.bytes[..10], log(next, 10));
    assert!(second.bytes[10..].iter().all(|byte| *byte == 0));
    assert!(journal.segment(SYSTEM, TIMELINE, Lsn(next.0 + SEGMENT)).unwrap().is_none());
    assert!(journal.segment(SYSTEM, TimelineId(2), START).unwrap().is_none());
}

#[test]
fn gaps_and_foreign_lineages_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path(), &Identity::generate());
    let mut writer = journal.writer(lineage(1), START).unwrap();
    writer.append(START, &log(START, 1000)).unwrap();
    let end = writer.flush().unwrap();
    let error = writer.append(Lsn(end.0 + 8), b"too far").unwrap_err();
    assert!(matches!(error, Error::Gap { expected, .. } if expected == end), "{error}");
    writer.append(end, &log(end, 8)).unwrap();
    let end = writer.flush().unwrap();

    let error = journal.writer(lineage(1), START).err().unwrap();
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    drop(writer);
    let far = Lsn(START.0 + 3 * SEGMENT + 77);
    let error = journal.writer(lineage(1), far).err().unwrap();
    assert!(matches!(error, Error::Gap { expected, found, .. } if (expected, found) == (end, far)), "{error}");
    let foreign = levee_journal::Lineage { system_identifier: SystemIdentifier(1), ..lineage(1) };
    let error = journal.writer(foreign, START).err().unwrap();
    assert!(matches!(error, Error::UnknownLineage { .. }), "{error}");

    // Accepted, the gap stays visible.
    let mut writer = journal.writer_after_gap(lineage(1), far).unwrap();
    let aligned = Lsn(START.0 + 3 * SEGMENT);
    writer.append(aligned, &log(aligned, 500)).unwrap();
    writer.flush().unwrap();
    drop(writer);
    let extents = journal.extents(SYSTEM, TIMELINE).unwrap();
    let ranges: Vec<_> = extents.iter().map(|extent| (extent.start, extent.durable_end)).collect();
    assert_eq!(ranges, [(START, end), (aligned, Lsn(aligned.0 + 500))]);
    check_log(&journal, START, end);
    check_log(&journal, aligned, Lsn(aligned.0 + 500));
    assert_eq!(journal.writer(lineage(1), START).unwrap().end(), Lsn(aligned.0 + 500));
}

#[test]
fn the_age_of_the_recovery_point_outlives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path(), &Identity::generate());
    let as_of = || journal.extent(SYSTEM, TIMELINE).unwrap().unwrap().as_of;
    let mut writer = journal.writer(lineage(1), START).unwrap();
    writer.append(START, &log(START, 100)).unwrap();
    writer.note_source_time(Lsn(START.0 + 100), at(10));
    writer.note_source_time(Lsn(START.0 + 5000), at(20));
    writer.flush().unwrap();
    assert_eq!((writer.as_of(), as_of()), (Some(at(10)), Some(at(10))), "what lies ahead does not count");
    // An idle source keeps its point young without any log.
    writer.append(writer.end(), &log(writer.end(), 4900)).unwrap();
    writer.flush().unwrap();
    writer.note_source_time(writer.end(), at(25));
    writer.flush().unwrap();
    drop(writer);
    assert_eq!(as_of(), Some(at(25)));
    let writer = journal.writer(lineage(1), START).unwrap();
    assert_eq!(writer.as_of(), Some(at(25)));
    drop(writer);
    // And over the end of a segment.
    let mut writer = journal.writer(lineage(1), START).unwrap();
    let rest = SEGMENT as usize - 5000;
    writer.append(writer.end(), &log(writer.end(), rest)).unwrap();
    writer.flush().unwrap();
    drop(writer);
    assert_eq!(as_of(), Some(at(25)));
}

#[test]
fn a_new_timeline_follows_its_parent() {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity::generate();
    let journal = open(dir.path(), &identity);
    let mut writer = journal.writer(lineage(1), START).unwrap();
    writer.append(START, &log(START, 1000)).unwrap();
    let end = writer.flush().unwrap();
    drop(writer);
    let second = levee_journal::Lineage { timeline: TimelineId(2), ..lineage(2) };
    let history = |switch: Lsn| format!("1\t{switch}\tno recovery target specified\n").into_bytes();
    let other = open(dir.path(), &identity);
    other.put_history(SYSTEM, TimelineId(3), &history(Lsn(end.0 + 1))).unwrap();
    let third = levee_journal::Lineage { timeline: TimelineId(3), ..lineage(2) };
    assert!(matches!(other.writer(third, START), Err(Error::Gap { .. })), "its parent's log is incomplete");

    journal.put_history(SYSTEM, TimelineId(2), &history(end)).unwrap();
    journal.put_history(SYSTEM, TimelineId(2), &history(end)).unwrap();
    assert!(matches!(journal.put_history(SYSTEM, TimelineId(2), &history(START)), Err(Error::HistoryConflict { .. })));
    assert_eq!(journal.history(SYSTEM, TimelineId(2)).unwrap(), Some(history(end)));
    let mut writer = journal.writer(second, end).unwrap();
    assert_eq!(writer.end(), START);
    writer.append(START, &log(START, 2000)).unwrap();
    writer.flush().unwrap();
    assert_eq!(journal.extent(SYSTEM, TIMELINE).unwrap().unwrap().durable_end, end);
    assert_eq!(journal.extent(SYSTEM, TimelineId(2)).unwrap().unwrap().durable_end, Lsn(START.0 + 2000));
}

#[test]
fn a_reader_in_another_process_sees_only_what_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity::generate();
    let journal = open(dir.path(), &identity);
    let mut writer = journal.writer(lineage(1), START).unwrap();
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let reader = LogJournal::open_existing(dir.path(), keys(&identity)).unwrap();
            let mut seen = START;
            while seen < Lsn(START.0 + 3 * SEGMENT) {
                let extent = reader.extent(SYSTEM, TIMELINE).unwrap().unwrap();
                assert!(extent.durable_end >= seen, "what was durable stays so");
                let from = START.max(Lsn(extent.durable_end.0.saturating_sub(200_000)));
                let mut log_reader = reader.reader(SYSTEM, TIMELINE, from).unwrap();
                while let Some((lsn, part)) = log_reader.next_part().unwrap() {
                    assert!(part == log(lsn, part.len()), "wrong log at {lsn}");
                }
                assert!(log_reader.position() >= extent.durable_end);
                seen = extent.durable_end;
            }
        });
        while writer.end() < Lsn(START.0 + 3 * SEGMENT) {
            let size = 1 + (writer.end().0 % 40_000) as usize;
            writer.append(writer.end(), &log(writer.end(), size)).unwrap();
            writer.flush().unwrap();
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        reading.join().unwrap();
    });
}

/// A writer that goes on with a tail cuts what is behind its last flush, and makes room anew.
#[test]
fn a_reader_beside_writers_that_come_and_go_always_finds_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity::generate();
    let journal = open(dir.path(), &identity);
    drop(journal.writer(lineage(1), START).unwrap());
    struct DoneAtEnd<'a>(&'a AtomicBool);
    impl Drop for DoneAtEnd<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Also when a writer panics.
        let _done = DoneAtEnd(&is_done);
        scope.spawn(|| {
            let reader = LogJournal::open_existing(dir.path(), keys(&identity)).unwrap();
            let mut seen = START;
            while !is_done.load(Ordering::Relaxed) {
                let end = reader.extent(SYSTEM, TIMELINE).unwrap().unwrap().durable_end;
                assert!(end >= seen, "what was durable stays so");
                seen = end;
            }
        });
        for _ in 0..100 {
            let mut writer = journal.writer_at_end(lineage(1), START).unwrap();
            writer.append(writer.end(), &log(writer.end(), 1000)).unwrap();
            writer.flush().unwrap();
        }
    });
}

/// The writer of this process tells what any other reader finds on the disk.
#[test]
fn the_writers_own_word_is_what_the_disk_says() {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity::generate();
    let (journal, other) = (open(dir.path(), &identity), open(dir.path(), &identity));
    let check = |end: Lsn, as_of| {
        let told = journal.extent(SYSTEM, TIMELINE).unwrap().unwrap();
        assert_eq!(told, other.extent(SYSTEM, TIMELINE).unwrap().unwrap());
        assert_eq!((told.start, told.durable_end, told.as_of), (START, end, as_of));
        check_log(&journal, START, end);
    };
    let mut writer = journal.writer(lineage(1), START).unwrap();
    for size in [1000, SEGMENT as usize - 1000, 1, SEGMENT as usize, 77] {
        let end = Lsn(writer.end().0 + size as u64);
        writer.append(writer.end(), &log(writer.end(), size)).unwrap();
        writer.note_source_time(end, at(size as i64));
        check(writer.durable(), writer.as_of());
        writer.flush().unwrap();
        check(end, writer.as_of());
    }
    // Without a flush nothing of it counts, and with the writer gone the disk alone does.
    let durable = writer.durable();
    writer.append(durable, &log(durable, 500)).unwrap();
    check(durable, writer.as_of());
    let as_of = writer.as_of();
    drop(writer);
    check(durable, as_of);
}

#[test]
fn a_writer_goes_on_at_the_end_wherever_the_source_begins() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path(), &Identity::generate());
    let far = Lsn(START.0 + 5 * SEGMENT + 9);
    let mut writer = journal.writer_at_end(lineage(1), Lsn(START.0 + 9)).unwrap();
    assert_eq!(writer.end(), START, "a new journal begins with the source's segment");
    for size in [300, SEGMENT as usize - 300] {
        let end = writer.end();
        writer.append(end, &log(end, size)).unwrap();
        let end = writer.flush().unwrap();
        drop(writer);
        writer = journal.writer_at_end(lineage(1), far).unwrap();
        assert_eq!(writer.end(), end);
    }
}
