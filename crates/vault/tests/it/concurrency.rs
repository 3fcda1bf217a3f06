//! How many requests for packs a vault has under way at once: several where the store is served by that, and one where
//! a head would only be sent back and forth.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use levee_store::{FileType, Parallelism, Result as StoreResult, Store};
use levee_vault::Vault;

use crate::support::*;

/// How many requests there are and have been at once.
#[derive(Default)]
struct Requests {
    now: usize,
    most: usize,
}

#[derive(Default)]
struct Counter {
    requests: Mutex<Requests>,
    another_came: Condvar,
}

impl Counter {
    /// Stays in a request until there were two at once, or for so long.
    fn request<T>(&self, patience: Duration, run: impl FnOnce() -> T) -> T {
        let mut requests = self.requests.lock().unwrap();
        requests.now += 1;
        requests.most = requests.most.max(requests.now);
        self.another_came.notify_all();
        let waited = self.another_came.wait_timeout_while(requests, patience, |requests| requests.most < 2).unwrap();
        drop(waited);
        let result = run();
        self.requests.lock().unwrap().now -= 1;
        result
    }

    fn most(&self) -> usize {
        self.requests.lock().unwrap().most
    }
}

/// A store that says how many requests serve it best, and counts those for packs of files' content. Directories are
/// read beside them by whoever walks through the tree.
struct Counting {
    store: Arc<dyn Store>,
    parallelism: Parallelism,
    patience: Duration,
    readers: Counter,
    writers: Counter,
    tree_packs: Mutex<HashSet<String>>,
}

impl Store for Counting {
    levee_store::forward!(store: create, read, size_bytes, list, remove, location);

    fn write(&self, file_type: FileType, name: &str, content: &[u8]) -> StoreResult<()> {
        let write = || self.store.write(file_type, name, content);
        if file_type == FileType::Data { self.writers.request(self.patience, write) } else { write() }
    }

    fn write_tree_pack(&self, name: &str, content: &[u8]) -> StoreResult<()> {
        self.tree_packs.lock().unwrap().insert(name.to_string());
        self.write(FileType::Data, name, content)
    }

    fn read_range(&self, file_type: FileType, name: &str, offset: u64, length: usize) -> StoreResult<Vec<u8>> {
        let read = || self.store.read_range(file_type, name, offset, length);
        let counts = file_type == FileType::Data && !self.tree_packs.lock().unwrap().contains(name);
        if counts { self.readers.request(self.patience, read) } else { read() }
    }

    fn parallelism(&self) -> Parallelism {
        self.parallelism
    }
}

/// Backs up, restores and checks on a store of this kind; gives how many reads and writes were under way at once.
fn most_at_once(parallelism: Parallelism, patience: Duration) -> (usize, usize) {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    std::fs::create_dir(&source).unwrap();
    // Three packs, and pieces of 8 MiB to be read.
    for number in 0..5 {
        std::fs::write(source.join(number.to_string()), noise(8 << 20, number)).unwrap();
    }
    let key = scratch.init().master_key().clone();
    let store = Arc::new(Counting {
        store: scratch.store(),
        parallelism,
        patience,
        readers: Counter::default(),
        writers: Counter::default(),
        tree_packs: Mutex::default(),
    });
    let vault = Vault::open_with_master_key(store.clone(), key).unwrap();
    let id = backup(&vault, &source).snapshot_id.unwrap();
    restore(&vault, id, &source, &scratch.path("target"));
    assert_same(&source, &scratch.path("target"));
    assert!(levee_vault::check(&vault, READ_ALL, &()).unwrap().is_sound());
    (store.readers.most(), store.writers.most())
}

#[test]
fn a_store_that_is_served_best_by_one_request_gets_no_second_at_once() {
    // Long enough for another request, were there one.
    let patience = Duration::from_millis(200);
    for waits_long in [false, true] {
        let one = Parallelism { readers: 1, writers: 1, waits_long };
        assert_eq!(most_at_once(one, patience), (1, 1), "{one:?}");
    }
}

#[test]
fn a_store_that_is_served_best_by_several_requests_gets_several() {
    // Until a second pack is full, which takes a while without optimisation.
    let several = Parallelism { readers: 8, writers: 5, waits_long: true };
    let (readers, writers) = most_at_once(several, Duration::from_secs(20));
    assert!((2..=8).contains(&readers) && (2..=5).contains(&writers), "{readers} {writers}");
}
