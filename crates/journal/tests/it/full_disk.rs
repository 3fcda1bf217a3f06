use std::process::Command;

use levee_journal::{Error, Identity};
use levee_model::postgres::Lsn;

use crate::{SEGMENT, START, SYSTEM, TIMELINE, lineage, log, open};

struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// A file system of 6 MiB; `None` where mounting is not allowed.
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=6m", "tmpfs"]).arg(dir.path()).output();
        mount.is_ok_and(|output| output.status.success()).then_some(Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_acknowledges_nothing_and_goes_on_when_there_is_room() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("skipped: mounting a small file system needs root");
        return;
    };
    let identity = Identity::generate();
    let journal = open(&disk.0.path().join("journal"), &identity);
    let mut acknowledged = START;
    let ballast = disk.0.path().join("ballast");
    std::fs::write(&ballast, vec![1; 2 << 20]).unwrap();
    let mut writer = journal.writer(lineage(1), START).unwrap();
    let error = loop {
        let from = writer.end();
        let size = 60_000;
        match writer.append(from, &incompressible(from, size)).and_then(|()| writer.flush()) {
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

/// Pseudo-random, so that closing a segment gives no room back.
fn incompressible(from: Lsn, length: usize) -> Vec<u8> {
    let mut state = from.0 | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}
