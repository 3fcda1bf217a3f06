use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use levee_journal::{Error, Identity, LogJournal};
use levee_model::postgres::Lsn;

use crate::{SEGMENT, START, SYSTEM, TIMELINE, check_log, files, lineage, log, open};

fn tail(dir: &Path) -> PathBuf {
    let name = files(dir).into_iter().find(|name| name.ends_with(".tail")).unwrap();
    dir.join(SYSTEM.to_string()).join("00000001").join(name)
}

/// What each record begins with, and how long one of 1000 bytes is.
const RECORD_MAGIC: &[u8] = b"LREC";
const RECORD_BYTES: usize = 48 + 1000 + 16;

/// A journal with three flushes of 1000 bytes, and the end of its last record in the file.
fn three_flushes(dir: &Path, identity: &Identity) -> (LogJournal, u64) {
    let journal = open(dir, identity);
    let mut writer = journal.writer(lineage(1), START).unwrap();
    for _ in 0..3 {
        writer.append(writer.end(), &log(writer.end(), 1000)).unwrap();
        writer.flush().unwrap();
    }
    drop(writer);
    let bytes = fs::read(tail(dir)).unwrap();
    // Not by the zeros behind it: one in 256 records ends with a zero.
    let last = bytes.windows(4).rposition(|window| window == RECORD_MAGIC).unwrap();
    (journal, (last + RECORD_BYTES) as u64)
}

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
}

/// As after a power loss, when the last note had not been written back.
fn set_slot(path: &Path, slot: [u8; 20]) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(&slot, 16).unwrap();
}

#[test]
fn a_torn_end_beyond_the_acknowledged_position_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity::generate();
    let (journal, end) = three_flushes(dir.path(), &identity);
    let acknowledged = Lsn(START.0 + 3000);
    // What a write that was never synced leaves: half a record, a record of zeros, another file's bytes.
    let whole = fs::read(tail(dir.path())).unwrap()[end as usize - 1064..end as usize].to_vec();
    for torn in [&whole[..500], &whole[..20], &vec![0xAA; 3000], &whole[..]] {
        let file = OpenOptions::new().write(true).open(tail(dir.path())).unwrap();
        file.write_all_at(torn, end).unwrap();
        assert_eq!(journal.extent(SYSTEM, TIMELINE).unwrap().unwrap().durable_end, acknowledged);
        check_log(&journal, START, acknowledged);
    }
    let mut writer = journal.writer(lineage(1), START).unwrap();
    assert_eq!(writer.end(), acknowledged);
    writer.append(acknowledged, &log(acknowledged, SEGMENT as usize)).unwrap();
    writer.flush().unwrap();
    drop(writer);
    check_log(&journal, START, Lsn(acknowledged.0 + SEGMENT));
}

#[test]
fn damage_below_the_acknowledged_position_is_a_named_loss() {
    let check = |at_from_end: u64, slot: Option<[u8; 20]>, lost: bool| {
        let dir = tempfile::tempdir().unwrap();
        let (journal, end) = three_flushes(dir.path(), &Identity::generate());
        flip(&tail(dir.path()), end - at_from_end);
        if let Some(slot) = slot {
            set_slot(&tail(dir.path()), slot);
        }
        let result = journal.writer(lineage(1), START).map(|writer| writer.end());
        match (result, lost) {
            (Err(Error::Lost { .. }), true) => {
                assert!(matches!(journal.extent(SYSTEM, TIMELINE), Err(Error::Lost { .. })));
            }
            (Ok(end), false) => assert!(end < Lsn(START.0 + 3000)),
            (result, _) => panic!("{at_from_end} from the end: {result:?}"),
        }
    };
    // In the last flush: only the note at the start of the file knows that it was acknowledged.
    check(10, None, true);
    check(10, Some([0; 20]), false);
    check(10, Some([7; 20]), false);
    // Below it: the flush behind it proves that it was.
    check(1064 + 10, None, true);
    check(1064 + 10, Some([0; 20]), true);
    check(2 * 1064 + 1000, Some([0; 20]), true);
}

/// As when the disk has dropped a write that it had called durable.
#[test]
fn zeros_below_a_later_flush_are_a_named_loss() {
    let check = |from_end: u64, length: usize, lost: bool| {
        let dir = tempfile::tempdir().unwrap();
        let (journal, end) = three_flushes(dir.path(), &Identity::generate());
        set_slot(&tail(dir.path()), [0; 20]);
        let file = OpenOptions::new().write(true).open(tail(dir.path())).unwrap();
        file.write_all_at(&vec![0; length], end - from_end).unwrap();
        let result = journal.writer(lineage(1), START).map(|writer| writer.end());
        assert_eq!(
            matches!(result, Err(Error::Lost { .. })),
            lost,
            "{length} bytes, {from_end} from the end: {result:?}"
        );
    };
    check(2 * 1064, 1064, true);
    check(3 * 1064, 2 * 1064, true);
    // The last flush: nothing shows that it was there.
    check(1064, 1064, false);
}

#[test]
fn a_tail_that_ends_early_below_a_later_one_is_a_named_loss() {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity::generate();
    let journal = open(dir.path(), &identity);
    let mut writer = journal.writer(lineage(1), START).unwrap();
    writer.append(START, &log(START, 1000)).unwrap();
    writer.flush().unwrap();
    let first = tail(dir.path());
    let saved = fs::read(&first).unwrap();
    writer.append(writer.end(), &log(writer.end(), SEGMENT as usize)).unwrap();
    writer.flush().unwrap();
    drop(writer);
    let folder = first.parent().unwrap();
    for name in files(dir.path()).iter().filter(|name| name.ends_with(".zst.age")) {
        fs::remove_file(folder.join(name)).unwrap();
    }
    fs::write(&first, saved).unwrap();
    assert!(matches!(journal.writer(lineage(1), START), Err(Error::Lost { .. })));
}

#[test]
fn a_damaged_closed_segment_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path(), &Identity::generate());
    let mut writer = journal.writer(lineage(1), START).unwrap();
    writer.append(START, &log(START, 2 * SEGMENT as usize)).unwrap();
    writer.flush().unwrap();
    drop(writer);
    let names: Vec<String> = files(dir.path()).into_iter().filter(|name| name.ends_with(".zst.age")).collect();
    let folder = dir.path().join(SYSTEM.to_string()).join("00000001");
    let (first, second) = (folder.join(&names[0]), folder.join(&names[1]));
    let good = fs::read(&first).unwrap();
    for at in [10, 150, 250, good.len() / 2, good.len() - 3] {
        flip(&first, at as u64);
        let error = journal.segment(SYSTEM, TIMELINE, START).err();
        assert!(
            matches!(error, Some(Error::Damaged { .. } | Error::WrongIdentity { .. })),
            "flipped at {at}: {error:?}"
        );
        fs::write(&first, &good).unwrap();
    }
    for length in [0, 100, good.len() / 2, good.len() - 1] {
        fs::write(&first, &good[..length]).unwrap();
        assert!(matches!(journal.segment(SYSTEM, TIMELINE, START), Err(Error::Damaged { .. })), "cut at {length}");
    }
    // Another segment under this name.
    fs::copy(&second, &first).unwrap();
    assert!(matches!(journal.segment(SYSTEM, TIMELINE, START), Err(Error::Damaged { .. })));
}
