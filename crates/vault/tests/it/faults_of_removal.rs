//! Forget, prune, copy and backups break at every single operation, in every way.

use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use levee_vault::forget::{Keep, Policy};
use levee_vault::{
    BackupOptions, Chunking, CopyOptions, ForgetOptions, MasterKey, MaxUnused, NodeMeta, PruneOptions, Result,
    SnapshotId, SnapshotOptions, SnapshotWriter, Vault,
};

use crate::breaking::{BREAKS, Break, Breaking, OPERATIONS_MAX, REASON, all_faults};
use crate::support::*;

const FILE_BYTES: usize = 60_000;

/// What a snapshot was told to hold, and must hold for ever.
#[derive(Debug)]
struct Promise {
    snapshot: SnapshotId,
    /// By path, the seed of each content.
    files: Vec<(PathBuf, u64)>,
}

fn store(vault: &Vault, seeds: &[u64]) -> Result<Promise> {
    let mut writer = SnapshotWriter::begin(vault, SnapshotOptions::default())?;
    let meta = NodeMeta::new(0o600, Timestamp::UNIX_EPOCH);
    let mut files = Vec::new();
    for seed in seeds {
        let path = PathBuf::from(format!("folder-{}/{seed}", seed % 3));
        writer.file(&path, &meta, &mut &noise(FILE_BYTES, *seed)[..], Chunking::Content)?;
        files.push((path, *seed));
    }
    let snapshot = writer.finish()?.snapshot_id.unwrap();
    Ok(Promise { snapshot, files })
}

fn assert_holds(vault: &Vault, promise: &Promise, context: &str) {
    let opened = vault.open_snapshot(&promise.snapshot);
    assert!(opened.is_ok(), "{context}: {opened:?}");
    for (path, seed) in &promise.files {
        let content = vault.read_file(&promise.snapshot, path);
        assert!(content.is_ok_and(|content| content == noise(FILE_BYTES, *seed)), "{context}: {path:?}");
    }
}

fn assert_sound(scratch: &Scratch, key: &MasterKey, promises: &[Promise], context: &str, restic: bool) {
    let vault = scratch.open_with(key);
    levee_vault::unlock(&vault, true).unwrap();
    let report = levee_vault::check(&vault, READ_ALL, &()).unwrap();
    assert!(report.is_sound(), "{context}: {report:?}");
    for promise in promises {
        assert_holds(&vault, promise, context);
    }
    if restic {
        let output = scratch.restic_output(&["check", "--read-data", "--no-cache"]);
        assert!(output.status.success(), "{context}: {output:?}");
    }
}

/// Whether this round is also looked at by restic and then carried to its end: each takes longer than the
/// breaking.
fn is_thorough(operations: i64) -> bool {
    all_faults() || operations % 16 == 11
}

/// Lets `run` break at its first, second, … operation, each time on a copy of what `prepare` made, until it
/// comes to its end unbroken. After each break the repository must be sound and hold the promises, and
/// `run` must succeed when it is done again. What `run` says it has saved is a promise from then on.
fn break_everywhere(
    name: &str,
    prepare: impl Fn(&Scratch) -> Vec<Promise>,
    run: impl Fn(&Vault) -> Result<Option<Promise>>,
) {
    let original = Scratch::new();
    let mut promises = prepare(&original);
    let prepared = promises.len();
    let key = original.open().master_key().clone();
    let mut rounds = 0;
    let ways = if all_faults() { BREAKS.len() } else { 1 };
    for way in 0..ways {
        for operations in 0.. {
            assert!(operations < OPERATIONS_MAX, "{name} never succeeds");
            let how = BREAKS[(way + operations as usize) % BREAKS.len()];
            let scratch = original.copied();
            let result = run(&Breaking::vault(&scratch, &key, operations, how));
            rounds += 1;
            let context = format!("{name}, {how:?} operation {operations}: {result:?}");
            let is_done = result.is_ok();
            promises.truncate(prepared);
            match result {
                Ok(saved) => promises.extend(saved),
                Err(error) => assert!(format!("{error:?}").contains(REASON), "{context}"),
            }
            assert_sound(&scratch, &key, &promises, &context, is_done || is_thorough(operations));
            if is_done {
                // An answer that is lost at the very end may go unnoticed, but nothing shorter than this.
                assert!(operations > 8, "{context}");
                break;
            }
            if is_thorough(operations) {
                let again = run(&scratch.open_with(&key));
                promises.extend(again.unwrap_or_else(|error| panic!("again, {context}: {error:?}")));
                assert_sound(&scratch, &key, &promises, &context, true);
            }
        }
    }
    println!("{name}: {rounds} rounds");
}

fn keep_last(count: u32) -> ForgetOptions {
    let policy = Policy { last: Keep::Count(count), ..Policy::default() };
    ForgetOptions {
        policy,
        group_by: levee_vault::forget::GroupBy { host: true, paths: true, tags: true },
        ..Default::default()
    }
}

/// Three snapshots, of which the two first were forgotten, and packs that an earlier prune took out.
fn prepare_prune(scratch: &Scratch) -> Vec<Promise> {
    let vault = scratch.init();
    let oldest = store(&vault, &[1, 2]).unwrap();
    let older = store(&vault, &[2, 3, 4]).unwrap();
    vault.remove_snapshot(&oldest.snapshot).unwrap();
    let day_ago = Timestamp::now() - SignedDuration::from_hours(30);
    levee_vault::prune(&vault, &prune_options(), day_ago, &()).unwrap();
    let kept = store(&vault, &[4, 5]).unwrap();
    vault.remove_snapshot(&older.snapshot).unwrap();
    vec![kept]
}

fn prune_options() -> PruneOptions {
    PruneOptions { max_unused: MaxUnused::Bytes(0), ..PruneOptions::default() }
}

#[test]
fn a_prune_that_breaks_anywhere_leaves_a_sound_repository() {
    break_everywhere("prune", prepare_prune, |vault| {
        levee_vault::prune(vault, &prune_options(), Timestamp::now(), &()).map(|_| None)
    });
}

#[test]
fn freeing_space_that_breaks_anywhere_leaves_a_sound_repository() {
    break_everywhere("recover space", prepare_prune, |vault| {
        let options = PruneOptions { recover_space: true, ..prune_options() };
        levee_vault::prune(vault, &options, Timestamp::now(), &()).map(|_| None)
    });
}

#[test]
fn forgetting_that_breaks_anywhere_loses_nothing_that_is_kept() {
    let prepare = |scratch: &Scratch| {
        let vault = scratch.init();
        store(&vault, &[1]).unwrap();
        store(&vault, &[2]).unwrap();
        vec![store(&vault, &[1, 3]).unwrap()]
    };
    break_everywhere("forget", prepare, |vault| {
        levee_vault::forget(vault, &keep_last(1), Timestamp::now()).and_then(|report| {
            // What could not be removed is told, and is an error to whoever asks for it.
            match report.failed.first() {
                Some((_, message)) => Err(levee_vault::Error::ReadBack { reason: message.clone() }),
                None => Ok(None),
            }
        })
    });
}

#[test]
fn a_backup_that_breaks_anywhere_in_any_way_can_be_run_again() {
    let prepare = |scratch: &Scratch| {
        let vault = scratch.init();
        vec![store(&vault, &[1, 2]).unwrap()]
    };
    break_everywhere("stream", prepare, |vault| store(vault, &[2, 3, 4]).map(Some));
}

/// A folder that is backed up, with files of these seeds by their number.
fn fill(folder: &Path, seeds: &[u64]) {
    for (path, seed) in paths_and_seeds(folder, seeds) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, noise(FILE_BYTES, seed)).unwrap();
        // Other content has another time, however fast it is written.
        set_times(&path, 1_000_000_000 + seed as i64, 0);
    }
}

fn paths_and_seeds(folder: &Path, seeds: &[u64]) -> Vec<(PathBuf, u64)> {
    let path = |number: usize| folder.join(format!("below-{}/{number}", number % 3));
    seeds.iter().enumerate().map(|(number, seed)| (path(number), *seed)).collect()
}

fn back_up_folder(vault: &Vault, folder: &Path, seeds: &[u64]) -> Result<(Promise, u64)> {
    // A time of status change of a moment ago is never trusted: the time of modification has to tell here.
    let options = BackupOptions { ignore_ctime: true, ..backup_options(folder) };
    let summary = levee_vault::backup(vault, &options, &())?;
    // A store that fails must never pass for files that cannot be read.
    assert!(summary.errors.is_empty(), "{:?}", summary.errors);
    let promise = Promise { snapshot: summary.snapshot_id.unwrap(), files: paths_and_seeds(folder, seeds) };
    Ok((promise, summary.files_unmodified))
}

#[test]
fn a_backup_of_a_folder_that_breaks_anywhere_in_any_way_can_be_run_again() {
    // Of one directory nothing changes, and of the two others something does.
    let (before, after) = ([1, 2, 3, 4, 5, 6], [1, 7, 3, 4, 5, 8]);
    let source = Scratch::new();
    let folder = source.path("source");
    let prepare = |scratch: &Scratch| {
        fill(&folder, &before);
        let (promise, _) = back_up_folder(&scratch.init(), &folder, &before).unwrap();
        fill(&folder, &after);
        vec![promise]
    };
    break_everywhere("backup of a folder", prepare, |vault| {
        let (promise, unmodified) = back_up_folder(vault, &folder, &after)?;
        // It went by its parent.
        assert!(unmodified >= 4, "{unmodified}");
        Ok(Some(promise))
    });
}

#[test]
fn a_copy_that_breaks_anywhere_leaves_two_sound_repositories() {
    let source = Scratch::new();
    let from = source.init();
    for seeds in [&[1, 2, 3][..], &[3, 4], &[1, 5]] {
        store(&from, seeds).unwrap();
    }
    let prepare = |scratch: &Scratch| vec![store(&scratch.init(), &[3, 9]).unwrap()];
    break_everywhere("copy", prepare, |vault| {
        levee_vault::copy(&from, vault, &CopyOptions::default(), &()).map(|_| None)
    });
    // And the same with the source breaking.
    let (empty, key) = (Scratch::new(), from.master_key());
    let target_key = empty.init().master_key().clone();
    for operations in 0..OPERATIONS_MAX {
        let target = empty.copied();
        let breaking = Breaking::vault(&source, key, operations, Break::Before);
        let result = levee_vault::copy(&breaking, &target.open_with(&target_key), &CopyOptions::default(), &());
        levee_vault::unlock(&from, true).unwrap();
        let context = format!("copy from a source that breaks at {operations}: {result:?}");
        assert_sound(&target, &target_key, &[], &context, is_thorough(operations));
        if let Ok(report) = result {
            assert_eq!((report.copied.len(), report.skipped.len()), (3, 0));
            let again = levee_vault::copy(&from, &target.open(), &CopyOptions::default(), &()).unwrap();
            assert_eq!((again.copied.len(), again.skipped.len(), again.blobs), (0, 3, 0));
            return;
        }
    }
    panic!("the copy never succeeds");
}
