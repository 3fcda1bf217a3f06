//! Copying from a vault that is damaged: what is whole arrives whole, and the rest is named.

use std::path::{Path, PathBuf};

use levee_vault::{CopyOptions, CopyReport, Error, SnapshotId, Vault};

use crate::support::*;

fn passing_over() -> CopyOptions {
    CopyOptions { pass_over_damage: true, ..CopyOptions::default() }
}

fn copy(from: &Scratch, to: &Scratch, options: &CopyOptions) -> levee_vault::Result<CopyReport> {
    levee_vault::copy(&from.open(), &to.open(), options, &())
}

fn copied(report: &CopyReport) -> Vec<SnapshotId> {
    report.copied.iter().map(|copied| copied.from).collect()
}

fn failed(report: &CopyReport) -> Vec<SnapshotId> {
    report.failed.iter().map(|failed| failed.id).collect()
}

/// Backs up and gives the snapshot with the pack of data that came with it, the largest, and that of directories.
fn backup_with_packs(scratch: &Scratch, path: &Path) -> (SnapshotId, PathBuf, PathBuf) {
    let before = scratch.files("data");
    let snapshot = backup(&scratch.open(), path).snapshot_id.unwrap();
    let mut new: Vec<PathBuf> = scratch.files("data").difference(&before).cloned().collect();
    assert_eq!(new.len(), 2, "{new:?}");
    new.sort_by_key(|pack| std::fs::metadata(pack).unwrap().len());
    let (data, trees) = (new.remove(1), new.remove(0));
    (snapshot, data, trees)
}

/// Puts another content in the place of a file that may be read-only.
fn replace(path: &Path, content: &[u8]) {
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, content).unwrap();
}

#[test]
fn a_lost_blob_keeps_only_those_from_being_copied_that_need_it() {
    let (scratch, other) = (Scratch::new(), Scratch::new());
    let source = scratch.path("source");
    std::fs::create_dir(&source).unwrap();
    scratch.init();
    other.init();
    let write = |name: &str, seed: u64| std::fs::write(source.join(name), noise(100_000, seed)).unwrap();
    write("one", 1);
    let (first, pack, _) = backup_with_packs(&scratch, &source);
    write("two", 2);
    let (second, ..) = backup_with_packs(&scratch, &source);
    std::fs::remove_file(source.join("one")).unwrap();
    write("three", 3);
    let (third, ..) = backup_with_packs(&scratch, &source);

    let sound = std::fs::read(&pack).unwrap();
    let mut damaged = sound.clone();
    damaged[1000] ^= 1;
    replace(&pack, &damaged);
    // Whoever copies one snapshot for itself gets the error, as it is.
    let error = copy(&scratch, &other, &CopyOptions::default()).unwrap_err();
    assert!(error.is_damage(), "{error:?}");
    assert!(other.open().snapshots().unwrap().is_empty());

    let dry_run = CopyOptions { dry_run: true, ..passing_over() };
    let foreseen = copy(&scratch, &other, &dry_run).unwrap();
    assert_eq!((copied(&foreseen), failed(&foreseen)), (vec![third], vec![first, second]));
    let report = copy(&scratch, &other, &passing_over()).unwrap();
    assert_eq!((copied(&report), failed(&report)), (vec![third], vec![first, second]));
    assert!(report.failed.iter().all(|failed| failed.error.contains("does not open")), "{report:?}");
    other.restic(&["check", "--read-data"]);
    restore(&other.open(), report.copied[0].to.unwrap(), &source, &other.path("restored"));
    assert_same(&source, &other.path("restored"));

    let again = copy(&scratch, &other, &passing_over()).unwrap();
    assert_eq!((&again.skipped, failed(&again)), (&vec![third], vec![first, second]));
    replace(&pack, &sound);
    let mended = copy(&scratch, &other, &passing_over()).unwrap();
    assert_eq!((copied(&mended), failed(&mended)), (vec![first, second], Vec::new()));
    other.restic(&["check", "--read-data"]);
}

/// What has been seen of a snapshot before its damage was met must not count as seen for the next one.
#[test]
fn a_lost_directory_takes_nothing_from_those_that_share_the_others() {
    let (scratch, other) = (Scratch::new(), Scratch::new());
    let source = scratch.path("source");
    for (name, seed) in [("lost", 1), ("shared", 2)] {
        std::fs::create_dir_all(source.join(name)).unwrap();
        std::fs::write(source.join(name).join("file"), noise(100_000, seed)).unwrap();
    }
    scratch.init();
    other.init();
    // The directory `lost` lies in a pack of its own, apart from those above and beside it.
    let (first, _, trees) = backup_with_packs(&scratch, &source.join("lost"));
    let (second, ..) = backup_with_packs(&scratch, &source);
    let third = backup(&scratch.open(), &source.join("shared")).snapshot_id.unwrap();
    std::fs::remove_file(trees).unwrap();

    let report = copy(&scratch, &other, &passing_over()).unwrap();
    assert_eq!((copied(&report), failed(&report)), (vec![third], vec![first, second]));
    other.restic(&["check", "--read-data"]);
    restore(&other.open(), report.copied[0].to.unwrap(), &source.join("shared"), &other.path("restored"));
    assert_same(&source.join("shared"), &other.path("restored"));
}

#[test]
fn a_damaged_snapshot_file_is_named_and_the_rest_is_copied() {
    let (scratch, other) = (Scratch::new(), Scratch::new());
    let source = scratch.path("source");
    std::fs::create_dir(&source).unwrap();
    scratch.init();
    other.init();
    let first = backup(&scratch.open(), &source).snapshot_id.unwrap();
    std::fs::write(source.join("file"), b"new").unwrap();
    let second = backup(&scratch.open(), &source).snapshot_id.unwrap();
    replace(&scratch.path("repository/snapshots").join(first.to_string()), b"junk");
    let report = copy(&scratch, &other, &passing_over()).unwrap();
    assert_eq!((copied(&report), failed(&report)), (vec![second], vec![first]));
}

/// A disk that cannot be written to fails the copy itself, and not one snapshot after the other.
#[test]
fn a_target_that_fails_is_no_damage_of_the_source() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), noise(100_000, 1)).unwrap();
    scratch.init();
    backup(&scratch.open(), &source);
    let other = Scratch::new();
    other.init();
    std::fs::remove_dir_all(other.path("repository/data")).unwrap();
    std::fs::write(other.path("repository/data"), b"no folder").unwrap();
    let error = copy(&scratch, &other, &passing_over()).unwrap_err();
    assert!(matches!(error, Error::Store(_)), "{error:?}");
}

#[test]
fn a_pack_that_cannot_be_read_at_all_is_replaced_by_other_copies() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), noise(100_000, 1)).unwrap();
    scratch.init();
    // Before each knew of the other, two backups have stored the same.
    let twin = scratch.copied();
    let [(_, pack, _), (_, copy_of_pack, _)] = [&scratch, &twin].map(|scratch| backup_with_packs(scratch, &source));
    let in_repository = |scratch: &Scratch, path: &Path| -> PathBuf {
        path.strip_prefix(scratch.path("repository")).unwrap().to_path_buf()
    };
    // Whichever of them is read first.
    for lost in [in_repository(&scratch, &pack), in_repository(&twin, &copy_of_pack)] {
        let (both, other) = (scratch.copied(), Scratch::new());
        for file in twin.files("data").into_iter().chain(twin.files("index")) {
            let to = both.path("repository").join(in_repository(&twin, &file));
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(file, to).unwrap();
        }
        std::fs::remove_file(both.path("repository").join(lost)).unwrap();
        let to: Vault = other.init();
        let report = levee_vault::copy(&both.open(), &to, &CopyOptions::default(), &()).unwrap();
        assert_eq!(report.copied.len(), 1);
        other.restic(&["check", "--read-data"]);
    }
}
