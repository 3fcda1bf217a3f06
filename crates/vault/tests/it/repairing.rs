use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use levee_store::{FileType, Store};
use levee_vault::repair::{RepairOptions, SnapshotRepairOptions, repair_index, repair_packs, repair_snapshots};
use levee_vault::{BackupSummary, Error, Id, PruneOptions, Vault};

use crate::support::*;

const APPLY: RepairOptions = RepairOptions { apply: true, patience: std::time::Duration::ZERO };
const LOOK: RepairOptions = RepairOptions { apply: false, patience: std::time::Duration::ZERO };

/// A repository with two snapshots of two files each.
fn damaged_by(damage: impl FnOnce(&Scratch)) -> (Scratch, Vault) {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    std::fs::create_dir_all(source.join("below")).unwrap();
    let vault = scratch.init();
    for seed in [1, 2] {
        std::fs::write(source.join("below/file"), noise(80_000, seed)).unwrap();
        std::fs::write(source.join("same"), noise(60_000, 9)).unwrap();
        backup(&vault, &source);
    }
    damage(&scratch);
    (scratch, vault)
}

fn files(scratch: &Scratch, folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut to_do = vec![scratch.path("repository").join(folder)];
    while let Some(directory) = to_do.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { to_do.push(path) } else { found.push(path) }
        }
    }
    found.sort_by_key(|path| std::fs::metadata(path).unwrap().len());
    found
}

fn flip(path: &Path, position: usize) {
    let mut content = std::fs::read(path).unwrap();
    content[position] ^= 1;
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, content).unwrap();
}

/// Backs up the first snapshot's files again, one of which is lost.
fn bring_back(scratch: &Scratch) -> BackupSummary {
    std::fs::write(scratch.path("source/below/file"), noise(80_000, 1)).unwrap();
    let mut brought = backup(&scratch.open(), &scratch.path("source"));
    if brought.data_blobs == 0 {
        std::fs::write(scratch.path("source/same"), noise(60_000, 9)).unwrap();
        brought = backup(&scratch.open(), &scratch.path("source"));
    }
    brought
}

fn errors(vault: &Vault) -> u64 {
    levee_vault::check(vault, READ_ALL, &()).unwrap().error_count
}

fn name(path: &Path) -> Id {
    path.file_name().unwrap().to_str().unwrap().parse().unwrap()
}

#[test]
fn an_index_is_made_anew_from_the_packs() {
    // One index file is unreadable, the other is gone.
    let (scratch, _) = damaged_by(|scratch| {
        let index = files(scratch, "index");
        flip(&index[0], 20);
        std::fs::remove_file(&index[1]).unwrap();
    });
    let before = files(&scratch, "");
    let look = repair_index(&scratch.open(), false, LOOK, &()).unwrap();
    assert_eq!((look.unreadable_index_files.len(), look.added_packs.len(), look.applied), (1, 4, false));
    assert_eq!(files(&scratch, ""), before, "looking changes nothing");
    assert!(repair_index(&scratch.open(), false, APPLY, &()).unwrap().applied);
    assert_eq!(errors(&scratch.open()), 0);
    scratch.restic(&["check", "--read-data"]);
    assert!(repair_index(&scratch.open(), true, LOOK, &()).unwrap().is_sound());
}

#[test]
fn a_prune_does_not_take_back_what_a_repair_has_taken_out() {
    let (scratch, _) = damaged_by(|scratch| flip(files(scratch, "data").last().unwrap(), 100));
    let pack = name(files(&scratch, "data").last().unwrap());
    let repaired = repair_packs(&scratch.open(), &[pack], APPLY, &()).unwrap();
    assert_eq!((repaired.lost_blobs.len(), repaired.saved_blobs), (1, 1), "{repaired:?}");
    let prune = || levee_vault::prune(&scratch.open(), &PruneOptions::default(), Timestamp::now(), &());
    let refused = prune().unwrap_err();
    assert!(matches!(refused, Error::MissingBlob { .. }), "{refused}");
    assert!(!scratch.open().any_indexed(&[pack].into()).unwrap());
    // The next backup brings what was lost, and then the pack may go.
    let brought = bring_back(&scratch);
    assert!(brought.data_blobs > 0, "{brought:?}");
    assert_eq!(prune().unwrap().packs_readopted, 0);
    assert_eq!(levee_vault::check(&scratch.open(), READ_ALL, &()).unwrap().error_count, 0);
}

#[test]
fn what_a_missing_pack_held_is_taken_out_of_the_index_and_of_the_snapshots() {
    let (scratch, vault) = damaged_by(|scratch| {
        // The largest holds the first snapshot's files, one of which the second refers to as well.
        std::fs::remove_file(files(scratch, "data").last().unwrap()).unwrap();
    });
    let snapshots = vault.snapshots().unwrap();
    let found = repair_index(&scratch.open(), false, APPLY, &()).unwrap();
    assert_eq!((found.missing_packs.len(), found.added_packs.len()), (1, 0));
    let mut options = SnapshotRepairOptions { repair: LOOK, ..SnapshotRepairOptions::default() };
    let look = repair_snapshots(&scratch.open(), &options, &()).unwrap();
    assert!(look.snapshots.iter().all(|snapshot| snapshot.is_changed && snapshot.new.is_none()), "{look:?}");
    assert_eq!(look.losses.count, 3);
    assert_eq!(scratch.open().snapshots().unwrap().len(), 2);

    options.repair = APPLY;
    options.forget = true;
    let repaired = repair_snapshots(&scratch.open(), &options, &()).unwrap();
    assert!(repaired.snapshots.iter().all(|snapshot| snapshot.new.is_some()), "{repaired:?}");
    assert_eq!(errors(&scratch.open()), 0);
    scratch.restic(&["check", "--read-data"]);
    let second = repaired.snapshots.iter().find(|snapshot| snapshot.old == snapshots[1].0).unwrap().new.unwrap();
    let inside = scratch.path("source");
    let vault = scratch.open();
    assert_eq!(vault.read_file(&second, &inside.join("below/file")).unwrap(), noise(80_000, 2));
    assert_eq!(vault.read_file(&second, &inside.join("same")).unwrap(), b"");
    assert_eq!(vault.read_snapshot(&second).unwrap().original, Some(snapshots[1].0.0));
}

#[test]
fn what_is_sound_in_a_damaged_pack_is_saved() {
    let (scratch, vault) = damaged_by(|scratch| flip(files(scratch, "data").last().unwrap(), 100));
    let pack = files(&scratch, "data").pop().unwrap();
    assert!(errors(&scratch.open()) > 0);
    let look = repair_packs(&vault, &[name(&pack)], LOOK, &()).unwrap();
    assert_eq!((look.saved_blobs, look.lost_blobs.len(), look.applied), (1, 1, false), "{look:?}");
    assert!(errors(&scratch.open()) > 0);
    let done = repair_packs(&vault, &[name(&pack)], APPLY, &()).unwrap();
    assert!(done.applied && pack.exists(), "a damaged pack is given up, not deleted");
    // Now the index is right, and the snapshots that need the lost blob are known.
    let repaired = repair_snapshots(
        &scratch.open(),
        &SnapshotRepairOptions { repair: APPLY, forget: true, ..SnapshotRepairOptions::default() },
        &(),
    );
    let changed = repaired.unwrap().snapshots.iter().filter(|snapshot| snapshot.is_changed).count();
    assert!((1..=2).contains(&changed));
    assert_eq!(errors(&scratch.open()), 0);
    scratch.restic(&["check", "--read-data"]);
    // A sound pack is left alone.
    let sound = files(&scratch, "data").remove(0);
    let report = repair_packs(&scratch.open(), &[name(&sound)], APPLY, &()).unwrap();
    assert_eq!((report.sound_packs, report.applied), (vec![name(&sound)], false));
}

#[test]
fn a_repair_of_the_index_does_not_take_back_what_a_repair_of_packs_has_taken_out() {
    let (scratch, _) = damaged_by(|scratch| flip(files(scratch, "data").last().unwrap(), 100));
    let pack = name(files(&scratch, "data").last().unwrap());
    assert!(repair_packs(&scratch.open(), &[pack], APPLY, &()).unwrap().applied);
    // Its header is sound, and says nothing of the blob that is not.
    let look = repair_index(&scratch.open(), true, LOOK, &()).unwrap();
    assert!(look.is_sound() && look.added_packs.is_empty(), "{look:?}");
    assert!(!repair_index(&scratch.open(), true, APPLY, &()).unwrap().applied);
    assert!(!scratch.open().any_indexed(&[pack].into()).unwrap());
    // What is lost is known as lost: a backup stores it anew.
    let look = SnapshotRepairOptions { repair: LOOK, ..SnapshotRepairOptions::default() };
    assert!(repair_snapshots(&scratch.open(), &look, &()).unwrap().losses.count > 0);
    assert!(bring_back(&scratch).data_blobs > 0);
    assert_eq!(errors(&scratch.open()), 0);
    scratch.restic(&["check", "--read-data"]);
}

/// A store that cannot give back some ranges of some files.
struct Failing<F> {
    store: Arc<dyn Store>,
    /// What reading a range of a file ends with, when it fails.
    fails: F,
}

impl<F: Fn(FileType, &str, Range<u64>) -> Option<levee_store::Error> + Send + Sync> Store for Failing<F> {
    levee_store::forward!(store: create, write, size_bytes, list, remove, location);

    fn read(&self, file_type: FileType, name: &str) -> levee_store::Result<Vec<u8>> {
        match (self.fails)(file_type, name, 0..u64::MAX) {
            Some(error) => Err(error),
            None => self.store.read(file_type, name),
        }
    }

    fn read_range(&self, file_type: FileType, name: &str, offset: u64, length: usize) -> levee_store::Result<Vec<u8>> {
        match (self.fails)(file_type, name, offset..offset + length as u64) {
            Some(error) => Err(error),
            None => self.store.read_range(file_type, name, offset, length),
        }
    }
}

/// A vault on a disk that cannot read one byte of a pack any more.
fn with_bad_sector(scratch: &Scratch, pack: Id, at: u64) -> Vault {
    let pack = pack.to_hex();
    let fails = move |file_type: FileType, name: &str, range: Range<u64>| {
        (file_type == FileType::Data && name == pack && range.contains(&at)).then(|| levee_store::Error::Io {
            location: "a failing disk".into(),
            action: "read",
            file_type,
            name: name.into(),
            source: std::io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()),
        })
    };
    let key = scratch.open().master_key().clone();
    Vault::open_with_master_key(Arc::new(Failing { store: scratch.store(), fails }), key).unwrap()
}

#[test]
fn what_lies_around_a_bad_sector_is_saved() {
    let (scratch, _) = damaged_by(|_| ());
    let pack = name(files(&scratch, "data").last().unwrap());
    let vault = with_bad_sector(&scratch, pack, 100);
    let look = repair_packs(&vault, &[pack], LOOK, &()).unwrap();
    assert_eq!((look.saved_blobs, look.lost_blobs.len(), look.applied), (1, 1, false), "{look:?}");
    assert!(repair_packs(&vault, &[pack], APPLY, &()).unwrap().applied);
    assert!(!vault.any_indexed(&[pack].into()).unwrap());
    let options = SnapshotRepairOptions { repair: APPLY, forget: true, ..SnapshotRepairOptions::default() };
    assert!(repair_snapshots(&vault, &options, &()).unwrap().losses.count > 0);
    assert_eq!(errors(&scratch.open()), 0);
}

#[test]
fn a_pack_whose_header_cannot_be_read_keeps_no_other_out_of_the_index() {
    let (scratch, _) = damaged_by(|scratch| {
        files(scratch, "index").iter().for_each(|file| std::fs::remove_file(file).unwrap());
    });
    let pack = files(&scratch, "data").pop().unwrap();
    let last = std::fs::metadata(&pack).unwrap().len() - 1;
    let repaired = repair_index(&with_bad_sector(&scratch, name(&pack), last), false, APPLY, &()).unwrap();
    assert_eq!((repaired.unreadable_packs, repaired.added_packs.len()), (vec![name(&pack)], 3));
    assert!(repaired.applied);
    // A directory that the disk cannot read is lost, and the rest of its snapshot is not.
    let trees = name(&files(&scratch, "data")[0]);
    let options = SnapshotRepairOptions { repair: LOOK, ..SnapshotRepairOptions::default() };
    let look = repair_snapshots(&with_bad_sector(&scratch, trees, 0), &options, &()).unwrap();
    assert_eq!(look.snapshots.len(), 2);
    assert!(look.losses.first.iter().any(|loss| loss.message.contains("directory")), "{look:?}");
}

#[test]
fn an_index_file_that_may_not_be_read_is_not_taken_for_damaged() {
    let (scratch, _) = damaged_by(|_| ());
    let before = scratch.files("index");
    let refused = name(&files(&scratch, "index")[0]).to_hex();
    let fails = move |file_type: FileType, name: &str, _: Range<u64>| {
        (file_type == FileType::Index && name == refused).then(|| levee_store::Error::Denied {
            location: "a store".into(),
            action: "read",
            file_type,
            name: name.into(),
            reason: "403".into(),
        })
    };
    let key = scratch.open().master_key().clone();
    let vault = Vault::open_with_master_key(Arc::new(Failing { store: scratch.store(), fails }), key).unwrap();
    let failed = repair_index(&vault, false, APPLY, &()).unwrap_err();
    assert!(matches!(&failed, Error::Store(levee_store::Error::Denied { .. })), "{failed:?}");
    assert_eq!(scratch.files("index"), before);
}
