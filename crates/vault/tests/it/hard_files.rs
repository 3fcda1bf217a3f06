//! Files that are hard to back up and to bring back.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use levee_vault::{CheckOptions, Event, NodeKind, Progress, RestoreOptions, RewriteOptions};

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
    // And it brings back all that it can.
    let target = scratch.path("target of restic");
    scratch.restic(&["restore", "latest", "--target", target.to_str().unwrap()]);
    let restored = target.join(source.strip_prefix("/").unwrap());
    set_times_that_restic_loses(&source, &restored);
    assert_same(&source, &restored);
}

/// Restic restores only times that are, in nanoseconds since 1970, a number of 64 bits: none before 1677 or after 2262.
fn set_times_that_restic_loses(source: &Path, restored: &Path) {
    for entry in std::fs::read_dir(source).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        let nanoseconds = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        if i64::try_from(nanoseconds).is_err() {
            set_times(&restored.join(entry.file_name()), metadata.mtime(), metadata.mtime_nsec());
        }
    }
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
            let rewritten = levee_vault::rewrite(&vault, &without_file, &()).unwrap()[0].new.unwrap();
            assert!(vault.find_node(&rewritten, &deepest).unwrap().is_some());
            assert!(vault.find_node(&rewritten, &deepest.join("f")).is_err());
            assert!(levee_vault::check(&vault, CheckOptions::default(), &()).unwrap().is_sound());
        };
        std::thread::Builder::new().stack_size(512 << 10).spawn_scoped(scope, work).unwrap().join().unwrap();
    });
    assert_eq!(std::fs::read(found).unwrap(), b"down here");
}

/// Does something whenever a piece of a file has been read, and before the next is.
struct Disturbing<F>(F);

impl<F: Fn() + Sync> Progress for Disturbing<F> {
    fn report(&self, event: Event<'_>) {
        if let Event::Bytes(_) = event {
            (self.0)();
        }
    }
}

/// A backup that has not met the change half-way by then never will.
const ROUNDS_MAX: u64 = 10;

/// Backs up while `disturb` changes the file, until the size that was read is one that the file had in between.
fn back_up_while(bytes: usize, disturb: impl Fn(&Path) + Sync) {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    std::fs::create_dir(&source).unwrap();
    let file = source.join("file");
    let vault = scratch.init();
    let changed_within = (0..ROUNDS_MAX).any(|round| {
        let content = noise(bytes, round);
        std::fs::write(&file, &content).unwrap();
        let disturbing = Disturbing(|| disturb(&file));
        let summary = levee_vault::backup(&vault, &backup_options(&source), &disturbing).unwrap();
        assert!(summary.errors.is_empty(), "{:?}", summary.errors);
        let id = summary.snapshot_id.unwrap();
        let node = vault.find_node(&id, &file).unwrap().unwrap();
        assert_eq!(node.kind, NodeKind::File);
        let read = vault.read_file(&id, &file).unwrap();
        assert_eq!(node.size, read.len() as u64);
        let untouched = read.len().min(bytes);
        assert!(read[..untouched] == content[..untouched]);
        let last = std::fs::metadata(&file).unwrap().len();
        node.size != bytes as u64 && node.size != last
    });
    assert!(changed_within, "in {ROUNDS_MAX} rounds the file never had another size while it was read");
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
    back_up_while(6 << 20, |file| {
        let mut file = std::fs::OpenOptions::new().append(true).open(file).unwrap();
        file.write_all(&noise(100_000, 1)).unwrap();
    });
}

#[test]
fn a_file_that_shrinks_while_it_is_read_has_the_size_that_was_read() {
    back_up_while(9 << 20, |file| {
        let file = std::fs::OpenOptions::new().write(true).open(file).unwrap();
        let bytes = file.metadata().unwrap().len();
        file.set_len(bytes.saturating_sub(1 << 20)).unwrap();
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
