//! Copies of a journal that is being written.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use levee_journal::{Identity, KeepRange, LogJournal, Result, SegmentPlace};
use levee_model::postgres::Lsn;

use crate::{SEGMENT, START, SYSTEM, TIMELINE, check_log, keys, lineage, log, open};

/// Copies a journal's files, and says which segments they hold.
fn copy(journal: &LogJournal, target: &Path) -> Result<BTreeSet<SegmentPlace>> {
    let mut segments = BTreeSet::new();
    for mut file in journal.files_to_copy()? {
        let path = target.join(&file.path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let bytes = io::copy(&mut file.open()?, &mut File::create(&path).unwrap()).unwrap();
        assert_eq!(bytes, file.size_bytes, "{}", path.display());
        assert_eq!(SegmentPlace::of(&file.path), file.segment, "{}", path.display());
        segments.extend(file.segment);
    }
    Ok(segments)
}

fn place(segment: u64, is_closed: bool) -> SegmentPlace {
    let (start, end) = (Lsn(segment * SEGMENT), Lsn((segment + 1) * SEGMENT));
    SegmentPlace { system_identifier: SYSTEM, timeline: TIMELINE, start, end: is_closed.then_some(end) }
}

#[test]
fn a_copy_beside_the_writer_holds_everything_that_was_durable() {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity::generate();
    let journal = open(dir.path(), &identity);
    journal.put_history(SYSTEM, TIMELINE, b"").unwrap();
    drop(journal.writer(lineage(1), START).unwrap());
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = journal.writer_at_end(lineage(1), START).unwrap();
            let mut turn = 0;
            while !is_done.load(Ordering::Relaxed) {
                turn += 1;
                if turn % 100 == 0 {
                    // As after a crash: what comes next is a run of its own.
                    drop(writer);
                    writer = journal.writer_at_end(lineage(1), START).unwrap();
                }
                writer.append(writer.end(), &log(writer.end(), 40_000 + turn % 7 * 1000)).unwrap();
                writer.flush().unwrap();
            }
        });
        let mut kinds = BTreeSet::new();
        for _ in 0..40 {
            let target = tempfile::tempdir().unwrap();
            let before = journal.extent(SYSTEM, TIMELINE).unwrap().unwrap().durable_end;
            let segments = copy(&journal, target.path()).unwrap();
            kinds.extend(segments.iter().map(|segment| segment.end.is_some()));
            let copied = LogJournal::open_existing(target.path(), keys(&identity)).unwrap();
            let extents = copied.extents(SYSTEM, TIMELINE).unwrap();
            assert_eq!(extents.len(), 1, "{extents:?}");
            assert!(extents[0].start == START && extents[0].durable_end >= before, "{extents:?} and {before}");
            check_log(&copied, START, extents[0].durable_end);
            assert_eq!(copied.history(SYSTEM, TIMELINE).unwrap().as_deref(), Some(&b""[..]));
        }
        is_done.store(true, Ordering::Relaxed);
        assert_eq!(kinds.len(), 2, "closed segments and tails were copied");
    });
}

#[test]
fn what_trimming_took_is_told_from_what_is_lost() {
    let range = [KeepRange { start: Lsn(2 * SEGMENT + 10), stop: Lsn(3 * SEGMENT) }];
    let check = |segment: u64, is_trimmed: bool| {
        let of = |is_closed| place(segment, is_closed).is_trimmed(Lsn(5 * SEGMENT + 1), &range, SEGMENT);
        assert_eq!((of(true), of(false)), (is_trimmed, is_trimmed), "{segment}");
    };
    check(1, true);
    check(2, false);
    check(3, false);
    check(4, true);
    check(5, false);
    check(9, false);
    let names = [
        "7/00000001/000000010000000000000003.0000000000300000.marks",
        "7/epoch",
        "epoch",
        "7/x/a.tail",
        "7/00000001/a/b.tail",
    ];
    assert!(names.iter().all(|name| SegmentPlace::of(Path::new(name)).is_none()));
}
