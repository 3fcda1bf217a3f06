//! Restores to a disk that is full, or becomes full.

use std::fs;
use std::path::Path;

use levee_testing::disk::SmallDisk;

use super::tree::{assert_same, noise};
use super::{Case, below, fail};

const DISK_MIB: usize = 64;
/// Too little for all of it, and enough for some.
const TOO_LITTLE_MIB: usize = 8;
const SMALL_FILES: u64 = 20;
const SMALL_FILE_BYTES: usize = 300_000;
const LARGE_FILE_BYTES: usize = 20_000_000;

/// Small files, and one for which there is no room.
fn make_source(source: &Path) {
    fs::create_dir(source).unwrap();
    for number in 0..SMALL_FILES {
        fs::write(source.join(format!("small-{number}")), noise(number, SMALL_FILE_BYTES)).unwrap();
    }
    fs::write(source.join("large"), noise(1000, LARGE_FILE_BYTES)).unwrap();
}

/// Nothing that has its whole length lacks any of its content. Returns how many files are whole.
#[track_caller]
fn check_none_looks_whole(source: &Path, restored: &Path) -> usize {
    let mut whole = 0;
    for entry in fs::read_dir(source).unwrap().flatten() {
        let content = fs::read(entry.path()).unwrap();
        // What was never begun is not there.
        let found = fs::read(restored.join(entry.file_name())).unwrap_or_default();
        if found.len() == content.len() {
            assert!(found == content, "{:?} looks whole and is not", entry.file_name());
            whole += 1;
        }
    }
    whole
}

#[test]
fn a_restore_to_a_full_disk_names_what_it_lacks_and_is_finished_when_there_is_room() {
    let case = Case::with_vault();
    if !SmallDisk::is_possible() {
        return;
    }
    let (source, target) = (case.path("source"), case.path("target"));
    make_source(&source);
    case.backup(&[source.to_str().unwrap()]);
    fs::create_dir(&target).unwrap();
    let disk = SmallDisk::mount(&target, DISK_MIB as u32);
    let restored = below(&target, &source);
    let restore = ["restore", "latest", "--target", target.to_str().unwrap()];
    let check_full = || {
        let message = fail(1, &mut case.command(&restore));
        let large = restored.join("large");
        for words in [&*large.to_string_lossy(), "No space left on device", "could not be restored"] {
            assert!(message.contains(words), "{words:?} is not in: {message}");
        }
        check_none_looks_whole(&source, &restored)
    };

    disk.fill();
    assert_eq!(check_full(), 0);
    disk.free();
    // Somebody else takes up most of it.
    let ballast = target.join("somebody-elses");
    fs::write(&ballast, vec![1_u8; (DISK_MIB - TOO_LITTLE_MIB) << 20]).unwrap();
    assert!(check_full() > 0, "what has room is restored all the same");

    fs::remove_file(&ballast).unwrap();
    // What was left half-done is not taken for what it should be, however it is looked at.
    case.levee(&[&restore[..], &["--overwrite", "if-changed", "--verify"]].concat());
    assert_same(&source, &restored);
    // Nothing is in the way of whoever uses the vault next.
    case.levee(&["check"]);
}
