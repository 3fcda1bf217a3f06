//! Forget, prune and copy break at every single operation, in every way.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use levee_vault::forget::{Keep, Policy};
use levee_vault::{
    Chunking, CopyOptions, ForgetOptions, MasterKey, MaxUnused, NodeMeta, PruneOptions, Result, SnapshotId,
    SnapshotOptions, SnapshotWriter, Vault,
};

use crate::breaking::{BREAKS, Break, Breaking, OPERATIONS_MAX, REASON, all_faults};
use crate::support::*;

const FILE_BYTES: usize = 60_000;

/// What a snapshot was told to hold, and must hold for ever.
struct Promise {
    snapshot: SnapshotId,
    seeds: Vec<u64>,
}

fn store(vault: &Vault, seeds: &[u64]) -> Result<Promise> {
    let mut writer = SnapshotWriter::begin(vault, SnapshotOptions::default())?;
    let meta = NodeMeta::new(0o600, Timestamp::UNIX_EPOCH);
    for seed in seeds {
        let name = format!("folder-{}/{seed}", seed % 3);
        writer.file(Path::new(&name), &meta, &mut &noise(FILE_BYTES, *seed)[..], Chunking::Content)?;
    }
    let snapshot = writer.finish()?.snapshot_id.unwrap();
    Ok(Promise { snapshot, seeds: seeds.to_vec() })
}

fn assert_holds(vault: &Vault, promise: &Promise, context: &str) {
    let opened = vault.open_snapshot(&promise.snapshot);
    assert!(opened.is_ok(), "{context}: {opened:?}");
    for seed in &promise.seeds {
        let path = format!("folder-{}/{seed}", seed % 3);
        let content = vault.read_file(&promise.snapshot, Path::new(&path));
        assert!(content.is_ok_and(|content| content == noise(FILE_BYTES, *seed)), "{context}: {path}");
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
/// `run` must succeed when it is done again.
fn break_everywhere(name: &str, prepare: impl Fn(&Scratch) -> Vec<Promise>, run: impl Fn(&Vault) -> Result<()>) {
    let original = Scratch::new();
    let promises = prepare(&original);
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
            if let Err(error) = result {
                assert!(format!("{error:?}").contains(REASON), "{context}");
            }
            assert_sound(&scratch, &key, &promises, &context, is_done || is_thorough(operations));
            if is_done {
                // An answer that is lost at the very end may go unnoticed, but nothing shorter than this.
                assert!(operations > 8, "{context}");
                break;
            }
            if is_thorough(operations) {
                run(&scratch.open_with(&key)).unwrap_or_else(|error| panic!("again, {context}: {error:?}"));
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
        levee_vault::prune(vault, &prune_options(), Timestamp::now(), &()).map(drop)
    });
}

#[test]
fn freeing_space_that_breaks_anywhere_leaves_a_sound_repository() {
    break_everywhere("recover space", prepare_prune, |vault| {
        let options = PruneOptions { recover_space: true, ..prune_options() };
        levee_vault::prune(vault, &options, Timestamp::now(), &()).map(drop)
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
                None => Ok(()),
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
    break_everywhere("backup", prepare, |vault| store(vault, &[2, 3, 4]).map(drop));
}

#[test]
fn a_copy_that_breaks_anywhere_leaves_two_sound_repositories() {
    let source = Scratch::new();
    let from = source.init();
    for seeds in [&[1, 2, 3][..], &[3, 4], &[1, 5]] {
        store(&from, seeds).unwrap();
    }
    let prepare = |scratch: &Scratch| vec![store(&scratch.init(), &[3, 9]).unwrap()];
    break_everywhere("copy", prepare, |vault| levee_vault::copy(&from, vault, &CopyOptions::default(), &()).map(drop));
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
