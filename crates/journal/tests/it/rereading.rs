use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

use levee_journal::{ClosedSegment, Identity, LogJournal, RereadSegment};
use levee_model::postgres::Lsn;

use crate::{SEGMENT, START, lineage, log, open};

fn with_segments(journal: &LogJournal, count: u64) -> Vec<ClosedSegment> {
    let mut writer = journal.writer(lineage(1), START).unwrap();
    writer.append(START, &log(START, (count * SEGMENT) as usize + 100)).unwrap();
    writer.flush().unwrap();
    drop(writer);
    journal.closed_segments().unwrap()
}

#[test]
fn every_closed_segment_is_listed_and_sound_and_the_tail_is_not_among_them() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path(), &Identity::generate());
    let segments = with_segments(&journal, 3);
    let starts: Vec<Lsn> = segments.iter().map(|segment| segment.start).collect();
    assert_eq!(starts, [0, 1, 2].map(|number| Lsn(START.0 + number * SEGMENT)));
    for segment in &segments {
        assert_eq!(segment.size_bytes, fs::metadata(&segment.path).unwrap().len());
        assert_eq!(journal.reread(segment).unwrap(), RereadSegment::Sound);
    }
    fs::remove_file(&segments[1].path).unwrap();
    assert_eq!(journal.reread(&segments[1]).unwrap(), RereadSegment::Gone);
}

/// Also those that no reader of the log needs: the key's envelope, the table behind the log, the end.
#[test]
fn a_bit_that_has_flipped_anywhere_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path(), &Identity::generate());
    let segment = with_segments(&journal, 1).remove(0);
    let whole = fs::read(&segment.path).unwrap();
    let last = whole.len() - 1;
    for at in [0, 30, 100, 200, 250, 400, 1000, whole.len() / 2, last - 40, last] {
        let file = OpenOptions::new().write(true).open(&segment.path).unwrap();
        file.write_all_at(&[whole[at] ^ 0x10], at as u64).unwrap();
        let found = journal.reread(&segment).unwrap();
        assert!(matches!(found, RereadSegment::Damaged { .. }), "byte {at} of {last}: {found:?}");
        file.write_all_at(&[whole[at]], at as u64).unwrap();
    }
    let file = OpenOptions::new().write(true).open(&segment.path).unwrap();
    file.set_len(last as u64).unwrap();
    assert!(matches!(journal.reread(&segment).unwrap(), RereadSegment::Damaged { .. }));
    fs::write(&segment.path, &whole).unwrap();
    assert_eq!(journal.reread(&segment).unwrap(), RereadSegment::Sound);
}
