//! Backups, copies and prunes that store several packs at once, on a store that fails in the middle of it. A pack that
//! could not be stored must never be taken for one that is.

use jiff::Timestamp;
use levee_vault::CopyOptions;

use crate::breaking::{Break, Counted, all_faults};
use crate::faults_of_removal::{Pass, back_up_folder, break_in, copied, fill, prune_options, store_files};
use crate::support::*;

/// Eight of them fill two packs of 16 MiB, and begin a third.
const FILE_BYTES: usize = 5 << 20;

/// At every write and removal the store fails once; at every third it breaks for good. Every operation in every way
/// takes minutes.
fn passes() -> Vec<Pass> {
    if all_faults() {
        return Pass::all();
    }
    let once = Pass { ways: vec![Break::Once], step: 1, counted: Counted::Changes };
    vec![once, Pass { ways: vec![Break::Torn, Break::After], step: 3, counted: Counted::Changes }]
}

/// How many packs there are; a test with too few says nothing.
fn packs(scratch: &Scratch) -> usize {
    scratch.files("data").len()
}

#[test]
fn a_backup_of_several_packs_notices_each_that_is_not_stored() {
    let source = Scratch::new();
    let (folder, seeds) = (source.path("source"), [1, 2, 3, 4, 5, 6, 7, 8]);
    fill(&folder, &seeds, FILE_BYTES);
    let whole = Scratch::new();
    back_up_folder(&whole.init(), &folder, &seeds, FILE_BYTES).unwrap();
    // One of them holds the directories.
    assert!(packs(&whole) >= 4, "{}", packs(&whole));
    let prepare = |scratch: &Scratch| vec![store_files(&scratch.init(), &[9], 60_000).unwrap()];
    break_in(&passes(), "backup of several packs", prepare, |vault| {
        Ok(vec![back_up_folder(vault, &folder, &seeds, FILE_BYTES)?.0])
    });
}

#[test]
fn a_copy_of_several_packs_notices_each_that_is_not_stored() {
    let source = Scratch::new();
    let from = source.init();
    let sources = [&[1, 2, 3, 4, 5][..], &[5, 6, 7, 8]].map(|seeds| store_files(&from, seeds, FILE_BYTES).unwrap());
    let whole = Scratch::new();
    levee_vault::copy(&from, &whole.init(), &CopyOptions::default(), &()).unwrap();
    assert!(packs(&whole) >= 4, "{}", packs(&whole));
    let prepare = |scratch: &Scratch| vec![store_files(&scratch.init(), &[9], 60_000).unwrap()];
    break_in(&passes(), "copy of several packs", prepare, |vault| {
        let report = levee_vault::copy(&from, vault, &CopyOptions::default(), &())?;
        Ok(copied(&report, &sources, vault))
    });
}

#[test]
fn a_prune_that_repacks_several_packs_notices_each_that_is_not_stored() {
    // Of each pack a part is in use, in whichever order several threads fill it: six of these fit into one, and every second
    // stays. What is repacked fills one and begins another.
    const SMALL_BYTES: usize = FILE_BYTES / 2;
    let prepare = |scratch: &Scratch| {
        let vault = scratch.init();
        let all: Vec<u64> = (1..=16).collect();
        let odd: Vec<u64> = (1..=16).step_by(2).collect();
        let all = store_files(&vault, &all, SMALL_BYTES).unwrap();
        let kept = store_files(&vault, &odd, SMALL_BYTES).unwrap();
        vault.remove_snapshot(all.snapshot()).unwrap();
        vec![kept]
    };
    let whole = Scratch::new();
    prepare(&whole);
    let report = levee_vault::prune(&whole.open(), &prune_options(), Timestamp::now(), &()).unwrap();
    assert!(report.figures.packs_repacked >= 3, "{report:?}");
    assert!(report.figures.repacked_bytes >= 8 * SMALL_BYTES as u64, "{report:?}");
    break_in(&passes(), "prune of several packs", prepare, |vault| {
        levee_vault::prune(vault, &prune_options(), Timestamp::now(), &()).map(|_| Vec::new())
    });
}
