use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use levee_journal::{
    FindMarks, Identity, LogJournal, Mark, MarkBlock, MarkFinder, MarkKind, TimeCandidate, TimeLookup,
};
use levee_model::Epoch;
use levee_model::postgres::Lsn;

use crate::{START, SYSTEM, TIMELINE, at, lineage, log, open};

fn commit(lsn: u64, second: i64, xid: u32) -> Mark {
    Mark { lsn: Lsn(lsn), time: at(second), kind: MarkKind::Commit { xid } }
}

fn keep(journal: &LogJournal, block: &MarkBlock) {
    journal.keep_marks(SYSTEM, TIMELINE, Epoch(1), lineage(1).segment_size, block).unwrap();
}

fn all(journal: &LogJournal) -> Vec<MarkBlock> {
    journal.marks(SYSTEM, TIMELINE, Lsn(0), Lsn(u64::MAX)).unwrap()
}

/// The marks of this many segments from `START` on, one in each.
fn one_mark_each(segments: u64) -> Vec<MarkBlock> {
    let block = |number| {
        let (start, end) = (START.0 + number * crate::SEGMENT, START.0 + (number + 1) * crate::SEGMENT);
        MarkBlock { start: Lsn(start), end: Lsn(end), marks: vec![commit(end - 8, number as i64, 1)] }
    };
    (0..segments).map(block).collect()
}

/// The one file of marks whose range begins here.
fn file_of(dir: &Path, start: Lsn) -> PathBuf {
    let folder = dir.join(SYSTEM.to_string()).join("00000001");
    let part = format!(".{:016X}-", start.0);
    let mut files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.find(|path| path.extension().is_some_and(|e| e == "marks") && path.to_str().unwrap().contains(&part)).unwrap()
}

#[test]
fn blocks_read_back_and_a_damaged_one_costs_only_itself() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path(), &Identity::generate());
    let mut writer = journal.writer(lineage(1), START).unwrap();
    writer.append(START, &log(START, 3 * crate::SEGMENT as usize)).unwrap();
    drop(writer);
    assert_eq!(all(&journal), []);
    let mut blocks = one_mark_each(3);
    let whole: Vec<_> = blocks.iter().map(|block| (block.start, block.end)).collect();
    assert_eq!(journal.unmarked(SYSTEM, TIMELINE).unwrap(), whole);
    let point = |lsn| Mark { lsn, time: at(2), kind: MarkKind::RestorePoint { name: "before the änderung".into() } };
    // One that could not see how its segment begins, and one with many.
    let early = blocks[1].start;
    blocks[1].start = Lsn(early.0 + 40);
    blocks[1].marks = vec![point(Lsn(early.0 + 50))];
    blocks[2].marks = (0..10_000).map(|n| commit(blocks[2].start.0 + 1 + n / 100, n as i64, n as u32)).collect();
    // In whichever order they come.
    for block in blocks.iter().rev() {
        keep(&journal, block);
    }
    assert_eq!(all(&journal), blocks);
    assert_eq!(journal.unmarked(SYSTEM, TIMELINE).unwrap(), [(early, blocks[1].start)]);

    assert_eq!(journal.marks(SYSTEM, TIMELINE, blocks[0].end, blocks[1].end).unwrap(), blocks[1..2]);

    let path = file_of(dir.path(), blocks[1].start);
    let whole = std::fs::read(&path).unwrap();
    assert!(!whole.windows(6).any(|window| window == b"before"), "names are sealed");
    let without = [blocks[0].clone(), blocks[2].clone()];
    for length in [0, 100, 600, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert_eq!(all(&journal), without, "cut to {length} bytes");
    }
    // Another segment's marks under this one's name.
    std::fs::copy(file_of(dir.path(), blocks[2].start), &path).unwrap();
    assert_eq!(all(&journal), without);
    keep(&journal, &blocks[1]);
    assert_eq!(all(&journal), blocks);
}

#[test]
fn marks_go_with_their_log() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path(), &Identity::generate());
    let mut writer = journal.writer(lineage(1), START).unwrap();
    let size = crate::SEGMENT;
    writer.append(START, &log(START, 4 * size as usize)).unwrap();
    writer.flush().unwrap();
    drop(writer);
    let blocks = one_mark_each(4);
    blocks.iter().for_each(|block| keep(&journal, block));
    journal.trim(SYSTEM, TIMELINE, Lsn(START.0 + 2 * size + 5), &[]).unwrap();
    assert_eq!(all(&journal), blocks[2..]);
    assert_eq!(journal.unmarked(SYSTEM, TIMELINE).unwrap(), []);
}

/// Finds a mark wherever the byte is a multiple of 251, and says how often it was made anew.
struct EveryNow {
    at: Lsn,
    from: Lsn,
}

impl FindMarks for EveryNow {
    fn feed(&mut self, bytes: &[u8], marks: &mut Vec<Mark>) {
        for byte in bytes {
            self.at.0 += 1;
            if self.at.0.is_multiple_of(251) {
                marks.push(commit(self.at.0, i64::from(*byte), 1));
            }
        }
    }

    fn complete_from(&self) -> Option<Lsn> {
        Some(self.from)
    }
}

#[test]
fn a_segment_that_is_closed_brings_its_marks() {
    let dir = tempfile::tempdir().unwrap();
    let made = Arc::new(AtomicUsize::new(0));
    let counted = made.clone();
    let finder: MarkFinder = Arc::new(move |_, start| {
        counted.fetch_add(1, Ordering::Relaxed);
        Box::new(EveryNow { at: start, from: Lsn(start.0 + 100) })
    });
    let journal = open(dir.path(), &Identity::generate()).with_marks(finder);
    let mut writer = journal.writer(lineage(1), START).unwrap();
    let (size, half) = (crate::SEGMENT as usize, crate::SEGMENT as usize / 2);
    let bytes = log(START, 3 * size + half);
    writer.append(START, &bytes).unwrap();
    writer.flush().unwrap();
    drop(writer);
    assert_eq!(all(&journal).len(), 3, "the open tail has none");
    // A writer that comes later can't know what began before it.
    let mut writer = journal.writer(lineage(2), START).unwrap();
    let end = Lsn(START.0 + bytes.len() as u64);
    writer.append(end, &log(end, half + size)).unwrap();
    drop(writer);

    let blocks = all(&journal);
    assert_eq!(blocks.len(), 5);
    let unmarked = journal.unmarked(SYSTEM, TIMELINE).unwrap();
    assert!(!unmarked.is_empty() && unmarked.iter().all(|(from, to)| to.0 - from.0 == 100), "{unmarked:?}");
    assert_eq!((unmarked.len(), made.load(Ordering::Relaxed)), (2, 2), "each writer goes on from segment to segment");
    let found: Vec<u64> = blocks.iter().flat_map(|block| &block.marks).map(|mark| mark.lsn.0).collect();
    let every = (START.0 + 1..=START.0 + 5 * size as u64).filter(|lsn| lsn.is_multiple_of(251));
    let expected: Vec<u64> =
        every.filter(|lsn| !unmarked.iter().any(|(from, to)| from.0 < *lsn && *lsn <= to.0)).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_moment_is_found_or_its_candidates_are_listed() {
    let check = |seconds: &[i64], moment: i64, expected: TimeLookup| {
        let marks: Vec<Mark> =
            seconds.iter().zip(1..).map(|(second, number)| commit(number * 10, *second, number as u32)).collect();
        assert_eq!(TimeLookup::among(&marks, at(moment)), expected, "{seconds:?} at {moment}");
    };
    let candidate = |lsn, second| TimeCandidate { lsn: Lsn(lsn), last_commit: at(second) };
    check(&[], 5, TimeLookup::NoCommits);
    check(&[6, 7], 5, TimeLookup::BeforeFirst { first: at(6) });
    check(&[1, 2, 3], 2, TimeLookup::At(candidate(20, 2)));
    check(&[1, 3, 5], 4, TimeLookup::At(candidate(20, 3)));
    check(&[1, 2, 3], 3, TimeLookup::AfterLast { last: candidate(30, 3) });
    // The clock went from 5 back to 2: moment 3 was there twice.
    check(&[1, 5, 2, 6], 3, TimeLookup::Ambiguous(vec![candidate(10, 1), candidate(30, 2)]));
    check(&[1, 5, 2], 3, TimeLookup::Ambiguous(vec![candidate(10, 1), candidate(30, 2)]));
    check(&[1, 5, 2, 6], 5, TimeLookup::At(candidate(30, 2)));
}
