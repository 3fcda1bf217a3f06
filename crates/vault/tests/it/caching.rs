//! Copies of metadata on a local disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use levee_store::{FileType, Result as StoreResult, Store};
use levee_vault::repair::{RepairOptions, repair_index};
use levee_vault::{Cache, CheckOptions, Lock, LockMode, Vault, clean_caches, list_caches};

use crate::support::*;

/// Counts the reads of each kind.
struct Counting {
    store: Arc<dyn Store>,
    reads: AtomicU64,
}

impl Store for Counting {
    levee_store::forward!(store: create, write, size_bytes, list, remove, location);

    fn read(&self, file_type: FileType, name: &str) -> StoreResult<Vec<u8>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.store.read(file_type, name)
    }

    fn read_range(&self, file_type: FileType, name: &str, offset: u64, length: usize) -> StoreResult<Vec<u8>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.store.read_range(file_type, name, offset, length)
    }
}

/// Counts how often index files are asked for one by one.
struct CountingQuestions {
    store: Arc<dyn Store>,
    questions: AtomicU64,
}

impl Store for CountingQuestions {
    levee_store::forward!(store: create, write, read, read_range, list, remove, location);

    fn size_bytes(&self, file_type: FileType, name: &str) -> StoreResult<u64> {
        if file_type == FileType::Index {
            self.questions.fetch_add(1, Ordering::Relaxed);
        }
        self.store.size_bytes(file_type, name)
    }
}

#[test]
fn index_files_are_not_asked_for_again_and_again_but_under_each_new_lock() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    std::fs::create_dir(&source).unwrap();
    let vault = scratch.init();
    let back_up = |number: u64| {
        std::fs::write(source.join("file"), noise(100_000, number)).unwrap();
        backup(&vault, &source);
    };
    (1..=3).for_each(back_up);
    let store = Arc::new(CountingQuestions { store: scratch.store(), questions: AtomicU64::new(0) });
    let reader = Vault::open_with_master_key(store.clone(), vault.master_key().clone()).unwrap();
    let asked = || {
        reader.refresh_index().unwrap();
        store.questions.swap(0, Ordering::Relaxed)
    };
    assert_eq!(asked(), 0, "all of them are read");
    back_up(4);
    assert_eq!(asked(), 3, "the new one may stand in their place");
    assert_eq!(asked(), 0);
    back_up(5);
    assert_eq!(asked(), 1, "of the fourth alone it is not known that it was there a moment ago");
    back_up(6);
    let _lock = Lock::take(&reader, LockMode::Shared).unwrap();
    assert_eq!(asked(), 5);
}

/// Lists everything through a cache, and gives the number of entries and of reads from the store.
fn list(scratch: &Scratch, caches: &Path) -> (usize, u64) {
    let counting = Arc::new(Counting { store: scratch.store(), reads: AtomicU64::new(0) });
    let vault = Vault::open(counting.clone(), &password()).unwrap();
    vault.use_cache(Cache::open(caches, &vault.id()).unwrap());
    let opening = counting.reads.load(Ordering::Relaxed);
    let mut entries = 0;
    for (id, _) in vault.snapshots().unwrap() {
        entries += vault.list_tree(&id).unwrap().map(Result::unwrap).count();
    }
    (entries, counting.reads.load(Ordering::Relaxed) - opening)
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut to_do = vec![folder.to_path_buf()];
    while let Some(path) = to_do.pop() {
        if path.is_dir() {
            to_do.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            files.push(path);
        }
    }
    files
}

#[test]
fn a_cache_saves_reading_and_is_never_trusted() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    make_zoo(&source);
    let vault = scratch.init();
    let first = backup(&vault, &source).snapshot_id.unwrap();
    std::fs::write(source.join("plain"), b"changed").unwrap();
    backup(&vault, &source);
    let caches = scratch.path("caches");
    let (entries, cold) = list(&scratch, &caches);
    assert!(entries > 40 && cold > 4, "{entries} {cold}");
    assert_eq!(list(&scratch, &caches), (entries, 0));

    // Whatever happens to it, what is read is right.
    let own = caches.join(vault.id().to_hex());
    type Damage = fn(&[u8]) -> Vec<u8>;
    let damages: [Damage; 4] = [
        |_| Vec::new(),
        |content| content[..content.len() / 2].to_vec(),
        |content| content.iter().map(|byte| byte ^ 1).collect(),
        |content| [content, b"more"].concat(),
    ];
    for damage in damages {
        let files = files_in(&own);
        assert!(files.len() >= 6, "{files:?}");
        for file in &files {
            let content = std::fs::read(file).unwrap();
            std::fs::write(file, damage(&content)).unwrap();
        }
        let (again, reads) = list(&scratch, &caches);
        assert_eq!(again, entries);
        assert!(reads > 4, "{reads}");
        assert_eq!(list(&scratch, &caches), (entries, 0));
    }

    // What the repository no longer has goes.
    vault.remove_snapshot(&first).unwrap();
    let (fewer, reads) = list(&scratch, &caches);
    assert!(fewer < entries && reads == 0, "{fewer} {reads}");
    assert_eq!(files_in(&own.join("snapshots")).len(), 1);
    // And without it everything works as before.
    std::fs::remove_dir_all(&caches).unwrap();
    assert_eq!(list(&scratch, &caches).0, fewer);
}

#[test]
fn a_check_looks_at_the_store_and_not_at_the_cache() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    make_zoo(&source);
    backup(&scratch.init(), &source);
    let caches = scratch.path("caches");
    list(&scratch, &caches);
    for folder in ["index", "snapshots"] {
        let path = scratch.files(folder).into_iter().next().unwrap();
        let content = std::fs::read(&path).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::write(&path, &content[1..]).unwrap();
        let vault = scratch.open();
        vault.use_cache(Cache::open(&caches, &vault.id()).unwrap());
        let report = levee_vault::check(&vault, CheckOptions::default(), &()).unwrap();
        let name = format!("{folder}/{}", path.file_name().unwrap().to_str().unwrap());
        assert!(report.errors.iter().any(|finding| finding.file == name), "{report:?}");
        if folder == "index" {
            let repair = repair_index(&vault, false, RepairOptions::default(), &()).unwrap();
            assert_eq!(repair.unreadable_index_files.len(), 1, "{repair:?}");
        }
        std::fs::write(&path, content).unwrap();
    }
}

#[test]
fn a_cache_that_cannot_be_written_to_does_no_harm() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    make_zoo(&source);
    let vault = scratch.init();
    backup(&vault, &source);
    let caches = scratch.path("caches");
    Cache::open(&caches, &vault.id()).unwrap();
    // Files in the places of its folders.
    for folder in ["index", "snapshots", "data"] {
        std::fs::write(caches.join(vault.id().to_hex()).join(folder), b"").unwrap();
    }
    assert!(list(&scratch, &caches).0 > 20);
    std::fs::write(scratch.path("a file"), b"").unwrap();
    assert!(Cache::open(&scratch.path("a file/below"), &vault.id()).is_err());
}

#[test]
fn caches_are_listed_and_cleaned_by_age() {
    let scratch = Scratch::new();
    let caches = scratch.path("caches");
    assert!(list_caches(&caches).unwrap().is_empty());
    let ids = [levee_vault::Id::of(b"one"), levee_vault::Id::of(b"two")];
    for id in &ids {
        Cache::open(&caches, id).unwrap();
    }
    std::fs::write(caches.join("something else"), b"").unwrap();
    std::fs::write(caches.join(ids[0].to_hex()).join("file"), vec![0; 1000]).unwrap();
    let now = SystemTime::now();
    let day = Duration::from_secs(24 * 3600);
    let old = std::fs::File::open(caches.join(ids[0].to_hex())).unwrap();
    old.set_modified(now - 40 * day).unwrap();
    let listed = list_caches(&caches).unwrap();
    let one = listed.iter().find(|info| info.id == ids[0]).unwrap();
    assert_eq!((listed.len(), one.size_bytes), (2, 1000));
    assert!(clean_caches(&caches, 41 * day, now).unwrap().is_empty());
    let removed = clean_caches(&caches, 30 * day, now).unwrap();
    assert_eq!(removed.iter().map(|info| info.id).collect::<Vec<_>>(), [ids[0]]);
    assert_eq!(list_caches(&caches).unwrap().len(), 1);
}
