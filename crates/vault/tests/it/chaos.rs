//! Two streams, a folder that is backed up again and again, a prune, forgetting and taking it back, and stock restic at
//! once, in random order. How long by `LEVEE_VAULT_CHAOS_SECONDS`, another order by `LEVEE_VAULT_CHAOS_SEED`.

use std::collections::BTreeMap;
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

use crate::late_listing::{Late, LateListing};
use crate::support::*;

const SECONDS_DEFAULT: u64 = 5;
const FILE_BYTES: usize = 50_000;
/// So few different contents that what one snapshot drops the next one soon refers to again.
const CONTENTS: u64 = 12;
/// In the folder that is backed up again and again.
const FILES: usize = 12;
const DIRECTORIES: usize = 3;

/// In what stock restic backs up.
const RESTIC_FILES: u64 = 3;

/// Restoring them by stock restic takes half a second each.
const RESTORED_MAX: usize = 20;

/// In so long a run everything must have succeeded at least once: what never runs loses nothing.
const SURE_SECONDS: u64 = 30;

/// What the workers do, by their numbers.
const WORKERS: [&str; 6] =
    ["streams", "snapshots forgotten", "prunes", "backups of restic", "streams beside these", "backups of the folder"];

/// Whether it was done. It may have given way to others, or found nothing to do, and doesn't count then.
type Done = Result<bool, Error>;

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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Maker {
    Stream,
    Folder,
    Restic,
}

/// A snapshot that was reported as saved.
struct Promise {
    snapshot: SnapshotId,
    /// By path, the seed of each content.
    files: Vec<(PathBuf, u64)>,
    maker: Maker,
}

impl Promise {
    fn assert_kept(&self, seed: u64, read: impl Fn(&Path) -> Vec<u8>) {
        let Self { snapshot, files, maker } = self;
        for (path, content) in files {
            assert!(read(path) == noise(FILE_BYTES, *content), "seed {seed}, {snapshot} of {maker:?}: {path:?}");
        }
    }
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
    fn back_up(&self, world: &World, dice: &mut Dice, promises: &Promises) -> Done {
        self.change(dice.below(FILES as u64) as usize, dice.below(CONTENTS));
        let options = BackupOptions { patience: Duration::from_secs(2), ..backup_options(&self.root) };
        let summary = levee_vault::backup(&world.open(), &options, &())?;
        assert!(summary.errors.is_empty(), "{:?}", summary.errors);
        self.taken_over.fetch_add(summary.files_unmodified, Ordering::Relaxed);
        let seeds = *self.seeds.lock().unwrap();
        let files = seeds.into_iter().enumerate().map(|(number, seed)| (self.path(number), seed)).collect();
        let promise = Promise { snapshot: summary.snapshot_id.unwrap(), files, maker: Maker::Folder };
        promises.lock().unwrap().push(promise);
        Ok(true)
    }
}

/// What stock restic backs up.
struct ResticSource {
    root: PathBuf,
    /// By path, the seed of each content.
    seeds: Mutex<BTreeMap<PathBuf, u64>>,
}

impl ResticSource {
    fn make(root: PathBuf) -> Self {
        std::fs::create_dir(&root).unwrap();
        Self { root, seeds: Mutex::default() }
    }

    fn back_up(&self, world: &World, dice: &mut Dice, promises: &Promises) -> Done {
        let path = self.root.join(format!("file-{}", dice.below(RESTIC_FILES)));
        let content = dice.below(CONTENTS);
        std::fs::write(&path, noise(FILE_BYTES, content)).unwrap();
        self.seeds.lock().unwrap().insert(path, content);
        let output = world.scratch.restic_output(&["backup", "--no-cache", "--json", self.root.to_str().unwrap()]);
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let locked = output.status.code() == Some(11) || said.contains("lock");
            // An agent forgets beside others: restic gives up on a snapshot that goes while it lists them.
            let vanished = said.contains("Error loading snapshot") && said.contains("no such file");
            assert!(locked || vanished, "{output:?}");
            return Ok(false);
        }
        let snapshot = snapshot_of_restic(&world.scratch, &output.stdout);
        let files = self.seeds.lock().unwrap().clone().into_iter().collect();
        promises.lock().unwrap().push(Promise { snapshot, files, maker: Maker::Restic });
        Ok(true)
    }
}

/// The snapshot that restic says it has saved. Some versions say but the first digits of its id.
fn snapshot_of_restic(scratch: &Scratch, said: &[u8]) -> SnapshotId {
    let said = String::from_utf8_lossy(said);
    let mut messages = said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let summary = messages.find(|message| message["message_type"] == "summary");
    let summary = summary.unwrap_or_else(|| panic!("restic says no summary: {said}"));
    let digits = summary["snapshot_id"].as_str().unwrap();
    let files = scratch.files("snapshots");
    let mut names = files.iter().filter_map(|path| path.file_name()?.to_str()).filter(|name| name.starts_with(digits));
    names.find_map(|name| name.parse().ok()).unwrap_or_else(|| panic!("restic's snapshot is not there: {summary}"))
}

/// What is at work, and on what.
struct World {
    scratch: Scratch,
    /// Its listings are late, of what comes and of what goes.
    store: LateListing,
}

impl World {
    fn open(&self) -> Vault {
        Vault::open(Arc::new(self.store.clone()), &password()).unwrap()
    }
}

fn back_up(world: &World, dice: &mut Dice, promises: &Promises) -> Done {
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
    promises.lock().unwrap().push(Promise { snapshot, files, maker: Maker::Stream });
    Ok(true)
}

fn forget_one(world: &World, dice: &mut Dice, promises: &Promises) -> Done {
    let forgotten = {
        let mut promises = promises.lock().unwrap();
        if promises.len() < 4 {
            return Ok(false);
        }
        let position = dice.below(promises.len() as u64) as usize;
        promises.swap_remove(position)
    };
    let vault = world.open();
    if dice.below(2) == 0 {
        // As an agent's policy does it: beside running backups.
        return vault.remove_snapshot(&forgotten.snapshot).map(|()| true);
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
        Ok(report) if report.snapshots.is_empty() => Ok(true),
        Ok(_) => {
            promises.lock().unwrap().push(forgotten);
            Ok(true)
        }
        Err(Error::NotForgotten { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

fn prune(world: &World, dice: &mut Dice, now: Timestamp) -> Done {
    let options = PruneOptions {
        max_unused: MaxUnused::Bytes(0),
        grace: SignedDuration::from_hours(1),
        patience: Duration::from_millis(500 + dice.below(2000)),
        ..PruneOptions::default()
    };
    let report = levee_vault::prune(&world.open(), &options, now, &())?;
    assert!(report.problems.is_empty(), "{report:?}");
    Ok(true)
}

#[test]
fn backups_prunes_and_stock_restic_at_once_lose_nothing() {
    // Each prune believes that half an hour has passed since the last: packs come to be deleted.
    run(Duration::ZERO, |prunes, _| SignedDuration::from_mins(30) * prunes);
}

/// Backups and prunes overlook each other's locks then, and see snapshots, index files and packs that are gone. The hour of
/// grace passes in six seconds: it is longer than listings are late and any backup or undoing here takes, as a day is
/// everywhere.
#[test]
fn listings_that_come_late_lose_nothing() {
    run(Duration::from_millis(150), |_, elapsed| SignedDuration::try_from(elapsed).unwrap() * 600);
}

/// `ahead` says how far the clock of prunes is ahead after so many of them and so long.
fn run(late: Duration, ahead: fn(i32, Duration) -> SignedDuration) {
    let seed = from_environment("LEVEE_VAULT_CHAOS_SEED").unwrap_or_else(|| Timestamp::now().as_nanosecond() as u64);
    let seconds = from_environment("LEVEE_VAULT_CHAOS_SECONDS").unwrap_or(SECONDS_DEFAULT);
    println!("LEVEE_VAULT_CHAOS_SEED={seed}");
    let scratch = Scratch::new();
    let store = LateListing::new(LocalStore::new(scratch.path("repository")), Late::For { longest: late, seed });
    let world = World { scratch, store };
    let scratch = &world.scratch;
    scratch.init();
    // The new vault's key is in the list.
    std::thread::sleep(late);
    let source = ResticSource::make(scratch.path("source"));
    let (promises, over) = (Promises::default(), AtomicBool::new(false));
    let prunes = AtomicU64::new(0);
    let folder = Folder::make(scratch.path("folder"));
    let counts: [AtomicU64; WORKERS.len()] = std::array::from_fn(|_| AtomicU64::new(0));
    let started = Instant::now();
    let repeat = |number: usize, run: &dyn Fn(&mut Dice) -> Done| {
        let mut dice = Dice(seed ^ number as u64);
        while !over.load(Ordering::Relaxed) {
            match run(&mut dice) {
                Ok(true) => {
                    counts[number].fetch_add(1, Ordering::Relaxed);
                }
                Ok(false) | Err(Error::Locked { .. }) => {}
                Err(error) => panic!("seed {seed}, {}: {error:?}", WORKERS[number]),
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
        scope.spawn(move || repeat(3, &|dice| source.back_up(world, dice, promises)));
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
    let counts = counts.map(AtomicU64::into_inner);
    println!("{WORKERS:?}: {counts:?}");
    println!("{} files were taken over from a parent", folder.taken_over.load(Ordering::Relaxed));
    let report = levee_vault::check(&vault, READ_ALL, &()).unwrap();
    assert!(report.is_sound(), "seed {seed}: {report:?}");
    scratch.restic(&["check", "--read-data"]);
    let promises = promises.into_inner().unwrap();
    for promise in &promises {
        let snapshot = &promise.snapshot;
        vault.open_snapshot(snapshot).unwrap_or_else(|error| panic!("seed {seed}, {snapshot}: {error:?}"));
        promise.assert_kept(seed, |path| vault.read_file(snapshot, path).unwrap());
    }
    let last_of = |maker: Maker| promises.iter().rev().filter(move |promise| promise.maker == maker).take(RESTORED_MAX);
    for (maker, root) in [(Maker::Folder, &folder.root), (Maker::Restic, &source.root)] {
        for promise in last_of(maker) {
            let snapshot = promise.snapshot;
            let target = scratch.path(&format!("restored-{snapshot}"));
            let restored = restore(&vault, snapshot, root, &target);
            assert_eq!(restored.files_restored, promise.files.len() as u64, "seed {seed}, {snapshot} of {maker:?}");
            promise.assert_kept(seed, |path| std::fs::read(target.join(path.strip_prefix(root).unwrap())).unwrap());
        }
    }
    // Restic brings its own back as well.
    for promise in last_of(Maker::Restic) {
        let snapshot = promise.snapshot.to_string();
        let target = scratch.path(&format!("restored-by-restic-{snapshot}"));
        scratch.restic(&["restore", &snapshot, "--target", target.to_str().unwrap()]);
        promise.assert_kept(seed, |path| std::fs::read(target.join(path.strip_prefix("/").unwrap())).unwrap());
    }
    for (name, count) in WORKERS.iter().zip(counts) {
        assert!(count > 0 || seconds < SURE_SECONDS, "seed {seed}: no {name} in {seconds} s");
    }
}
