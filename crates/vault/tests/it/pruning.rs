use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use levee_vault::{
    Chunking, Error, Id, Lock, LockMode, MaxUnused, NodeMeta, PruneOptions, PruneReport, SnapshotId, SnapshotOptions,
    SnapshotWriter, Vault,
};

use crate::support::*;

const HOUR: SignedDuration = SignedDuration::from_hours(1);

fn options() -> PruneOptions {
    PruneOptions { max_unused: MaxUnused::Bytes(0), ..PruneOptions::default() }
}

/// Prunes as if it were so many hours later.
fn prune_after(vault: &Vault, hours: i64) -> PruneReport {
    let report = levee_vault::prune(vault, &options(), Timestamp::now() + HOUR * hours as i32, &()).unwrap();
    assert!(report.problems.is_empty(), "{report:?}");
    report
}

fn assert_sound(scratch: &Scratch) {
    let report = levee_vault::check(&scratch.open(), READ_ALL, &()).unwrap();
    assert!(report.is_sound(), "{report:?}");
    scratch.restic(&["check", "--read-data"]);
}

/// A stream's snapshot of files with noise of these seeds.
fn store(vault: &Vault, seeds: &[u64]) -> SnapshotId {
    let mut writer = SnapshotWriter::begin(vault, SnapshotOptions::default()).unwrap();
    add(&mut writer, seeds);
    writer.finish().unwrap().snapshot_id.unwrap()
}

const FILE_BYTES: usize = 200_000;

fn add(writer: &mut SnapshotWriter, seeds: &[u64]) {
    let meta = NodeMeta::new(0o600, Timestamp::UNIX_EPOCH);
    for seed in seeds {
        let name = format!("folder/{seed}");
        writer.file(Path::new(&name), &meta, &mut &noise(FILE_BYTES, *seed)[..], Chunking::Content).unwrap();
    }
}

fn assert_reads(vault: &Vault, snapshot: SnapshotId, seeds: &[u64]) {
    vault.open_snapshot(&snapshot).unwrap();
    for seed in seeds {
        let content = vault.read_file(&snapshot, Path::new(&format!("folder/{seed}"))).unwrap();
        assert!(content == noise(FILE_BYTES, *seed), "{snapshot} {seed}");
    }
}

#[test]
fn what_is_forgotten_leaves_the_index_first_and_the_store_a_day_later() {
    let scratch = Scratch::new();
    let vault = scratch.init();
    let gone = store(&vault, &[1, 2, 3]);
    let kept = store(&vault, &[3, 4]);
    assert_eq!(prune_after(&vault, 0).figures.packs_removed, 0);
    vault.remove_snapshot(&gone).unwrap();
    let packs = scratch.files("data");

    let before = scratch.files("");
    let foreseen =
        levee_vault::prune(&vault, &PruneOptions { dry_run: true, ..options() }, Timestamp::now(), &()).unwrap();
    assert_eq!(scratch.files(""), before, "a dry run changes nothing");

    let report = prune_after(&vault, 0);
    // The first snapshot's data lie in one pack, of which a third is used.
    assert_eq!(
        (report.figures.packs_removed, report.figures.packs_repacked, report.packs_deleted),
        (2, 1, 0),
        "{report:?}"
    );
    assert_eq!((foreseen.figures.packs_removed, foreseen.figures.packs_repacked), (2, 1), "{foreseen:?}");
    assert!(
        report.figures.removed_bytes > 3 * FILE_BYTES as u64 && report.figures.unused_bytes_left == 0,
        "{report:?}"
    );
    assert!((FILE_BYTES as u64..2 * FILE_BYTES as u64).contains(&report.figures.repacked_bytes), "{report:?}");
    assert!(scratch.files("data").is_superset(&packs), "nothing is deleted yet");
    assert_sound(&scratch);
    assert_reads(&vault, kept, &[3, 4]);

    let early = prune_after(&vault, 23);
    assert_eq!((early.packs_deleted, early.packs_waiting), (0, 2), "{early:?}");
    assert!(early.waiting_until.is_some_and(|until| until > Timestamp::now() + HOUR * 23));
    let late = prune_after(&vault, 25);
    assert_eq!((late.packs_deleted, late.packs_waiting), (2, 0), "{late:?}");
    assert_eq!(late.deleted_bytes, report.figures.removed_bytes);
    assert_sound(&scratch);
    assert_reads(&scratch.open(), kept, &[3, 4]);

    prune_after(&vault, 26);
    let settled = scratch.files("");
    let last = prune_after(&vault, 27);
    assert_eq!(scratch.files(""), settled, "with nothing to do nothing changes");
    assert_eq!((last.figures.unused_bytes, last.figures.packs_kept), (0, last.figures.packs_kept));
    // Stock restic finds nothing left to do.
    let restic = scratch.restic(&["prune", "--max-unused", "0"]);
    assert_eq!(scratch.files("data").len() as u64, last.figures.packs_kept, "{restic}");
}

#[test]
fn stock_restic_works_on_between_two_prunes() {
    let scratch = Scratch::new();
    let vault = scratch.init();
    let gone = store(&vault, &[1]);
    let kept = store(&vault, &[2]);
    vault.remove_snapshot(&gone).unwrap();
    prune_after(&vault, 0);
    let source = scratch.path("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), noise(100_000, 9)).unwrap();
    scratch.restic(&["backup", source.to_str().unwrap()]);
    // It writes the index anew, and the marks are gone with the old one.
    scratch.restic(&["prune"]);
    assert_sound(&scratch);
    prune_after(&vault, 25);
    assert_sound(&scratch);
    assert_reads(&scratch.open(), kept, &[2]);
}

#[test]
fn a_running_backup_delays_the_swap_and_loses_nothing() {
    let scratch = Scratch::new();
    let vault = scratch.init();
    let gone = store(&vault, &[1, 2]);
    vault.remove_snapshot(&gone).unwrap();
    let mut writer = SnapshotWriter::begin(&scratch.open(), SnapshotOptions::default()).unwrap();
    let index = scratch.files("index");
    let refused = levee_vault::prune(&vault, &options(), Timestamp::now(), &());
    assert!(matches!(refused, Err(Error::Locked { exclusive: false, .. })), "{refused:?}");
    assert!(scratch.files("index").is_superset(&index));
    // This writer has read the index before anything was marked, and relies on the old packs.
    add(&mut writer, &[1, 2]);
    let early = writer.finish().unwrap();
    assert_eq!(early.data_blobs, 0, "it was all there");
    // The next one sees the marks and stores its data again.
    let marked = scratch.open();
    let mut second = SnapshotWriter::begin(&marked, SnapshotOptions::default()).unwrap();
    add(&mut second, &[1, 2]);
    let late = second.finish().unwrap();
    assert!(late.data_blobs > 0, "what is about to go is stored again");
    let report = prune_after(&vault, 0);
    assert_eq!(report.snapshots, 2);
    assert_sound(&scratch);
    for snapshot in [early.snapshot_id.unwrap(), late.snapshot_id.unwrap()] {
        assert_reads(&scratch.open(), snapshot, &[1, 2]);
    }
}

#[test]
fn a_snapshot_that_comes_between_look_and_swap_keeps_its_packs() {
    let scratch = Scratch::new();
    let vault = scratch.init();
    let gone = store(&vault, &[1, 2]);
    vault.remove_snapshot(&gone).unwrap();
    let mut writer = SnapshotWriter::begin(&scratch.open(), SnapshotOptions::default()).unwrap();
    let patient = PruneOptions { patience: Duration::from_secs(60), ..options() };
    let report = std::thread::scope(|scope| {
        let pruning = scope.spawn(|| levee_vault::prune(&scratch.open(), &patient, Timestamp::now(), &()).unwrap());
        // It has looked when its marks stand in a second index file.
        let started = std::time::Instant::now();
        while scratch.files("index").len() < 2 && started.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(20));
        }
        add(&mut writer, &[1]);
        let snapshot = writer.finish().unwrap().snapshot_id.unwrap();
        (pruning.join().unwrap(), snapshot)
    });
    let (report, snapshot) = report;
    // The data's pack stays, and its trees' too: they are the same but for one entry.
    assert_eq!(report.figures.packs_removed, 1, "{report:?}");
    assert_sound(&scratch);
    assert_reads(&scratch.open(), snapshot, &[1]);
}

#[test]
fn what_a_writer_refers_to_that_was_thought_dead_is_taken_back() {
    let scratch = Scratch::new();
    let vault = scratch.init();
    let gone = store(&vault, &[1, 2]);
    // A machine that sleeps: its lock is removed by somebody else.
    let mut sleeper = SnapshotWriter::begin(&scratch.open(), SnapshotOptions::default()).unwrap();
    levee_vault::unlock(&vault, true).unwrap();
    vault.remove_snapshot(&gone).unwrap();
    let report = prune_after(&vault, 0);
    assert_eq!(report.figures.packs_removed, 2, "{report:?}");
    add(&mut sleeper, &[1, 2]);
    let snapshot = sleeper.finish().unwrap().snapshot_id.unwrap();
    assert!(!scratch.restic_output(&["check"]).status.success(), "its data are in no index");

    let report = prune_after(&vault, 48);
    assert!(report.packs_readopted > 0 && report.packs_deleted <= 1, "{report:?}");
    assert_sound(&scratch);
    assert_reads(&scratch.open(), snapshot, &[1, 2]);
    prune_after(&vault, 96);
    assert_sound(&scratch);
    assert_reads(&scratch.open(), snapshot, &[1, 2]);
}

#[test]
fn a_prune_refuses_when_something_is_nowhere() {
    let scratch = Scratch::new();
    let vault = scratch.init();
    let kept = store(&vault, &[1]);
    let gone = store(&vault, &[2]);
    vault.remove_snapshot(&gone).unwrap();
    let hidden: Vec<PathBuf> = scratch.files("data").into_iter().chain(scratch.files("index")).collect();
    assert_eq!(hidden.len(), 6);
    let (whole, away) = (scratch.path("whole"), scratch.path("away"));
    std::fs::rename(scratch.path("repository"), &whole).unwrap();
    let mut refused = 0;
    for hidden in hidden {
        let copied = Command::new("cp").arg("-a").args([&whole, &scratch.path("repository")]).status().unwrap();
        assert!(copied.success());
        std::fs::rename(&hidden, &away).unwrap();
        let before = scratch.files("");
        let result = levee_vault::prune(&scratch.open(), &options(), Timestamp::now(), &());
        if result.is_err() {
            assert_eq!(scratch.files(""), before, "{result:?}");
            refused += 1;
        }
        std::fs::rename(&away, &hidden).unwrap();
        assert_reads(&scratch.open(), kept, &[1]);
        std::fs::remove_dir_all(scratch.path("repository")).unwrap();
    }
    // Without a pack of the snapshot that is left. An index that is missing is made up for by the packs.
    assert_eq!(refused, 2);
}

/// A kept snapshot whose blobs stand in two packs that are both rewritten, the first of them in both; and the packs.
fn with_two_copies() -> (Scratch, SnapshotId, Vec<PathBuf>) {
    let scratch = Scratch::new();
    let vault = scratch.init();
    let unaware = scratch.open();
    let mut writer = SnapshotWriter::begin(&unaware, SnapshotOptions::default()).unwrap();
    let one = store(&vault, &[1, 2, 4]);
    add(&mut writer, &[1, 3, 5]);
    let two = writer.finish().unwrap().snapshot_id.unwrap();
    let kept = store(&scratch.open(), &[1, 2, 3]);
    vault.remove_snapshot(&one).unwrap();
    vault.remove_snapshot(&two).unwrap();
    let mut packs: Vec<PathBuf> = scratch.files("data").into_iter().collect();
    packs.retain(|pack| std::fs::metadata(pack).unwrap().len() > 3 * FILE_BYTES as u64);
    assert_eq!(packs.len(), 2);
    (scratch, kept, packs)
}

#[test]
fn of_two_copies_the_sound_one_is_never_dropped() {
    let (original, kept, packs) = with_two_copies();
    let key = original.open().master_key().clone();
    let rot = |position: usize| {
        move |pack: &Path| {
            let mut content = std::fs::read(pack).unwrap();
            content[position] ^= 1;
            std::fs::remove_file(pack).unwrap();
            std::fs::write(pack, content).unwrap();
        }
    };
    let cut = |pack: &Path| std::fs::OpenOptions::new().write(true).open(pack).unwrap().set_len(1000).unwrap();
    // Whichever of its blobs is rotten, and whichever of the packs it is.
    let places = [1, 3, 5].map(|half| half * FILE_BYTES / 2).map(rot);
    let damages = places.iter().map(|rot| rot as &dyn Fn(&Path)).chain([&cut as &dyn Fn(&Path)]);
    for (number, damage) in damages.enumerate() {
        for pack in &packs {
            let scratch = original.copied();
            damage(&scratch.path("repository").join(pack.strip_prefix(original.path("repository")).unwrap()));
            let pruned = levee_vault::prune(&scratch.open_with(&key), &options(), Timestamp::now(), &());
            let read = scratch.open_with(&key).read_file(&kept, Path::new("folder/1"));
            assert!(read.is_ok_and(|read| read == noise(FILE_BYTES, 1)), "{number} {}: {pruned:?}", pack.display());
        }
    }
}

#[test]
fn a_pack_that_is_cut_short_counts_for_nothing_that_is_elsewhere() {
    let scratch = Scratch::new();
    let vault = scratch.init();
    let unaware = scratch.open();
    let mut writer = SnapshotWriter::begin(&unaware, SnapshotOptions::default()).unwrap();
    // All of this one's pack is used, so that without damage it would be the one to stay.
    let kept = store(&vault, &[1]);
    let pack = scratch.files("data").into_iter().max_by_key(|pack| std::fs::metadata(pack).unwrap().len()).unwrap();
    add(&mut writer, &[1, 5]);
    vault.remove_snapshot(&writer.finish().unwrap().snapshot_id.unwrap()).unwrap();
    std::fs::OpenOptions::new().write(true).open(&pack).unwrap().set_len(1000).unwrap();
    prune_after(&scratch.open(), 0);
    prune_after(&scratch.open(), 48);
    assert_sound(&scratch);
    assert_reads(&scratch.open(), kept, &[1]);
}

#[test]
fn a_pack_that_is_cut_short_and_stays_keeps_no_sound_copy_from_being_written_anew() {
    let mut tried = 0;
    // Which of two contents stands at the end of a pack is a matter of threads.
    for doubled in [1, 2] {
        let scratch = Scratch::new();
        let vault = scratch.init();
        let unaware = scratch.open();
        let mut writer = SnapshotWriter::begin(&unaware, SnapshotOptions::default()).unwrap();
        let kept = store(&vault, &[1, 2]);
        let pack = scratch.files("data").into_iter().max_by_key(|pack| std::fs::metadata(pack).unwrap().len()).unwrap();
        // So much of this one is unused that it is rewritten, and the other is not.
        add(&mut writer, &[doubled, 5, 6, 7]);
        vault.remove_snapshot(&writer.finish().unwrap().snapshot_id.unwrap()).unwrap();
        let length = FILE_BYTES as u64 * 5 / 4;
        std::fs::OpenOptions::new().write(true).open(&pack).unwrap().set_len(length).unwrap();
        let reads = |seed: u64| scratch.open().read_file(&kept, Path::new(&format!("folder/{seed}"))).is_ok();
        if !(reads(1) && reads(2)) {
            continue;
        }
        tried += 1;
        let options = PruneOptions { max_unused: MaxUnused::Bytes(FILE_BYTES as u64 * 3 / 2), ..options() };
        for hours in [0, 48] {
            let now = Timestamp::now() + HOUR * hours;
            let report = levee_vault::prune(&scratch.open(), &options, now, &()).unwrap();
            assert!(report.problems.is_empty() && report.figures.packs_repacked == u64::from(hours == 0), "{report:?}");
        }
        assert!(reads(1) && reads(2), "doubled: {doubled}");
    }
    assert_eq!(tried, 1);
}

/// A kept snapshot with one file whose copies stand in two packs: one of which all is used, so that it would be the one to
/// stay, and one of which half is used.
fn with_a_wholly_used_copy() -> (Scratch, SnapshotId, [PathBuf; 2]) {
    let scratch = Scratch::new();
    let vault = scratch.init();
    let unaware = scratch.open();
    let mut writer = SnapshotWriter::begin(&unaware, SnapshotOptions::default()).unwrap();
    let largest = |packs: &mut dyn Iterator<Item = PathBuf>| {
        packs.max_by_key(|pack| std::fs::metadata(pack).unwrap().len()).unwrap()
    };
    let kept = store(&vault, &[1]);
    let before = scratch.files("data");
    let whole = largest(&mut before.iter().cloned());
    add(&mut writer, &[1, 5]);
    vault.remove_snapshot(&writer.finish().unwrap().snapshot_id.unwrap()).unwrap();
    let half = largest(&mut scratch.files("data").difference(&before).cloned());
    (scratch, kept, [whole, half])
}

/// Lets a bit rot in the middle of each of the files of a pack, which is as long as it was.
fn rot(pack: &Path, files: usize) {
    let mut content = std::fs::read(pack).unwrap();
    for file in 0..files {
        content[file * FILE_BYTES + FILE_BYTES / 2] ^= 1;
    }
    std::fs::remove_file(pack).unwrap();
    std::fs::write(pack, content).unwrap();
}

#[test]
fn a_rotten_copy_in_a_pack_that_would_stay_has_no_sound_one_dropped() {
    for is_known in [false, true] {
        let (scratch, kept, [whole, half]) = with_a_wholly_used_copy();
        rot(&whole, 1);
        let name: Id = whole.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let damaged_packs = is_known.then_some(name).into_iter().collect();
        let options = PruneOptions { damaged_packs, ..options() };
        for hours in [0, 48] {
            let now = Timestamp::now() + HOUR * hours;
            let dry_run = PruneOptions { dry_run: true, ..options.clone() };
            let foreseen = levee_vault::prune(&scratch.open(), &dry_run, now, &()).unwrap();
            let report = levee_vault::prune(&scratch.open(), &options, now, &()).unwrap();
            assert!(report.problems.is_empty(), "{report:?}");
            let counts = |report: &PruneReport| (report.figures.packs_removed, report.figures.packs_repacked);
            assert_eq!(counts(&foreseen), counts(&report), "{hours}");
            assert_reads(&scratch.open(), kept, &[1]);
        }
        assert!(!whole.exists() && !half.exists());
        assert_sound(&scratch);
    }
}

#[test]
fn where_no_copy_is_sound_each_stays() {
    let (scratch, _, [whole, half]) = with_a_wholly_used_copy();
    rot(&whole, 1);
    rot(&half, 2);
    for hours in [0, 48] {
        let report = levee_vault::prune(&scratch.open(), &options(), Timestamp::now() + HOUR * hours, &()).unwrap();
        assert!(!report.problems.is_empty(), "{report:?}");
        assert!(whole.exists() && half.exists(), "{report:?}");
    }
}

#[test]
fn one_prune_at_a_time() {
    let scratch = Scratch::new();
    let vault = scratch.init();
    let other = Lock::take(&scratch.open(), LockMode::Maintenance).unwrap();
    assert!(matches!(
        levee_vault::prune(&vault, &options(), Timestamp::now(), &()),
        Err(Error::Locked { exclusive: false, .. })
    ));
    drop(other);
    prune_after(&vault, 0);
}

#[test]
fn with_no_grace_everything_goes_at_once() {
    let scratch = Scratch::new();
    let vault = scratch.init();
    let gone = store(&vault, &[1, 2, 3]);
    let kept = store(&vault, &[3]);
    vault.remove_snapshot(&gone).unwrap();
    let at_once = PruneOptions { grace: SignedDuration::ZERO, ..options() };
    let report = levee_vault::prune(&vault, &at_once, Timestamp::now(), &()).unwrap();
    assert_eq!((report.figures.packs_removed, report.packs_deleted, report.packs_waiting), (2, 2, 0), "{report:?}");
    assert_eq!(scratch.files("data").len() as u64, report.figures.packs_kept + report.figures.packs_repacked);
    assert_sound(&scratch);
    assert_reads(&scratch.open(), kept, &[3]);
}

#[test]
fn a_full_store_gets_its_space_back_before_anything_is_written() {
    let scratch = Scratch::new();
    let vault = scratch.init();
    let (gone, half) = (store(&vault, &[1, 2, 3]), store(&vault, &[4, 5]));
    let kept = store(&vault, &[4]);
    store(&vault, &[6]);
    vault.remove_snapshot(&half).unwrap();
    prune_after(&vault, 0);
    vault.remove_snapshot(&gone).unwrap();
    let options = PruneOptions { recover_space: true, ..options() };
    // Neither beside a backup.
    let beside = Lock::take(&vault, LockMode::Shared).unwrap();
    let refused = levee_vault::prune(&vault, &options, Timestamp::now(), &());
    assert!(matches!(refused, Err(Error::Locked { .. })), "{refused:?}");
    drop(beside);
    let report = levee_vault::prune(&vault, &options, Timestamp::now(), &()).unwrap();
    assert!(report.packs_deleted >= 4 && report.figures.packs_repacked == 0, "{report:?}");
    assert_eq!(scratch.files("data").len() as u64, report.figures.packs_kept);
    assert_sound(&scratch);
    assert_reads(&scratch.open(), kept, &[4]);
    assert_eq!(prune_after(&vault, 48).packs_deleted, 0);
}
