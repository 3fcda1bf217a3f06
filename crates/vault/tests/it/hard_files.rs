//! Files that are hard to back up and to bring back.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use levee_vault::{CheckOptions, NodeKind, RestoreOptions, RewriteOptions};

use crate::support::*;

#[test]
fn strange_names_times_and_owners_come_back_and_restic_agrees() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    std::fs::create_dir(&source).unwrap();
    for name in [&b"\xff\xfe\xfd"[..], b"\x80", b"half \xc3", b"\xed\xa0\x80 surrogate", b" ", b"-", b"\x01\x7f"] {
        std::fs::write(source.join(OsStr::from_bytes(name)), name).unwrap();
    }
    std::fs::write(source.join("n".repeat(255)), b"the longest name").unwrap();
    for (number, seconds) in [-11_644_473_600_i64, -1, 0, 2_147_483_648, 9_223_372_036, 9_223_372_037, 15_032_385_535]
        .into_iter()
        .enumerate()
    {
        let path = source.join(format!("time {number}"));
        std::fs::write(&path, b"").unwrap();
        set_times(&path, seconds, 999_999_999);
    }
    for (number, (uid, gid)) in [(1 << 31, 1 << 31), (4_294_967_294, 4_294_967_294)].into_iter().enumerate() {
        let path = source.join(format!("owner {number}"));
        std::fs::write(&path, b"").unwrap();
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
    }
    let vault = scratch.init();
    let id = backup(&vault, &source).snapshot_id.unwrap();
    let target = scratch.path("target");
    restore(&vault, id, &source, &target);
    assert_same(&source, &target);
    scratch.restic(&["check", "--read-data"]);
    // Restic reads every name and time, and lists as many as there are.
    let listed = scratch.restic(&["ls", "latest", "--json", source.to_str().unwrap()]);
    let files = listed.lines().filter(|line| line.contains("\"type\":\"file\"")).count();
    assert_eq!(files, std::fs::read_dir(&source).unwrap().count());
}

/// A path of exactly `bytes` bytes below a directory, with the directories on it made.
fn make_long_path(root: &Path, bytes: usize) -> PathBuf {
    let mut directory = root.to_path_buf();
    let mut left = bytes - root.as_os_str().len();
    while left > 200 {
        directory.push("d".repeat(99));
        left -= 100;
    }
    std::fs::create_dir_all(&directory).unwrap();
    directory.join("f".repeat(left - 1))
}

#[test]
fn a_path_of_4095_bytes_comes_back() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    let longest = make_long_path(&source, 4095);
    assert_eq!(longest.as_os_str().len(), 4095);
    std::fs::write(&longest, b"at the end of a long way").unwrap();
    let vault = scratch.init();
    let id = backup(&vault, &source).snapshot_id.unwrap();
    assert_eq!(vault.read_file(&id, &longest).unwrap(), b"at the end of a long way");
    let target = scratch.path("t");
    restore(&vault, id, &source, &target);
    assert_eq!(
        std::fs::read(target.join(longest.strip_prefix(&source).unwrap())).unwrap(),
        b"at the end of a long way"
    );
    scratch.restic(&["check", "--read-data"]);
}

#[test]
fn two_thousand_directories_deep_comes_back_on_a_small_stack() {
    let scratch = Scratch::new();
    let source = scratch.path("s");
    let depth = (4000 - source.as_os_str().len()) / 2;
    let deepest = source.join(vec!["d"; depth].join("/"));
    std::fs::create_dir_all(&deepest).unwrap();
    std::fs::write(deepest.join("f"), b"down here").unwrap();
    let vault = scratch.init();
    let target = scratch.path("t");
    let (source, found) = (&source, target.join(deepest.strip_prefix(&source).unwrap()).join("f"));
    std::thread::scope(|scope| {
        let work = || {
            let id = backup(&vault, source).snapshot_id.unwrap();
            restore(&vault, id, source, &target);
            let without_file = RewriteOptions { excludes: vec!["f".into()], ..RewriteOptions::default() };
            let rewritten = levee_vault::rewrite(&vault, &without_file).unwrap()[0].new.unwrap();
            assert!(vault.find_node(&rewritten, &deepest).unwrap().is_some());
            assert!(vault.find_node(&rewritten, &deepest.join("f")).is_err());
            assert!(levee_vault::check(&vault, CheckOptions::default(), &()).unwrap().is_sound());
        };
        std::thread::Builder::new().stack_size(512 << 10).spawn_scoped(scope, work).unwrap().join().unwrap();
    });
    assert_eq!(std::fs::read(found).unwrap(), b"down here");
}

/// Backs up while `disturb` changes the file, until it was seen to have had an effect or often enough.
fn back_up_while(content: usize, disturb: impl Fn(&Path) + Sync) {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    std::fs::create_dir(&source).unwrap();
    let file = source.join("file");
    let vault = scratch.init();
    for round in 0..4 {
        std::fs::write(&file, noise(content, round)).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| disturb(&file));
            let summary = backup(&vault, &source);
            let node = vault.find_node(&summary.snapshot_id.unwrap(), &file).unwrap();
            // Gone, or of the size that was read: the file's own blobs say so below.
            assert!(node.is_none_or(|node| node.kind == NodeKind::File));
        });
        if !file.exists() {
            std::fs::write(&file, b"").unwrap();
        }
    }
    let report = levee_vault::check(&vault, READ_ALL, &()).unwrap();
    assert!(report.is_sound(), "{report:?}");
    for (id, _) in vault.snapshots().unwrap() {
        let target = scratch.path(&format!("target {}", id.short()));
        let options = RestoreOptions { target, verify: true, ..Default::default() };
        let summary = levee_vault::restore(&vault, &id, &options, &()).unwrap();
        assert!(summary.errors.is_empty(), "{summary:?}");
    }
}

#[test]
fn a_file_that_grows_while_it_is_read_has_the_size_that_was_read() {
    back_up_while(3 << 20, |file| {
        let mut file = std::fs::OpenOptions::new().append(true).open(file).unwrap();
        for number in 0..60 {
            file.write_all(&noise(100_000, number)).unwrap();
        }
    });
}

#[test]
fn a_file_that_shrinks_while_it_is_read_has_the_size_that_was_read() {
    back_up_while(9 << 20, |file| {
        let file = std::fs::OpenOptions::new().write(true).open(file).unwrap();
        for megabytes in (0..9).rev() {
            file.set_len(megabytes << 20).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    });
}

#[test]
fn ten_thousand_names_of_one_file_stay_one_file() {
    const NAMES: u64 = 10_000;
    let scratch = Scratch::new();
    let source = scratch.path("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("0"), noise(200_000, 3)).unwrap();
    for number in 1..NAMES {
        std::fs::hard_link(source.join("0"), source.join(number.to_string())).unwrap();
    }
    let vault = scratch.init();
    let summary = backup(&vault, &source);
    let id = summary.snapshot_id.unwrap();
    assert!(summary.data_added_bytes < 8 << 20, "{summary:?}");
    let target = scratch.path("target");
    let restored = restore(&vault, id, &source, &target);
    assert_eq!((restored.files_restored, restored.others), (1, NAMES - 1), "{restored:?}");
    let inodes: HashSet<_> =
        std::fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().metadata().unwrap().ino()).collect();
    assert_eq!(inodes.len(), 1);
    assert_eq!(std::fs::metadata(target.join("77")).unwrap().nlink(), NAMES);
    // Again: nothing is to be done.
    assert_eq!(restore(&vault, id, &source, &target).bytes_written, 0);
    assert_eq!(std::fs::metadata(target.join("77")).unwrap().nlink(), NAMES);
}

/// 50,000 entries, or as many as `LEVEE_TEST_ENTRIES` says (a million takes minutes).
#[test]
fn a_directory_of_very_many_entries_comes_back() {
    let entries: usize =
        std::env::var("LEVEE_TEST_ENTRIES").map_or(50_000, |count| count.parse().expect("a number of entries"));
    let scratch = Scratch::new();
    let source = scratch.path("source");
    std::fs::create_dir(&source).unwrap();
    for number in 0..entries {
        let file = std::fs::File::create(source.join(format!("entry {number}"))).unwrap();
        if number % 10 == 0 {
            (&file).write_all(&number.to_le_bytes()).unwrap();
        }
    }
    let vault = scratch.init();
    let first = backup(&vault, &source);
    assert_eq!(first.files_new, entries as u64);
    let target = scratch.path("target");
    restore(&vault, first.snapshot_id.unwrap(), &source, &target);
    assert_eq!(std::fs::read_dir(&target).unwrap().count(), entries);
    for number in (0..entries).step_by(990) {
        let content = std::fs::read(target.join(format!("entry {number}"))).unwrap();
        assert_eq!(content, if number % 10 == 0 { number.to_le_bytes().to_vec() } else { Vec::new() });
    }
    // One that was not read again shows that the parent's tree was found in it.
    let second = backup(&vault, &source);
    assert!(second.files_unmodified > entries as u64 / 2, "{second:?}");
}
