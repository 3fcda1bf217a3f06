//! Forgotten snapshots come back while their data stand.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use levee_vault::{
    Chunking, Error, ForgetOptions, MaxUnused, NodeMeta, PruneOptions, PruneReport, SnapshotId, SnapshotOptions,
    SnapshotSelection, SnapshotWriter, UndeleteOptions, UndeleteReport, Vault, list_forgotten,
};

use crate::support::*;

const FILE_BYTES: usize = 100_000;

/// A stream's snapshot of a file with noise of each seed.
fn store(vault: &Vault, seeds: &[u64]) -> SnapshotId {
    let mut writer = SnapshotWriter::begin(vault, SnapshotOptions::default()).unwrap();
    let meta = NodeMeta::new(0o644, "2026-11-26T00:00:00Z".parse().unwrap());
    for seed in seeds {
        let name = format!("folder/{seed}");
        writer.file(Path::new(&name), &meta, &mut &noise(FILE_BYTES, *seed)[..], Chunking::Content).unwrap();
    }
    writer.finish().unwrap().snapshot_id.unwrap()
}

fn assert_reads(vault: &Vault, snapshot: &SnapshotId, seeds: &[u64]) {
    for seed in seeds {
        let content = vault.read_file(snapshot, Path::new(&format!("folder/{seed}"))).unwrap();
        assert!(content == noise(FILE_BYTES, *seed), "{snapshot} {seed}");
    }
}

fn named(ids: &[SnapshotId]) -> SnapshotSelection {
    SnapshotSelection { ids: ids.iter().map(ToString::to_string).collect(), ..SnapshotSelection::default() }
}

fn forget(vault: &Vault, ids: &[SnapshotId]) {
    let options = ForgetOptions { selection: named(ids), ..ForgetOptions::default() };
    assert_eq!(levee_vault::forget(vault, &options, Timestamp::now()).unwrap().removed.len(), ids.len());
}

fn prune_after(vault: &Vault, hours: i32) -> PruneReport {
    let options = PruneOptions { max_unused: MaxUnused::Bytes(0), ..PruneOptions::default() };
    levee_vault::prune(vault, &options, Timestamp::now() + SignedDuration::from_hours(1) * hours, &()).unwrap()
}

fn undelete(vault: &Vault, options: &UndeleteOptions) -> Result<UndeleteReport, Error> {
    levee_vault::undelete(vault, options, Timestamp::now(), &())
}

fn bring_back(vault: &Vault, ids: &[SnapshotId]) -> Result<UndeleteReport, Error> {
    undelete(vault, &UndeleteOptions { selection: named(ids), ..UndeleteOptions::default() })
}

fn listed(vault: &Vault) -> Vec<(SnapshotId, bool)> {
    list_forgotten(vault).unwrap().into_iter().map(|entry| (entry.id, entry.pruned_at.is_some())).collect()
}

#[test]
fn what_was_forgotten_and_pruned_comes_back_as_it_was() {
    let scratch = Scratch::new();
    let vault = scratch.init();
    let (gone, kept) = (store(&vault, &[1, 2, 3]), store(&vault, &[3, 4]));
    let other = store(&vault, &[5]);
    forget(&vault, &[gone, other]);
    assert_eq!(listed(&vault).len(), 2);
    assert_eq!(bring_back(&vault, &[other]).unwrap(), UndeleteReport { snapshots: vec![other], ..Default::default() });
    assert_eq!(listed(&vault), [(gone, false)]);

    // The pack with half of it was rewritten, and is in no index any more.
    assert!(prune_after(&vault, 0).figures.packs_repacked == 1);
    assert_eq!(listed(&vault), [(gone, true)]);
    scratch.restic(&["check", "--read-data"]);
    let dry = UndeleteOptions { dry_run: true, selection: named(&[gone]), ..UndeleteOptions::default() };
    assert_eq!(undelete(&vault, &dry).unwrap().snapshots, [gone]);
    assert_eq!(listed(&vault), [(gone, true)], "a dry run changes nothing");
    let report = bring_back(&vault, &[gone]).unwrap();
    assert!(report.snapshots == [gone] && report.packs_readopted > 0 && report.failed.is_empty(), "{report:?}");
    assert_eq!(listed(&vault), []);
    scratch.restic(&["check", "--read-data"]);
    assert!(scratch.restic(&["snapshots"]).contains(&gone.short()));
    for hours in [1, 30, 60] {
        prune_after(&vault, hours);
        let opened = scratch.open();
        assert_reads(&opened, &gone, &[1, 2, 3]);
        assert_reads(&opened, &kept, &[3, 4]);
        assert_reads(&opened, &other, &[5]);
    }
    scratch.restic(&["check", "--read-data"]);
}

#[test]
fn a_grace_after_its_first_prune_it_is_gone() {
    let scratch = Scratch::new();
    let vault = scratch.init();
    let (gone, kept) = (store(&vault, &[1]), store(&vault, &[2]));
    forget(&vault, &[gone]);
    // However late the first prune comes, a grace of data is left after it.
    prune_after(&vault, 100);
    assert_eq!(listed(&vault), [(gone, true)]);
    assert_eq!(prune_after(&vault, 123).packs_deleted, 0);
    assert_eq!(listed(&vault), [(gone, true)]);
    assert_eq!(prune_after(&vault, 125).packs_deleted, 2);
    assert_eq!(listed(&vault), []);
    assert!(matches!(bring_back(&vault, &[gone]), Err(Error::NotForgotten { .. })));
    assert_reads(&scratch.open(), &kept, &[2]);
    scratch.restic(&["check", "--read-data"]);
}

#[test]
fn what_is_not_whole_does_not_come_back() {
    let scratch = Scratch::new();
    let vault = scratch.init();
    let kept = store(&vault, &[9]);
    let packs_before = scratch.files("data");
    let broken = store(&vault, &[1]);
    let packs_of_broken: Vec<_> = scratch.files("data").difference(&packs_before).cloned().collect();
    let whole = store(&vault, &[2]);
    forget(&vault, &[broken, whole]);
    prune_after(&vault, 0);
    packs_of_broken.iter().for_each(|pack| std::fs::remove_file(pack).unwrap());
    let vault = scratch.open();
    let report = bring_back(&vault, &[broken, whole]).unwrap();
    assert_eq!(report.snapshots, [whole]);
    assert_eq!(report.failed.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [broken]);
    assert_eq!(vault.snapshots().unwrap().iter().map(|(id, _)| *id).collect::<Vec<_>>(), [kept, whole]);
    scratch.restic(&["check", "--read-data"]);
}

#[test]
fn a_snapshot_whose_indexed_pack_is_gone_or_cut_short_does_not_come_back() {
    let cut = |pack: &Path| std::fs::OpenOptions::new().write(true).open(pack).unwrap().set_len(1000).unwrap();
    let remove = |pack: &Path| std::fs::remove_file(pack).unwrap();
    for damage in [&cut as &dyn Fn(&Path), &remove] {
        let scratch = Scratch::new();
        let vault = scratch.init();
        // Neither writer knows of the other, so that each has a copy of the first file.
        let unaware = scratch.open();
        let mut writer = SnapshotWriter::begin(&unaware, SnapshotOptions::default()).unwrap();
        let before = scratch.files("data");
        let broken = store(&vault, &[1, 2]);
        let size = |pack: &&std::path::PathBuf| std::fs::metadata(pack).unwrap().len();
        let packs = scratch.files("data");
        let pack = packs.difference(&before).max_by_key(size).unwrap();
        let meta = NodeMeta::new(0o644, "2026-11-26T00:00:00Z".parse().unwrap());
        let content = noise(FILE_BYTES, 1);
        writer.file(Path::new("folder/1"), &meta, &mut &content[..], Chunking::Content).unwrap();
        let whole = writer.finish().unwrap().snapshot_id.unwrap();
        // The index names all of it: nothing was pruned since.
        forget(&vault, &[broken, whole]);
        damage(pack);
        let report = bring_back(&scratch.open(), &[broken, whole]).unwrap();
        assert_eq!(report.snapshots, [whole], "{report:?}");
        assert_eq!(report.failed.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [broken]);
        assert!(report.failed[0].1.contains("gone or too short"), "{report:?}");
        assert_reads(&scratch.open(), &whole, &[1]);
    }
}

#[test]
fn packs_of_a_prune_go_back_into_the_index_at_once() {
    let scratch = Scratch::new();
    let vault = scratch.init();
    let gone = store(&vault, &[1, 2]);
    store(&vault, &[3]);
    // As stock restic forgets: without a way back to the snapshot.
    vault.remove_snapshot(&gone).unwrap();
    let removed = prune_after(&vault, 0).figures.packs_removed;
    assert!(removed > 0);
    assert!(scratch.restic(&["check"]).contains("additional files"));
    let report = undelete(&vault, &UndeleteOptions { packs: true, ..UndeleteOptions::default() }).unwrap();
    assert_eq!(report.packs_readopted, removed);
    assert!(!scratch.restic(&["check", "--read-data"]).contains("additional files"));
}

#[test]
fn restic_passes_over_the_records_and_may_drop_them() {
    let scratch = Scratch::new();
    let vault = scratch.init();
    let gone = store(&vault, &[1]);
    store(&vault, &[2]);
    forget(&vault, &[gone]);
    scratch.restic(&["check"]);
    scratch.restic(&["rebuild-index", "--read-all-packs"]);
    let vault = scratch.open();
    assert_eq!(listed(&vault), []);
    prune_after(&vault, 0);
    scratch.restic(&["check", "--read-data"]);
}
