//! Two streams, a folder that is backed up again and again, a prune, forgetting and taking it back, and stock restic at
//! once, in random order. How long by `LEVEE_VAULT_CHAOS_SECONDS`, another order by `LEVEE_VAULT_CHAOS_SEED`.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use levee_store::LocalStore;
use levee_vault::{
    BackupOptions, Chunking, Error, ForgetOptions, MaxUnused, NodeMeta, PruneOptions, SnapshotId, SnapshotOptions,
    SnapshotSelection, SnapshotWriter, UndeleteOptions, Vault,
};

use crate::late_listing::LateListing;
use crate::support::*;

const SECONDS_DEFAULT: u64 = 5;
const FILE_BYTES: usize = 50_000;
/// So few different contents that what one snapshot drops the next one soon refers to again.
const CONTENTS: u64 = 12;
/// In the folder that is backed up again and again.
const FILES: usize = 12;
const DIRECTORIES: usize = 3;

/// Restoring them by stock restic takes half a second each.
const RESTORED_MAX: usize = 20;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// A snapshot that was reported as saved.
struct Promise {
    snapshot: SnapshotId,
    /// By path, the seed of each content.
    files: Vec<(PathBuf, u64)>,
    is_of_folder: bool,
}

/// Those that were not forgotten since.
type Promises = Mutex<Vec<Promise>>;

/// A folder of which little changes from one snapshot to the next: the rest is taken over from the parent, whose data
/// forgetting and prunes may be about to remove.
struct Folder {
    root: PathBuf,
    /// Of the content of each file.
    seeds: Mutex<[u64; FILES]>,
    taken_over: AtomicU64,
}

impl Folder {
    fn make(root: PathBuf) -> Self {
        for directory in 0..DIRECTORIES {
            std::fs::create_dir_all(root.join(directory.to_string())).unwrap();
        }
        let folder = Self { root, seeds: Mutex::new([0; FILES]), taken_over: AtomicU64::new(0) };
        (0..FILES).for_each(|number| folder.change(number, number as u64 % CONTENTS));
        folder
    }

    fn path(&self, number: usize) -> PathBuf {
        self.root.join((number % DIRECTORIES).to_string()).join(number.to_string())
    }

    fn change(&self, number: usize, seed: u64) {
        std::fs::write(self.path(number), noise(FILE_BYTES, seed)).unwrap();
        self.seeds.lock().unwrap()[number] = seed;
    }

    /// With the snapshot before it as its parent, unless that is forgotten.
    fn back_up(&self, world: &World, dice: &mut Dice, promises: &Promises) -> Result<(), Error> {
        self.change(dice.below(FILES as u64) as usize, dice.below(CONTENTS));
        let options = BackupOptions { patience: Duration::from_secs(2), ..backup_options(&self.root) };
        let summary = levee_vault::backup(&world.open(), &options, &())?;
        assert!(summary.errors.is_empty(), "{:?}", summary.errors);
        self.taken_over.fetch_add(summary.files_unmodified, Ordering::Relaxed);
        let seeds = *self.seeds.lock().unwrap();
        let files = seeds.into_iter().enumerate().map(|(number, seed)| (self.path(number), seed)).collect();
        let promise = Promise { snapshot: summary.snapshot_id.unwrap(), files, is_of_folder: true };
        promises.lock().unwrap().push(promise);
        Ok(())
    }
}

/// What is at work, and on what.
struct World {
    scratch: Scratch,
    /// Listings are so late.
    late: Duration,
}

impl World {
    fn open(&self) -> Vault {
        let store = LateListing::new(LocalStore::new(self.scratch.path("repository")), self.late);
        Vault::open(Arc::new(store), &password()).unwrap()
    }
}

fn back_up(world: &World, dice: &mut Dice, promises: &Promises) -> Result<(), Error> {
    let vault = world.open();
    let seeds: Vec<u64> = (0..=CONTENTS).filter(|_| dice.below(3) == 0).collect();
    let mut writer = SnapshotWriter::begin(&vault, SnapshotOptions::default())?;
    let meta = NodeMeta::new(0o600, Timestamp::UNIX_EPOCH);
    for seed in &seeds {
        let content = noise(FILE_BYTES, *seed);
        writer.file(Path::new(&format!("{seed}")), &meta, &mut &content[..], Chunking::Content)?;
        std::thread::sleep(Duration::from_millis(dice.below(20)));
    }
    let snapshot = writer.finish()?.snapshot_id.unwrap();
    let files = seeds.into_iter().map(|seed| (PathBuf::from(seed.to_string()), seed)).collect();
    promises.lock().unwrap().push(Promise { snapshot, files, is_of_folder: false });
    Ok(())
}

fn forget_one(world: &World, dice: &mut Dice, promises: &Promises) -> Result<(), Error> {
    let forgotten = {
        let mut promises = promises.lock().unwrap();
        if promises.len() < 4 {
            return Ok(());
        }
        let position = dice.below(promises.len() as u64) as usize;
        promises.swap_remove(position)
    };
    let vault = world.open();
    if dice.below(2) == 0 {
        // As an agent's policy does it: beside running backups.
        return vault.remove_snapshot(&forgotten.snapshot);
    }
    let ids = vec![forgotten.snapshot.to_string()];
    let selection = SnapshotSelection { ids, ..SnapshotSelection::default() };
    let patience = Duration::from_secs(2);
    let options = ForgetOptions { selection: selection.clone(), patience, ..ForgetOptions::default() };
    if let Err(error) = levee_vault::forget(&vault, &options, Timestamp::now()) {
        promises.lock().unwrap().push(forgotten);
        return Err(error);
    }
    std::thread::sleep(Duration::from_millis(dice.below(3000)));
    // Sometimes in time, and sometimes after prunes have deleted a part of it.
    let options = UndeleteOptions { selection, patience, ..UndeleteOptions::default() };
    match levee_vault::undelete(&vault, &options, Timestamp::now(), &()) {
        Ok(report) if report.snapshots.is_empty() => Ok(()),
        Ok(_) => {
            promises.lock().unwrap().push(forgotten);
            Ok(())
        }
        Err(Error::NotForgotten { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

fn prune(world: &World, dice: &mut Dice, now: Timestamp) -> Result<(), Error> {
    let options = PruneOptions {
        max_unused: MaxUnused::Bytes(0),
        grace: SignedDuration::from_hours(1),
        patience: Duration::from_millis(500 + dice.below(2000)),
        ..PruneOptions::default()
    };
    let report = levee_vault::prune(&world.open(), &options, now, &())?;
    assert!(report.problems.is_empty(), "{report:?}");
    Ok(())
}

#[test]
fn backups_prunes_and_stock_restic_at_once_lose_nothing() {
    // Each prune believes that half an hour has passed since the last: packs come to be deleted.
    run(Duration::ZERO, |prunes, _| SignedDuration::from_mins(30) * prunes);
}

/// Backups and prunes overlook each other's locks then. The hour of grace passes in six seconds: it is longer than listings are
/// late and any backup or undoing here takes, as a day is everywhere.
#[test]
fn listings_that_come_late_lose_nothing() {
    run(Duration::from_millis(150), |_, elapsed| SignedDuration::try_from(elapsed).unwrap() * 600);
}

/// `ahead` says how far the clock of prunes is ahead after so many of them and so long.
fn run(late: Duration, ahead: fn(i32, Duration) -> SignedDuration) {
    let seed = from_environment("LEVEE_VAULT_CHAOS_SEED").unwrap_or_else(|| Timestamp::now().as_nanosecond() as u64);
    let seconds = from_environment("LEVEE_VAULT_CHAOS_SECONDS").unwrap_or(SECONDS_DEFAULT);
    println!("LEVEE_VAULT_CHAOS_SEED={seed}");
    let world = World { scratch: Scratch::new(), late };
    let scratch = &world.scratch;
    scratch.init();
    // The new vault's key is in the list.
    std::thread::sleep(late);
    let source = scratch.path("source");
    std::fs::create_dir(&source).unwrap();
    let (promises, over) = (Promises::default(), AtomicBool::new(false));
    let prunes = AtomicU64::new(0);
    let folder = Folder::make(scratch.path("folder"));
    let counts: [AtomicU64; 6] = std::array::from_fn(|_| AtomicU64::new(0));
    let started = Instant::now();
    let repeat = |number: usize, run: &dyn Fn(&mut Dice) -> Result<(), Error>| {
        let mut dice = Dice(seed ^ number as u64);
        while !over.load(Ordering::Relaxed) {
            match run(&mut dice) {
                Ok(()) => {
                    counts[number].fetch_add(1, Ordering::Relaxed);
                }
                Err(Error::Locked { .. }) => {}
                Err(error) => panic!("seed {seed}, worker {number}: {error:?}"),
            }
            std::thread::sleep(Duration::from_millis(dice.below(300)));
        }
    };
    std::thread::scope(|scope| {
        let (world, promises, prunes, source, repeat) = (&world, &promises, &prunes, &source, &repeat);
        let folder = &folder;
        scope.spawn(move || repeat(5, &|dice| folder.back_up(world, dice, promises)));
        for number in [0, 4] {
            scope.spawn(move || repeat(number, &|dice| back_up(world, dice, promises)));
        }
        scope.spawn(move || repeat(1, &|dice| forget_one(world, dice, promises)));
        scope.spawn(move || {
            repeat(2, &|dice| {
                let number = prunes.fetch_add(1, Ordering::Relaxed) as i32;
                prune(world, dice, Timestamp::now() + ahead(number, started.elapsed()))
            });
        });
        scope.spawn(move || {
            repeat(3, &|dice| {
                let content = noise(FILE_BYTES, dice.below(CONTENTS));
                std::fs::write(source.join(format!("file-{}", dice.below(3))), content).unwrap();
                let output = scratch.restic_output(&["backup", "--no-cache", source.to_str().unwrap()]);
                let said = String::from_utf8_lossy(&output.stderr);
                let locked = output.status.code() == Some(11) || said.contains("lock");
                // An agent forgets beside others: restic gives up on a snapshot that goes while it lists them.
                let vanished = said.contains("Error loading snapshot") && said.contains("no such file");
                assert!(output.status.success() || locked || vanished, "seed {seed}: {output:?}");
                Ok(())
            });
        });
        while started.elapsed() < Duration::from_secs(seconds) {
            std::thread::sleep(Duration::from_millis(50));
        }
        over.store(true, Ordering::Relaxed);
    });
    if late > Duration::ZERO {
        // A backup and a prune may have overlooked each other's locks: the next prune takes back what is referred to.
        std::thread::sleep(late);
        let now = Timestamp::now() + ahead(prunes.into_inner() as i32, started.elapsed());
        prune(&world, &mut Dice(seed), now).unwrap();
    }
    let vault: Vault = scratch.open();
    println!("{counts:?} streams, snapshots forgotten, prunes, backups of restic, streams, backups of the folder");
    println!("{} files were taken over from a parent", folder.taken_over.load(Ordering::Relaxed));
    let report = levee_vault::check(&vault, READ_ALL, &()).unwrap();
    assert!(report.is_sound(), "seed {seed}: {report:?}");
    scratch.restic(&["check", "--read-data"]);
    let promises = promises.into_inner().unwrap();
    for Promise { snapshot, files, .. } in &promises {
        vault.open_snapshot(snapshot).unwrap_or_else(|error| panic!("seed {seed}, {snapshot}: {error:?}"));
        for (path, content) in files {
            let read = vault.read_file(snapshot, path).unwrap();
            assert!(read == noise(FILE_BYTES, *content), "seed {seed}, {snapshot}: {path:?}");
        }
    }
    // The last ones of the folder.
    let of_folder = promises.iter().rev().filter(|promise| promise.is_of_folder);
    for (number, Promise { snapshot, files, .. }) in of_folder.take(RESTORED_MAX).enumerate() {
        let target = scratch.path(&format!("restored-{number}"));
        let restored = restore(&vault, *snapshot, &folder.root, &target);
        assert_eq!(restored.files_restored, FILES as u64, "seed {seed}, {snapshot}");
        for (path, content) in files {
            let read = std::fs::read(target.join(path.strip_prefix(&folder.root).unwrap())).unwrap();
            assert!(read == noise(FILE_BYTES, *content), "seed {seed}, {snapshot}: {path:?}");
        }
    }
    // Those of restic as well.
    let is_of_restic = |paths: &[String]| paths.iter().any(|path| Path::new(path) == source);
    let of_restic = vault.snapshots().unwrap().into_iter().filter(|(_, snapshot)| is_of_restic(&snapshot.paths));
    for (id, _) in of_restic.take(RESTORED_MAX) {
        scratch.restic(&["restore", &id.to_string(), "--target", scratch.path("restored").to_str().unwrap()]);
    }
}
