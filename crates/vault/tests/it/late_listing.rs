//! A store whose listings come late: what was written a moment ago is there, but in no list yet, and what was removed is
//! gone, but still listed. As services of many machines have it, and NFS.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use levee_store::{Entry, FileType, LocalStore, Result, Store};
use levee_vault::{
    Cache, CheckReport, CopyOptions, Error, ForgetOptions, Id, MasterKey, MaxUnused, Password, PruneOptions,
    PruneReport, SnapshotId, SnapshotSelection, UndeleteOptions, Vault, list_forgotten,
};

use crate::support::*;

/// How late listings are.
#[derive(Clone, Copy, Debug)]
pub enum Late {
    /// New files so long after they were received, and each removed one some time up to this, by the seed.
    For { longest: Duration, seed: u64 },
    /// So many listings of its type have a change wrong, counted from the change.
    Listings { added: usize, removed: usize },
}

#[derive(Clone)]
pub struct LateListing {
    store: LocalStore,
    late: Late,
    history: Arc<Mutex<History>>,
}

#[derive(Default)]
struct History {
    listings: HashMap<FileType, usize>,
    /// After how many listings of its type each file was written.
    added: HashMap<(FileType, String), usize>,
    removed: Vec<Removed>,
}

struct Removed {
    file_type: FileType,
    entry: Entry,
    at: Instant,
    /// How long it stays listed, where that goes by time.
    stays: Duration,
    after_listings: usize,
}

impl History {
    fn listings(&self, file_type: FileType) -> usize {
        self.listings.get(&file_type).copied().unwrap_or_default()
    }
}

impl LateListing {
    /// All clones share what they know of changes.
    pub fn new(store: LocalStore, late: Late) -> Self {
        Self { store, late, history: Arc::default() }
    }

    fn stays(&self, name: &str) -> Duration {
        let Late::For { longest, seed } = self.late else { return Duration::ZERO };
        let digits = name.get(..16).and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or_default();
        longest.mul_f64(((digits ^ seed) % 1000) as f64 / 1000.0)
    }
}

impl Store for LateListing {
    levee_store::forward!(store: create, read, read_range, size_bytes, location);

    fn write(&self, file_type: FileType, name: &str, content: &[u8]) -> Result<()> {
        self.store.write(file_type, name, content)?;
        let mut history = self.history.lock().unwrap();
        let listings = history.listings(file_type);
        history.added.insert((file_type, name.to_string()), listings);
        Ok(())
    }

    fn remove(&self, file_type: FileType, name: &str) -> Result<()> {
        let mut history = self.history.lock().unwrap();
        let size_bytes = self.store.size_bytes(file_type, name)?;
        self.store.remove(file_type, name)?;
        let after_listings = history.listings(file_type);
        let entry = Entry { name: name.to_string(), size_bytes };
        let (at, stays) = (Instant::now(), self.stays(name));
        history.removed.push(Removed { file_type, entry, at, stays, after_listings });
        Ok(())
    }

    fn list(&self, file_type: FileType) -> Result<Vec<Entry>> {
        let mut history = self.history.lock().unwrap();
        let number = history.listings(file_type) + 1;
        history.listings.insert(file_type, number);
        let now = Timestamp::now();
        let mut entries = Vec::new();
        for file in self.store.received(file_type)? {
            let is_listed = match self.late {
                Late::For { longest, .. } => {
                    now.duration_since(file.received_at) >= SignedDuration::try_from(longest).unwrap()
                }
                Late::Listings { added, .. } => {
                    let written = history.added.get(&(file_type, file.name.clone()));
                    written.is_none_or(|written| number - written > added)
                }
            };
            if is_listed {
                entries.push(Entry { name: file.name, size_bytes: file.size_bytes });
            }
        }
        let is_still_listed = |file: &Removed| match self.late {
            Late::For { .. } => file.at.elapsed() < file.stays,
            Late::Listings { removed, .. } => number - file.after_listings <= removed,
        };
        history.removed.retain(|file| file.file_type != file_type || is_still_listed(file));
        for file in history.removed.iter().filter(|file| file.file_type == file_type) {
            if !entries.iter().any(|entry| entry.name == file.entry.name) {
                entries.push(file.entry.clone());
            }
        }
        Ok(entries)
    }
}

/// More listings than any test makes.
const FOR_EVER: usize = 1_000_000;
const FILE_BYTES: usize = 300_000;
const OTHER_PASSWORD: &str = "battery staple";

/// A repository behind such a store, and a source of two files of which one changes.
struct Case {
    scratch: Scratch,
    store: LateListing,
    master_key: MasterKey,
}

impl Case {
    fn new(added: usize, removed: usize) -> Self {
        let scratch = Scratch::new();
        std::fs::create_dir(scratch.path("source")).unwrap();
        let store = LateListing::new(LocalStore::new(scratch.path("repository")), Late::Listings { added, removed });
        let vault = Vault::init(Arc::new(store.clone()), &password()).unwrap();
        let master_key = vault.master_key().clone();
        Self { scratch, store, master_key }
    }

    /// As another process has it: it knows of nothing that was done before.
    fn open(&self) -> Vault {
        Vault::open_with_master_key(Arc::new(self.store.clone()), self.master_key.clone()).unwrap()
    }

    fn with_password(&self, password: &str) -> levee_vault::Result<Vault> {
        Vault::open(Arc::new(self.store.clone()), &Password::new(password))
    }

    fn back_up(&self, state: u64) -> SnapshotId {
        let source = self.scratch.path("source");
        std::fs::write(source.join("steady"), noise(FILE_BYTES, 1)).unwrap();
        std::fs::write(source.join("changing"), noise(FILE_BYTES, state)).unwrap();
        backup(&self.open(), &source).snapshot_id.unwrap()
    }

    fn forget(&self, snapshot: SnapshotId) {
        let options = ForgetOptions { selection: named(snapshot), ..ForgetOptions::default() };
        assert_eq!(levee_vault::forget(&self.open(), &options, Timestamp::now()).unwrap().removed, [snapshot]);
    }

    fn assert_restores(&self, vault: &Vault, snapshot: SnapshotId, state: u64, name: &str) {
        let target = self.scratch.path(name);
        restore(vault, snapshot, &self.scratch.path("source"), &target);
        let read = |file: &str| std::fs::read(target.join(file)).unwrap();
        assert!(read("steady") == noise(FILE_BYTES, 1) && read("changing") == noise(FILE_BYTES, state), "{name}");
    }
}

fn named(snapshot: SnapshotId) -> SnapshotSelection {
    SnapshotSelection { ids: vec![snapshot.to_string()], ..SnapshotSelection::default() }
}

fn prune_after(vault: &Vault, hours: i64) -> PruneReport {
    let options = PruneOptions { max_unused: MaxUnused::Bytes(0), ..PruneOptions::default() };
    let now = Timestamp::now() + SignedDuration::from_hours(hours);
    let report = levee_vault::prune(vault, &options, now, &()).unwrap();
    assert!(report.problems.is_empty(), "{report:?}");
    report
}

/// A vault's whole story, each step as a process of its own.
fn run(added: usize, removed: usize) {
    let case = Case::new(added, removed);
    let first = case.back_up(10);
    let second = case.back_up(11);
    case.forget(first);
    // The new snapshot may be in no list yet, its index neither; what was forgotten may be in it still.
    prune_after(&case.open(), 0);
    // The index files that the prune has removed may be listed still.
    let third = case.back_up(12);
    let other = Scratch::new();
    let to = other.init();
    for _ in 0..2 {
        levee_vault::copy(&case.open(), &to, &CopyOptions::default(), &()).unwrap();
    }
    let report = levee_vault::check(&case.open(), READ_ALL, &()).unwrap();
    assert!(report.is_sound(), "{report:?}");
    // What the first prune took out of the index is deleted when its grace is over, which begins when a prune has seen it
    // in a list.
    let deleted = [25, 50].map(|hours| prune_after(&case.open(), hours).packs_deleted);
    assert!(deleted.iter().sum::<u64>() > 0);
    let report = levee_vault::check(&case.open(), READ_ALL, &()).unwrap();
    assert!(report.is_sound(), "{report:?}");
    case.with_password(PASSWORD).unwrap();

    let honest = case.scratch.open();
    let report = levee_vault::check(&honest, READ_ALL, &()).unwrap();
    assert!(report.is_sound(), "{report:?}");
    case.scratch.restic(&["check", "--read-data"]);
    let there: Vec<SnapshotId> = honest.snapshots().unwrap().into_iter().map(|(id, _)| id).collect();
    assert_eq!(there, [second, third]);
    let copies = to.snapshots().unwrap();
    assert_eq!(copies.len(), 2);
    for (snapshot, state) in [(second, 11), (third, 12)] {
        case.assert_restores(&honest, snapshot, state, &format!("restored {state}"));
        let (copy, _) = copies.iter().find(|(_, copy)| copy.original == Some(snapshot.0)).unwrap();
        case.assert_restores(&to, *copy, state, &format!("restored {state} from its copy"));
    }
    other.restic(&["check", "--read-data"]);
}

#[test]
fn what_was_removed_and_is_listed_for_a_while_is_no_damage() {
    run(0, 3);
}

#[test]
fn what_was_removed_and_is_listed_beside_what_is_not_listed_yet_is_no_damage() {
    run(1, 3);
}

/// The lists of some services never lose a name.
#[test]
fn what_was_removed_and_stays_listed_is_no_damage() {
    run(1, FOR_EVER);
}

#[test]
fn a_password_that_was_removed_and_is_still_listed_is_in_nobodys_way() {
    let case = Case::new(0, FOR_EVER);
    let vault = case.with_password(PASSWORD).unwrap();
    let old = vault.keys().unwrap()[0].id;
    let new = vault.add_key(&Password::new(OTHER_PASSWORD), "host", "user").unwrap();
    case.with_password(OTHER_PASSWORD).unwrap().remove_key(&old).unwrap();
    let opened = case.with_password(OTHER_PASSWORD).unwrap();
    assert_eq!(opened.keys().unwrap().iter().map(|key| (key.id, key.current)).collect::<Vec<_>>(), [(new, true)]);
    let refused = case.with_password(PASSWORD);
    assert!(matches!(refused, Err(Error::WrongPassword { key_files: 1, .. })), "{refused:?}");
    let report = levee_vault::check(&opened, READ_ALL, &()).unwrap();
    assert!(report.is_sound(), "{report:?}");
    // It leaves no record: the store may as well have lost it.
    assert_eq!(doubted(&report), [format!("keys/{old}")]);
}

fn doubted(report: &CheckReport) -> Vec<String> {
    report.doubts.iter().map(|finding| finding.file.clone()).collect()
}

/// A list that stays late cannot be told from a store that has lost a file, but for what was forgotten.
#[test]
fn a_snapshot_that_stays_listed_and_gone_is_named_and_one_that_was_forgotten_is_no_doubt() {
    let case = Case::new(0, FOR_EVER);
    let (first, second) = (case.back_up(10), case.back_up(11));
    case.forget(first);
    let report = levee_vault::check(&case.open(), READ_ALL, &()).unwrap();
    assert!(report.is_sound() && report.doubts.is_empty(), "{report:?}");
    assert!(report.hints.iter().any(|hint| hint.file == format!("snapshots/{}", first.0)), "{report:?}");
    case.store.remove(FileType::Snapshot, &second.0.to_hex()).unwrap();
    let report = levee_vault::check(&case.open(), READ_ALL, &()).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(doubted(&report), [format!("snapshots/{}", second.0)]);
}

#[test]
fn what_leaves_the_list_a_moment_later_is_no_doubt() {
    let case = Case::new(0, 2);
    let (first, second) = (case.back_up(10), case.back_up(11));
    case.store.remove(FileType::Snapshot, &first.0.to_hex()).unwrap();
    let report = levee_vault::check(&case.open(), READ_ALL, &()).unwrap();
    assert!(report.is_sound() && report.doubts.is_empty() && report.hints.is_empty(), "{report:?}");
    assert_eq!((report.snapshots, case.open().snapshots().unwrap().len()), (1, 1), "{second}");
}

/// Lacks some index files in its first list.
struct FirstListLacks {
    store: LocalStore,
    hidden: Vec<String>,
    has_listed: AtomicBool,
}

impl Store for FirstListLacks {
    levee_store::forward!(store: create, write, read, read_range, size_bytes, remove, location);

    fn list(&self, file_type: FileType) -> Result<Vec<Entry>> {
        let mut entries = self.store.list(file_type)?;
        if file_type == FileType::Index && !self.has_listed.swap(true, Ordering::SeqCst) {
            entries.retain(|entry| !self.hidden.contains(&entry.name));
        }
        Ok(entries)
    }
}

fn names_in(scratch: &Scratch, folder: &str) -> Vec<String> {
    let name = |path: &std::path::PathBuf| path.file_name().unwrap().to_str().unwrap().to_string();
    scratch.files(folder).iter().map(name).collect()
}

#[test]
fn what_only_index_files_of_a_later_list_name_is_checked_too() {
    let case = Case::new(0, 0);
    let first = case.back_up(10);
    let (mut hidden, packs) = (names_in(&case.scratch, "index"), names_in(&case.scratch, "data"));
    case.back_up(11);
    // What stayed the same stands in the hidden index file, and the root of the only snapshot doesn't.
    case.open().remove_snapshot(&first).unwrap();
    let check = |hidden: &[String]| {
        let store = LocalStore::new(case.scratch.path("repository"));
        let store = FirstListLacks { store, hidden: hidden.to_vec(), has_listed: AtomicBool::new(false) };
        let vault = Vault::open_with_master_key(Arc::new(store), case.master_key.clone()).unwrap();
        levee_vault::check(&vault, READ_ALL, &()).unwrap()
    };
    let report = check(&hidden);
    assert!(report.is_sound() && report.hints.is_empty(), "{report:?}");
    let all = names_in(&case.scratch, "data").len() as u64;
    assert_eq!((report.index_files, report.packs, report.packs_read), (2, all, all), "{report:?}");

    let junk = Id::of(b"junk").to_hex();
    case.store.write(FileType::Index, &junk, b"junk").unwrap();
    hidden.push(junk.clone());
    let report = check(&hidden);
    let named: Vec<&str> = report.errors.iter().map(|finding| finding.file.as_str()).collect();
    assert_eq!((named, report.error_count), (vec![format!("index/{junk}").as_str()], 1));
    case.store.remove(FileType::Index, &junk).unwrap();

    for pack in packs {
        let content = case.store.read(FileType::Data, &pack).unwrap();
        case.store.remove(FileType::Data, &pack).unwrap();
        let report = check(&hidden);
        let file = format!("data/{pack}");
        assert_eq!(report.errors.iter().filter(|finding| finding.file == file).count(), 1, "{report:?}");
        case.store.write(FileType::Data, &pack, &content).unwrap();
    }
    assert!(check(&hidden).is_sound());
}

#[test]
fn a_password_that_is_in_no_list_yet_opens_the_vault() {
    let case = Case::new(3, 0);
    // Just made: its only key file is in no list.
    let vault = case.with_password(PASSWORD).unwrap();
    let new = vault.add_key(&Password::new(OTHER_PASSWORD), "host", "user").unwrap();
    let store = || Arc::new(case.store.clone());
    Vault::open_with_key_file(store(), &new, &Password::new(OTHER_PASSWORD)).unwrap();
    let refused = Vault::open_with_key_file(store(), &new, &password());
    assert!(matches!(refused, Err(Error::WrongPassword { .. })), "{refused:?}");
}

/// A copy in the cache makes it look as if it were there.
#[test]
fn a_forgotten_snapshot_that_is_still_listed_can_be_brought_back() {
    let case = Case::new(0, FOR_EVER);
    let (first, second) = (case.back_up(10), case.back_up(11));
    let caches = case.scratch.path("caches");
    let cached = || {
        let vault = case.open();
        vault.use_cache(Cache::open(&caches, &vault.id()).unwrap());
        vault
    };
    assert_eq!(cached().snapshots().unwrap().len(), 2);
    case.forget(first);
    let forgotten = |vault: &Vault| list_forgotten(vault).unwrap().iter().map(|entry| entry.id).collect::<Vec<_>>();
    assert_eq!(forgotten(&cached()), [first]);
    prune_after(&cached(), 0);
    assert_eq!(forgotten(&cached()), [first], "the prune has lost the record");
    let options = UndeleteOptions { selection: named(first), ..UndeleteOptions::default() };
    let report = levee_vault::undelete(&cached(), &options, Timestamp::now(), &()).unwrap();
    assert_eq!(report.snapshots, [first], "{report:?}");
    let honest = case.scratch.open();
    assert!(levee_vault::check(&honest, READ_ALL, &()).unwrap().is_sound());
    for (snapshot, state) in [(first, 10), (second, 11)] {
        case.assert_restores(&honest, snapshot, state, &format!("restored {state}"));
    }
}

/// As the copy of a snapshot in the cache, it would be copied, and live on elsewhere.
#[test]
fn a_forgotten_snapshot_that_is_still_listed_is_not_copied() {
    let case = Case::new(0, FOR_EVER);
    let (first, second) = (case.back_up(10), case.back_up(11));
    let cached = case.open();
    cached.use_cache(Cache::open(&case.scratch.path("caches"), &cached.id()).unwrap());
    assert_eq!(cached.snapshots().unwrap().len(), 2);
    case.forget(first);
    let other = Scratch::new();
    let report = levee_vault::copy(&cached, &other.init(), &CopyOptions::default(), &()).unwrap();
    assert_eq!(report.copied.iter().map(|copied| copied.from).collect::<Vec<_>>(), [second]);
}
