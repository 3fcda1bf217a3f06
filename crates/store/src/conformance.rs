//! What every store must do, as one suite that each of them runs in its tests.
//!
//! It panics at the first thing that isn't so.

mod changed;
mod credentials;
mod late;
mod sizes;

use std::sync::Barrier;
use std::thread;

use crate::{Entry, Error, FileType, Store, content_name};

pub use changed::check_changed_files;
pub use credentials::check_expired_credentials;
pub use late::check_late_listings;
pub use sizes::check_wrong_sizes;

/// The kinds of file that are named by their content.
const NAMED: [FileType; 5] = [FileType::Data, FileType::Index, FileType::Key, FileType::Lock, FileType::Snapshot];

/// Runs the suite on a place where no repository is yet.
pub fn check(store: &dyn Store) {
    what_is_not_there_cannot_be_removed(store);
    check_through_faults(store);
    what_is_not_there_cannot_be_removed(store);
}

/// The suite for a store that tries again by itself while what is below it fails. After a failed attempt
/// it cannot know whether a file was removed by it or was never there, so that is not asked of it.
pub fn check_through_faults(store: &dyn Store) {
    nothing_is_there_at_first(store);
    creating_twice_does_nothing(store);
    config_is_never_overwritten(store);
    for file_type in NAMED {
        what_is_written_reads_back(store, file_type);
    }
    same_content_again_succeeds(store);
    other_names_are_refused(store);
    ranges_are_exact(store);
    listings_are_whole(store);
    large_files_are_whole(store);
    writers_at_once_both_succeed(store);
    location_says_something(store);
}

fn write_new(store: &dyn Store, file_type: FileType, content: &[u8]) -> String {
    let name = content_name(content);
    store.write(file_type, &name, content).unwrap();
    name
}

#[track_caller]
fn assert_not_found<T: std::fmt::Debug>(result: Result<T, Error>) {
    assert!(matches!(result, Err(Error::NotFound { .. })), "expected NotFound, got {result:?}");
}

fn nothing_is_there_at_first(store: &dyn Store) {
    let absent = content_name(b"absent");
    assert_not_found(store.read(FileType::Config, ""));
    assert_not_found(store.size_bytes(FileType::Config, ""));
    for file_type in NAMED {
        assert_not_found(store.read(file_type, &absent));
        assert_not_found(store.read_range(file_type, &absent, 0, 1));
        assert_not_found(store.size_bytes(file_type, &absent));
    }
    for file_type in FileType::ALL {
        assert_eq!(store.list(file_type).unwrap(), []);
    }
}

fn what_is_not_there_cannot_be_removed(store: &dyn Store) {
    for file_type in NAMED {
        assert_not_found(store.remove(file_type, &content_name(b"absent")));
    }
}

fn creating_twice_does_nothing(store: &dyn Store) {
    store.create().unwrap();
    let name = write_new(store, FileType::Key, b"a key");
    store.create().unwrap();
    assert_eq!(store.read(FileType::Key, &name).unwrap(), b"a key");
    store.remove(FileType::Key, &name).unwrap();
}

fn config_is_never_overwritten(store: &dyn Store) {
    store.write(FileType::Config, "", b"the config").unwrap();
    store.write(FileType::Config, "", b"the config").unwrap();
    let refused = store.write(FileType::Config, "", b"another");
    assert!(matches!(refused, Err(Error::Denied { .. })), "expected Denied, got {refused:?}");
    assert_eq!(store.read(FileType::Config, "").unwrap(), b"the config");
    assert_eq!(store.list(FileType::Config).unwrap(), [Entry { name: String::new(), size_bytes: 10 }]);
}

fn what_is_written_reads_back(store: &dyn Store, file_type: FileType) {
    for content in [&b""[..], b"x", &[0; 4096], &(0..=255).cycle().take(70_001).collect::<Vec<u8>>()] {
        let name = write_new(store, file_type, content);
        assert_eq!(store.read(file_type, &name).unwrap(), content);
        assert_eq!(store.size_bytes(file_type, &name).unwrap(), content.len() as u64);
        store.remove(file_type, &name).unwrap();
        assert_not_found(store.read(file_type, &name));
    }
}

fn same_content_again_succeeds(store: &dyn Store) {
    let content = b"a pack that comes twice";
    let name = write_new(store, FileType::Data, content);
    assert_eq!(write_new(store, FileType::Data, content), name);
    assert_eq!(store.read(FileType::Data, &name).unwrap(), content);
    let wrong = store.write(FileType::Data, &name, b"something else");
    assert!(wrong.is_err(), "another content under an existing name was accepted");
    assert_eq!(store.read(FileType::Data, &name).unwrap(), content);
    store.remove(FileType::Data, &name).unwrap();
}

fn other_names_are_refused(store: &dyn Store) {
    let long = "0".repeat(65);
    let upper = content_name(b"x").to_uppercase();
    for name in ["", "..", "../config", "a/b", "0123", long.as_str(), upper.as_str()] {
        let refused = store.write(FileType::Data, name, b"x");
        assert!(matches!(refused, Err(Error::Denied { .. })), "{name:?}: {refused:?}");
        assert!(store.read(FileType::Data, name).is_err(), "{name:?}");
        assert!(store.remove(FileType::Data, name).is_err(), "{name:?}");
    }
    assert!(store.read(FileType::Config, &content_name(b"x")).is_err());
}

fn ranges_are_exact(store: &dyn Store) {
    let content: Vec<u8> = (0..=255).cycle().take(1000).collect();
    let name = write_new(store, FileType::Data, &content);
    for (offset, length) in [(0, 1000), (0, 1), (999, 1), (500, 37), (0, 0), (1000, 0)] {
        let read = store.read_range(FileType::Data, &name, offset as u64, length).unwrap();
        assert_eq!(read, content[offset..offset + length], "{length} bytes from {offset}");
    }
    for (offset, length) in [(0, 1001), (999, 2), (1000, 1), (5000, 1), (u64::MAX, 2)] {
        let read = store.read_range(FileType::Data, &name, offset, length);
        assert!(matches!(read, Err(Error::Damaged { .. })), "{length} bytes from {offset}: {read:?}");
    }
    store.remove(FileType::Data, &name).unwrap();
}

fn listings_are_whole(store: &dyn Store) {
    for file_type in NAMED {
        let mut expected: Vec<Entry> = (0..20u8)
            .map(|number| {
                let content = vec![number; usize::from(number) * 11];
                Entry { name: write_new(store, file_type, &content), size_bytes: content.len() as u64 }
            })
            .collect();
        expected.sort();
        let mut listed = store.list(file_type).unwrap();
        listed.sort();
        assert_eq!(listed, expected);
        for entry in expected {
            store.remove(file_type, &entry.name).unwrap();
        }
        assert_eq!(store.list(file_type).unwrap(), []);
    }
}

fn large_files_are_whole(store: &dyn Store) {
    let content: Vec<u8> =
        (0u32..5 << 20).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let name = write_new(store, FileType::Data, &content);
    assert!(store.read(FileType::Data, &name).unwrap() == content, "a file of 20 MiB came back changed");
    let offset = 13 << 20;
    let range = store.read_range(FileType::Data, &name, offset as u64, 1 << 20).unwrap();
    assert!(range == content[offset..offset + (1 << 20)], "a range of a file of 20 MiB came back changed");
    store.remove(FileType::Data, &name).unwrap();
}

fn writers_at_once_both_succeed(store: &dyn Store) {
    const THREADS: u8 = 8;
    let barrier = Barrier::new(usize::from(THREADS));
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let barrier = &barrier;
            scope.spawn(move || {
                barrier.wait();
                for number in 0..10 {
                    write_new(store, FileType::Data, &[number; 3000]);
                    write_new(store, FileType::Data, &[thread + 100, number]);
                }
            });
        }
    });
    let listed = store.list(FileType::Data).unwrap();
    assert_eq!(listed.len(), 10 + 10 * usize::from(THREADS));
    for entry in listed {
        assert_eq!(content_name(&store.read(FileType::Data, &entry.name).unwrap()), entry.name);
        store.remove(FileType::Data, &entry.name).unwrap();
    }
}

fn location_says_something(store: &dyn Store) {
    assert!(!store.location().is_empty());
}
