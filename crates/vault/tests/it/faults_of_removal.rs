//! Forget, prune, copy and backups break at every single operation, in every way.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use levee_vault::forget::{Keep, Policy};
use levee_vault::{
    BackupOptions, Chunking, CopyOptions, CopyReport, ForgetOptions, MasterKey, MaxUnused, NodeMeta, PruneOptions,
    Result, SnapshotId, SnapshotOptions, SnapshotWriter, Vault,
};

use crate::breaking::{BREAKS, Break, Breaking, Counted, OPERATIONS_MAX, REASON, all_faults};
use crate::support::*;

const FILE_BYTES: usize = 60_000;

/// What a snapshot was told to hold, and must hold for ever.
#[derive(Debug)]
pub struct Promise {
    snapshot: SnapshotId,
    /// By path, the seed of each content.
    files: Vec<(PathBuf, u64)>,
    /// How long each file is.
    file_bytes: usize,
}

impl Promise {
    pub fn snapshot(&self) -> &SnapshotId {
        &self.snapshot
    }
}

fn store(vault: &Vault, seeds: &[u64]) -> Result<Promise> {
    store_files(vault, seeds, FILE_BYTES)
}

pub fn store_files(vault: &Vault, seeds: &[u64], file_bytes: usize) -> Result<Promise> {
    let mut writer = SnapshotWriter::begin(vault, SnapshotOptions::default())?;
    let meta = NodeMeta::new(0o600, Timestamp::UNIX_EPOCH);
    let mut files = Vec::new();
    for seed in seeds {
        let path = PathBuf::from(format!("folder-{}/{seed}", seed % 3));
        writer.file(&path, &meta, &mut &noise(file_bytes, *seed)[..], Chunking::Content)?;
        files.push((path, *seed));
    }
    let snapshot = writer.finish()?.snapshot_id.unwrap();
    Ok(Promise { snapshot, files, file_bytes })
}

/// What a copy has promised: everything that `sources` hold stands in the vault that was copied to.
pub fn copied(report: &CopyReport, sources: &[Promise], to: &Vault) -> Vec<Promise> {
    let mut names: Vec<(SnapshotId, SnapshotId)> =
        report.copied.iter().map(|copied| (copied.from, copied.to.unwrap())).collect();
    assert_eq!(names.len() + report.skipped.len(), sources.len(), "{report:?}");
    if !report.skipped.is_empty() {
        for (id, snapshot) in to.snapshots().unwrap() {
            let original = snapshot.original.map(SnapshotId).filter(|original| report.skipped.contains(original));
            names.extend(original.map(|original| (original, id)));
        }
    }
    let promise = |source: &Promise| {
        let (_, snapshot) = names.iter().find(|(from, _)| *from == source.snapshot).unwrap();
        Promise { snapshot: *snapshot, files: source.files.clone(), file_bytes: source.file_bytes }
    };
    sources.iter().map(promise).collect()
}

fn assert_holds(vault: &Vault, promise: &Promise, context: &str) {
    let opened = vault.open_snapshot(&promise.snapshot);
    assert!(opened.is_ok(), "{context}: {opened:?}");
    for (path, seed) in &promise.files {
        let content = vault.read_file(&promise.snapshot, path);
        let expected = noise(promise.file_bytes, *seed);
        assert!(content.is_ok_and(|content| content == expected), "{context}: {path:?}");
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

/// One row of rounds.
pub struct Pass {
    /// Round by round one after the other.
    pub ways: Vec<Break>,
    /// Every operation breaks, or every second, …
    pub step: usize,
    pub counted: Counted,
}

impl Pass {
    /// Each operation breaks in each way.
    pub fn all() -> Vec<Self> {
        let ways = BREAKS.into_iter().chain([Break::Once]);
        ways.map(|way| Self { ways: vec![way], step: 1, counted: Counted::Everything }).collect()
    }

    /// Each breaks for good in one of the ways, and some once.
    fn usual() -> Vec<Self> {
        if all_faults() {
            return Self::all();
        }
        let once = Self { ways: vec![Break::Once], step: 3, counted: Counted::Everything };
        vec![Self { ways: BREAKS.to_vec(), step: 1, counted: Counted::Everything }, once]
    }

    fn is_thorough(&self, operations: i64) -> bool {
        match self.counted {
            Counted::Everything => is_thorough(operations),
            Counted::Changes => operations % 4 == 2,
        }
    }

    /// No run is shorter than this.
    fn operations_min(&self) -> i64 {
        match self.counted {
            Counted::Everything => 8,
            Counted::Changes => 5,
        }
    }
}

/// Lets `run` break at its first, second, … operation, each time on a copy of what `prepare` made, until it
/// comes to its end unbroken. After each break the repository must be sound and hold the promises, and
/// `run` must succeed when it is done again. What `run` says it has saved is a promise from then on, also when it says
/// so of a store that failed in between.
fn break_everywhere(
    name: &str,
    prepare: impl Fn(&Scratch) -> Vec<Promise>,
    run: impl Fn(&Vault) -> Result<Vec<Promise>>,
) {
    break_in(&Pass::usual(), name, prepare, run);
}

/// The same in these ways.
pub fn break_in(
    passes: &[Pass],
    name: &str,
    prepare: impl Fn(&Scratch) -> Vec<Promise>,
    run: impl Fn(&Vault) -> Result<Vec<Promise>>,
) {
    let original = Scratch::new();
    let mut promises = prepare(&original);
    let prepared = promises.len();
    let key = original.open().master_key().clone();
    let mut rounds = 0;
    for pass in passes {
        for (round, operations) in (pass.step as i64 - 1..).step_by(pass.step).enumerate() {
            assert!(operations < OPERATIONS_MAX, "{name} never comes to its end unbroken");
            let how = pass.ways[round % pass.ways.len()];
            let scratch = original.copied();
            let (vault, breaking) = Breaking::counting(scratch.store(), &key, operations, how, pass.counted);
            let result = run(&vault);
            rounds += 1;
            let is_done = !breaking.has_broken();
            let context = format!("{name}, {how:?} operation {operations}: {result:?}");
            promises.truncate(prepared);
            match result {
                Ok(saved) => {
                    // What is lost at the very end may go unnoticed, and what fails once may be made up for.
                    assert!(how == Break::Once || operations > pass.operations_min(), "{context}");
                    promises.extend(saved);
                }
                Err(error) => assert!(!is_done && format!("{error:?}").contains(REASON), "{context}"),
            }
            let is_thorough = pass.is_thorough(operations);
            assert_sound(&scratch, &key, &promises, &context, is_done || is_thorough);
            if is_done {
                assert!(operations > pass.operations_min(), "{context}");
                break;
            }
            if is_thorough {
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

pub fn prune_options() -> PruneOptions {
    PruneOptions { max_unused: MaxUnused::Bytes(0), ..PruneOptions::default() }
}

#[test]
fn a_prune_that_breaks_anywhere_leaves_a_sound_repository() {
    break_everywhere("prune", prepare_prune, |vault| {
        levee_vault::prune(vault, &prune_options(), Timestamp::now(), &()).map(|_| Vec::new())
    });
}

#[test]
fn freeing_space_that_breaks_anywhere_leaves_a_sound_repository() {
    break_everywhere("recover space", prepare_prune, |vault| {
        let options = PruneOptions { recover_space: true, ..prune_options() };
        levee_vault::prune(vault, &options, Timestamp::now(), &()).map(|_| Vec::new())
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
                None => Ok(Vec::new()),
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
    break_everywhere("stream", prepare, |vault| Ok(vec![store(vault, &[2, 3, 4])?]));
}

/// A folder that is backed up, with files of these seeds by their number, each so long.
pub fn fill(folder: &Path, seeds: &[u64], file_bytes: usize) {
    for (path, seed) in paths_and_seeds(folder, seeds) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, noise(file_bytes, seed)).unwrap();
        // Other content has another time, however fast it is written.
        set_times(&path, 1_000_000_000 + seed as i64, 0);
    }
}

fn paths_and_seeds(folder: &Path, seeds: &[u64]) -> Vec<(PathBuf, u64)> {
    let path = |number: usize| folder.join(format!("below-{}/{number}", number % 3));
    seeds.iter().enumerate().map(|(number, seed)| (path(number), *seed)).collect()
}

/// Backs up what `fill` has made, and says how many files were taken for unchanged.
pub fn back_up_folder(vault: &Vault, folder: &Path, seeds: &[u64], file_bytes: usize) -> Result<(Promise, u64)> {
    // A time of status change of a moment ago is never trusted: the time of modification has to tell here.
    let options = BackupOptions { ignore_ctime: true, ..backup_options(folder) };
    let summary = levee_vault::backup(vault, &options, &())?;
    // A store that fails must never pass for files that cannot be read.
    assert!(summary.errors.is_empty(), "{:?}", summary.errors);
    let (snapshot, files) = (summary.snapshot_id.unwrap(), paths_and_seeds(folder, seeds));
    let promise = Promise { snapshot, files, file_bytes };
    Ok((promise, summary.files_unmodified))
}

#[test]
fn a_backup_of_a_folder_that_breaks_anywhere_in_any_way_can_be_run_again() {
    // Of one directory nothing changes, and of the two others something does.
    let (before, after) = ([1, 2, 3, 4, 5, 6], [1, 7, 3, 4, 5, 8]);
    let source = Scratch::new();
    let folder = source.path("source");
    let prepare = |scratch: &Scratch| {
        fill(&folder, &before, FILE_BYTES);
        let (promise, _) = back_up_folder(&scratch.init(), &folder, &before, FILE_BYTES).unwrap();
        fill(&folder, &after, FILE_BYTES);
        vec![promise]
    };
    let unmodified_last = Cell::new(0);
    break_everywhere("backup of a folder", prepare, |vault| {
        let (promise, unmodified) = back_up_folder(vault, &folder, &after, FILE_BYTES)?;
        unmodified_last.set(unmodified);
        Ok(vec![promise])
    });
    // The last one, of a sound store, went by its parent.
    assert!(unmodified_last.get() >= 4, "{unmodified_last:?}");
}

#[test]
fn a_copy_that_breaks_anywhere_leaves_two_sound_repositories() {
    let source = Scratch::new();
    let from = source.init();
    let sources = [&[1, 2, 3][..], &[3, 4], &[1, 5]].map(|seeds| store(&from, seeds).unwrap());
    let prepare = |scratch: &Scratch| vec![store(&scratch.init(), &[3, 9]).unwrap()];
    break_everywhere("copy", prepare, |vault| {
        let report = levee_vault::copy(&from, vault, &CopyOptions::default(), &())?;
        Ok(copied(&report, &sources, vault))
    });
    for how in [Break::Before, Break::Once] {
        copy_from_a_breaking_source(&source, &from, &sources, how);
    }
}

/// Copies into an empty vault from a source that breaks at its first, second, … operation, until it does not break.
fn copy_from_a_breaking_source(source: &Scratch, from: &Vault, sources: &[Promise], how: Break) {
    let empty = Scratch::new();
    let target_key = empty.init().master_key().clone();
    let options = CopyOptions::default();
    for operations in 0..OPERATIONS_MAX {
        let target = empty.copied();
        let (breaking, store) =
            Breaking::counting(source.store(), from.master_key(), operations, how, Counted::Everything);
        let to = target.open_with(&target_key);
        let result = levee_vault::copy(&breaking, &to, &options, &());
        levee_vault::unlock(from, true).unwrap();
        let context = format!("copy from a source that breaks, {how:?} operation {operations}: {result:?}");
        let promises = match &result {
            Ok(report) => copied(report, sources, &to),
            Err(error) => {
                assert!(format!("{error:?}").contains(REASON), "{context}");
                Vec::new()
            }
        };
        assert_sound(&target, &target_key, &promises, &context, is_thorough(operations));
        if !store.has_broken() {
            let report = result.unwrap();
            assert_eq!((report.copied.len(), report.skipped.len()), (3, 0));
            let again = levee_vault::copy(from, &target.open(), &options, &()).unwrap();
            assert_eq!((again.copied.len(), again.skipped.len(), again.blobs), (0, 3, 0));
            return;
        }
    }
    panic!("the copy never comes to its end unbroken");
}
