use levee_journal::{Identity, Mark, MarkBlock, MarkKind, MarkedRange, TimeCandidate, TimeLookup};
use levee_model::Epoch;
use levee_model::postgres::Lsn;

use crate::{START, SYSTEM, TIMELINE, at, lineage, log, open};

fn commit(lsn: u64, second: i64, xid: u32) -> Mark {
    Mark { lsn: Lsn(lsn), time: at(second), kind: MarkKind::Commit { xid } }
}

#[test]
fn blocks_read_back_and_a_torn_one_costs_only_itself() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path(), &Identity::generate());
    assert_eq!(journal.marked(SYSTEM, TIMELINE).unwrap(), None);
    let block = |from: u64, to: u64, marks| MarkBlock { start: Lsn(from), end: Lsn(to), marks };
    let point =
        Mark { lsn: Lsn(50), time: at(2), kind: MarkKind::RestorePoint { name: "before the änderung".into() } };
    let blocks = [
        block(0, 100, vec![commit(10, 1, 700), point, commit(90, 3, u32::MAX)]),
        block(100, 200, vec![]),
        block(200, 300, (0..10_000).map(|n| commit(200 + n / 100, n as i64, n as u32)).collect()),
    ];
    for block in &blocks {
        journal.append_marks(SYSTEM, TIMELINE, Epoch(1), block).unwrap();
    }
    assert_eq!(journal.marks(SYSTEM, TIMELINE).unwrap(), blocks);
    assert_eq!(journal.marked(SYSTEM, TIMELINE).unwrap(), Some(MarkedRange { start: Lsn(0), end: Lsn(300) }));
    let path = dir.path().join(SYSTEM.to_string()).join("00000001/marks");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 5]).unwrap();
    assert_eq!(journal.marks(SYSTEM, TIMELINE).unwrap(), blocks[..2]);
    journal.append_marks(SYSTEM, TIMELINE, Epoch(1), &blocks[2]).unwrap();
    assert_eq!(journal.marks(SYSTEM, TIMELINE).unwrap(), blocks);
    assert!(!whole.windows(6).any(|window| window == b"before"), "names are sealed");
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
    for number in 0..4 {
        let (start, end) = (START.0 + number * size, START.0 + (number + 1) * size);
        let block = MarkBlock { start: Lsn(start), end: Lsn(end), marks: vec![commit(end - 8, number as i64, 1)] };
        journal.append_marks(SYSTEM, TIMELINE, Epoch(1), &block).unwrap();
    }
    journal.trim(SYSTEM, TIMELINE, Lsn(START.0 + 2 * size + 5), &[]).unwrap();
    let range = journal.marked(SYSTEM, TIMELINE).unwrap();
    assert_eq!(range, Some(MarkedRange { start: Lsn(START.0 + 2 * size), end: Lsn(START.0 + 4 * size) }));
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
