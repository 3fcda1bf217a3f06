use std::path::{Path, PathBuf};

use jiff::Timestamp;
use levee_vault::repair::{RepairOptions, SnapshotRepairOptions, repair_index, repair_packs, repair_snapshots};
use levee_vault::{Error, Id, PruneOptions, Vault};

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
    std::fs::write(scratch.path("source/below/file"), noise(80_000, 1)).unwrap();
    let mut brought = backup(&scratch.open(), &scratch.path("source"));
    if brought.data_blobs == 0 {
        std::fs::write(scratch.path("source/same"), noise(60_000, 9)).unwrap();
        brought = backup(&scratch.open(), &scratch.path("source"));
    }
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
