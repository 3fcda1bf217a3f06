use levee_journal::{Identity, KeepRange, LogJournal, Pin};
use levee_model::postgres::{Lsn, TimelineId};

use crate::{SEGMENT, START, SYSTEM, TIMELINE, check_log, lineage, log, open};

const SEGMENTS: u64 = 6;

fn six_segments(dir: &std::path::Path) -> LogJournal {
    let journal = open(dir, &Identity::generate());
    let mut writer = journal.writer(lineage(1), START).unwrap();
    writer.append(START, &log(START, (SEGMENTS * SEGMENT) as usize + 100)).unwrap();
    writer.flush().unwrap();
    drop(writer);
    journal
}

fn segment(number: u64) -> Lsn {
    Lsn(START.0 + number * SEGMENT)
}

fn ranges(journal: &LogJournal) -> Vec<(u64, u64)> {
    let number = |lsn: Lsn| lsn.bytes_since(START) / SEGMENT;
    let extents = journal.extents(SYSTEM, TIMELINE).unwrap();
    extents.iter().map(|extent| (number(extent.start), number(extent.durable_end))).collect()
}

#[test]
fn trimming_removes_whole_segments_below_the_position_and_nothing_else() {
    let check = |keep_from: Lsn, keep: &[KeepRange], expected: &[(u64, u64)]| {
        let dir = tempfile::tempdir().unwrap();
        let journal = six_segments(dir.path());
        let report = journal.trim(SYSTEM, TIMELINE, keep_from, keep).unwrap();
        assert_eq!(ranges(&journal), expected, "from {keep_from} with {keep:?}");
        let kept: u64 = expected.iter().map(|(start, end)| end - start).sum();
        assert_eq!(report.segments, SEGMENTS - kept);
        assert_eq!(journal.trim(SYSTEM, TIMELINE, keep_from, keep).unwrap().segments, 0);
        let end = journal.extent(SYSTEM, TIMELINE).unwrap().unwrap().durable_end;
        check_log(&journal, segment(expected.last().unwrap().0), end);
    };
    check(START, &[], &[(0, 6)]);
    check(segment(2), &[], &[(2, 6)]);
    check(Lsn(segment(3).0 - 1), &[], &[(2, 6)]);
    check(Lsn(u64::MAX), &[], &[(6, 6)]);
    // A kept base from before the window keeps its own start and stop.
    let base = KeepRange { start: Lsn(segment(1).0 + 10), stop: Lsn(segment(1).0 + 500) };
    check(segment(4), &[base], &[(1, 2), (4, 6)]);
    let over_an_edge = KeepRange { start: Lsn(segment(1).0 + 10), stop: segment(2) };
    check(segment(4), &[over_an_edge], &[(1, 3), (4, 6)]);
}

#[test]
fn a_pin_holds_the_log_back_until_it_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let journal = six_segments(dir.path());
    let pin = Pin { system_identifier: SYSTEM, timeline: TIMELINE, from: Lsn(segment(1).0 + 5) };
    journal.pin("base under way", pin).unwrap();
    journal.pin("elsewhere", Pin { timeline: TimelineId(9), from: Lsn(0), ..pin }).unwrap();
    journal.trim(SYSTEM, TIMELINE, segment(4), &[]).unwrap();
    assert_eq!(ranges(&journal), [(1, 6)]);
    assert_eq!(journal.pins().unwrap().len(), 2);
    journal.unpin("base under way").unwrap();
    journal.unpin("base under way").unwrap();
    journal.trim(SYSTEM, TIMELINE, segment(4), &[]).unwrap();
    assert_eq!(ranges(&journal), [(4, 6)]);
}
