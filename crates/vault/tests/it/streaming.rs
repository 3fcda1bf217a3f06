use std::io::{self, Read};
use std::path::Path;

use jiff::Timestamp;
use levee_vault::{Chunking, Error, NodeMeta, RestoreOptions, SnapshotOptions, SnapshotWriter};

use crate::support::*;

const PAGES: Chunking = Chunking::Pages { chunk_bytes: 131_072 };

#[test]
fn a_stream_becomes_a_snapshot_that_restic_restores() {
    let scratch = Scratch::new();
    let vault = scratch.init();
    let time: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
    let options = SnapshotOptions {
        host: Some("db".into()),
        tags: vec!["base".into()],
        paths: vec!["/base".into()],
        time: Some(time),
        ..Default::default()
    };
    let mut writer = SnapshotWriter::begin(&vault, options).unwrap();
    let meta = NodeMeta { uid: 7, gid: 8, ..NodeMeta::new(0o600, time) };
    let table = noise(3_000_000, 5);
    assert_eq!(writer.file(Path::new("base/1/1259"), &meta, &mut &table[..], PAGES).unwrap(), 3_000_000);
    writer.symlink(Path::new("pg_tblspc/16384"), Path::new("/elsewhere"), &meta).unwrap();
    writer.file(Path::new("PG_VERSION"), &meta, &mut &b"15\n"[..], Chunking::Content).unwrap();
    writer.directory(Path::new("base/1"), &NodeMeta::new(0o700, time)).unwrap();
    writer.file(Path::new("empty"), &meta, &mut io::empty(), PAGES).unwrap();
    let twice = writer.file(Path::new("PG_VERSION"), &meta, &mut io::empty(), PAGES);
    assert!(matches!(twice, Err(Error::InvalidPath { .. })));
    for bad in ["../x", "/x", "", "PG_VERSION/x"] {
        assert!(matches!(writer.directory(Path::new(bad), &meta), Err(Error::InvalidPath { .. })) || bad.is_empty());
        assert!(matches!(writer.symlink(Path::new(bad), Path::new("y"), &meta), Err(Error::InvalidPath { .. })));
    }
    let summary = writer.finish().unwrap();
    assert_eq!((summary.total_files, summary.total_bytes, summary.data_blobs), (3, 3_000_003, 24));
    let id = summary.snapshot_id.unwrap();
    let snapshot = vault.read_snapshot(&id).unwrap();
    assert_eq!((snapshot.hostname.as_str(), snapshot.time), ("db", time));
    assert_eq!(vault.read_file(&id, Path::new("base/1/1259")).unwrap(), table);

    scratch.restic(&["check", "--read-data"]);
    let (ours, theirs) = (scratch.path("ours"), scratch.path("theirs"));
    let options = RestoreOptions { target: ours.clone(), ..Default::default() };
    assert!(levee_vault::restore(&vault, &id, &options, &()).unwrap().errors.is_empty());
    scratch.restic(&["restore", "latest", "--target", theirs.to_str().unwrap()]);
    let (mut ours, mut theirs) = (describe(&ours), describe(&theirs));
    // The target's own times are nobody's business.
    ours.remove(Path::new(""));
    theirs.remove(Path::new(""));
    assert_eq!(ours, theirs);
}

#[test]
fn unchanged_pages_are_not_stored_again() {
    let scratch = Scratch::new();
    let vault = scratch.init();
    let mut table = noise(4 << 20, 6);
    let store = |table: &[u8]| {
        let mut writer = SnapshotWriter::begin(&vault, SnapshotOptions::default()).unwrap();
        let meta = NodeMeta::new(0o600, Timestamp::UNIX_EPOCH);
        writer.file(Path::new("table"), &meta, &mut &table[..], PAGES).unwrap();
        writer.finish().unwrap().data_blobs
    };
    assert_eq!(store(&table), 32);
    assert_eq!(store(&table), 0);
    table[1_000_000] ^= 1;
    assert_eq!(store(&table), 1);
}

#[test]
fn a_file_of_an_earlier_snapshot_is_taken_over_without_being_read() {
    let scratch = Scratch::new();
    let vault = scratch.init();
    let (segment, meta) = (noise(3 << 20, 8), NodeMeta::new(0o600, Timestamp::UNIX_EPOCH));
    let mut writer = SnapshotWriter::begin(&vault, SnapshotOptions::default()).unwrap();
    writer.file(Path::new("log/1"), &meta, &mut &segment[..], Chunking::Content).unwrap();
    let first = writer.finish().unwrap().snapshot_id.unwrap();
    let known = vault.find_node(&first, Path::new("log/1")).unwrap().unwrap();

    let mut writer = SnapshotWriter::begin(&vault, SnapshotOptions::default()).unwrap();
    assert!(writer.known_file(Path::new("log/2"), &known).unwrap());
    assert!(matches!(writer.known_file(Path::new("log/2"), &known), Err(Error::InvalidPath { .. })));
    let summary = writer.finish().unwrap();
    assert_eq!((summary.data_blobs, summary.files_unmodified, summary.total_bytes), (0, 1, 3 << 20));
    let second = summary.snapshot_id.unwrap();
    assert_eq!(vault.read_file(&second, Path::new("log/2")).unwrap(), segment);
    scratch.restic(&["check", "--read-data"]);

    // Of another vault nothing can be taken over.
    let other = Scratch::new();
    let mut writer = SnapshotWriter::begin(&other.init(), SnapshotOptions::default()).unwrap();
    assert!(!writer.known_file(Path::new("log/1"), &known).unwrap());
}

struct Failing(usize);

impl Read for Failing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::Error::other("the connection broke"));
        }
        let count = self.0.min(buffer.len());
        buffer[..count].fill(b'x');
        self.0 -= count;
        Ok(count)
    }
}

#[test]
fn a_stream_that_breaks_makes_no_snapshot() {
    let scratch = Scratch::new();
    let vault = scratch.init();
    let mut writer = SnapshotWriter::begin(&vault, SnapshotOptions::default()).unwrap();
    let meta = NodeMeta::new(0o600, Timestamp::UNIX_EPOCH);
    let broken = writer.file(Path::new("table"), &meta, &mut Failing(1_000_000), PAGES);
    assert!(matches!(broken, Err(Error::Source { .. })));
    drop(writer);
    assert!(vault.snapshots().unwrap().is_empty());
    assert!(std::fs::read_dir(scratch.path("repository/locks")).unwrap().next().is_none());
    scratch.restic(&["check", "--read-data"]);
}
