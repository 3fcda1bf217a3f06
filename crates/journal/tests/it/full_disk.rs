use levee_journal::{Error, Identity};
use levee_model::postgres::Lsn;
use levee_testing::disk::SmallDisk;
use levee_testing::random::noise;

use crate::{SEGMENT, START, SYSTEM, TIMELINE, lineage, log, open};

#[test]
fn a_full_disk_acknowledges_nothing_and_goes_on_when_there_is_room() {
    if !SmallDisk::is_possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let _disk = SmallDisk::mount(folder.path(), 6);
    let identity = Identity::generate();
    let journal = open(&folder.path().join("journal"), &identity);
    let mut acknowledged = START;
    let ballast = folder.path().join("ballast");
    std::fs::write(&ballast, vec![1; 2 << 20]).unwrap();
    let mut writer = journal.writer(lineage(1), START).unwrap();
    let error = loop {
        let from = writer.end();
        // Closing a segment is to give no room back.
        match writer.append(from, &noise(from.0, 60_000)).and_then(|()| writer.flush()) {
            Ok(end) => acknowledged = end,
            Err(error) => break error,
        }
        assert!(writer.end() < Lsn(START.0 + 20 * SEGMENT), "the disk was never full");
    };
    assert!(matches!(error, Error::Full { .. }), "{error}");
    drop(writer);
    let durable = journal.extent(SYSTEM, TIMELINE).unwrap().unwrap().durable_end;
    assert!(durable >= acknowledged, "{durable} {acknowledged}");
    std::fs::remove_file(&ballast).unwrap();
    let mut writer = journal.writer(lineage(1), START).unwrap();
    assert!(writer.end() >= acknowledged);
    writer.append(writer.end(), &log(writer.end(), 1000)).unwrap();
    writer.flush().unwrap();
}
