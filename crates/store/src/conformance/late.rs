//! Listings that show the state of a moment ago, as object stores and network file systems have them.
//!
//! Nothing in a store may decide by a listing whether a file is there.

use super::{NAMED, assert_not_found, write_new};
use crate::{Error, FileType, Store, content_name};

/// What stands in a place before its listings are late, of every kind.
struct Before {
    file_type: FileType,
    kept: String,
    /// Is removed while they are.
    removed: String,
}

const KEPT: &[u8] = b"stays";
const REMOVED: &[u8] = b"goes";
const NEW: &[u8] = b"comes while listings are late";
const CONFIG: &[u8] = b"the config";

/// Runs on a place where no repository is yet. From `set_late(true)` on the listings of the place stay as they are, until
/// `set_late(false)`. Returns how many files were listed that were gone.
pub fn check_late_listings(store: &dyn Store, set_late: impl Fn(bool)) -> usize {
    store.create().unwrap();
    store.write(FileType::Config, "", CONFIG).unwrap();
    let before = NAMED.map(|file_type| Before {
        file_type,
        kept: write_new(store, file_type, KEPT),
        removed: write_new(store, file_type, REMOVED),
    });
    for Before { file_type, kept, removed } in &before {
        assert_eq!(listed(store, *file_type), sorted([kept, removed]));
    }

    set_late(true);
    for Before { file_type, kept, removed } in &before {
        let new = write_new(store, *file_type, NEW);
        is_there(store, *file_type, &new, NEW);
        is_there(store, *file_type, kept, KEPT);
        store.remove(*file_type, removed).unwrap();
        is_gone(store, *file_type, removed);
    }
    config_stays(store);
    // As whoever starts a repository again, and finds none of its folders in the listing.
    store.create().unwrap();
    let listed_while_gone: usize = before.iter().map(|before| listings_are_late(store, before)).sum();
    // What was removed can come again, and go again.
    for Before { file_type, removed, .. } in &before {
        write_new(store, *file_type, REMOVED);
        is_there(store, *file_type, removed, REMOVED);
        store.remove(*file_type, removed).unwrap();
        is_gone(store, *file_type, removed);
    }

    set_late(false);
    let new = content_name(NEW);
    for Before { file_type, kept, .. } in &before {
        assert_eq!(listed(store, *file_type), sorted([kept, &new]));
        is_there(store, *file_type, &new, NEW);
        for name in [kept, &new] {
            store.remove(*file_type, name).unwrap();
        }
        assert_eq!(store.list(*file_type).unwrap(), []);
    }
    config_stays(store);
    listed_while_gone
}

fn listed(store: &dyn Store, file_type: FileType) -> Vec<String> {
    let names = store.list(file_type).unwrap().into_iter().map(|entry| entry.name);
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

fn sorted<const COUNT: usize>(names: [&String; COUNT]) -> Vec<String> {
    let mut names = Vec::from(names.map(String::clone));
    names.sort();
    names
}

/// Whatever a listing says.
fn is_there(store: &dyn Store, file_type: FileType, name: &str, content: &[u8]) {
    assert_eq!(store.read(file_type, name).unwrap(), content);
    assert_eq!(store.size_bytes(file_type, name).unwrap(), content.len() as u64);
    assert_eq!(store.read_range(file_type, name, 1, 3).unwrap(), content[1..4]);
    store.write(file_type, name, content).unwrap();
    let replaced = store.write(file_type, name, b"another content");
    assert!(replaced.is_err(), "another content under an existing name was accepted: {file_type}");
    assert_eq!(store.read(file_type, name).unwrap(), content);
}

/// Not damaged and not out of reach: whoever has the name from a listing looks for it elsewhere, or lists again.
fn is_gone(store: &dyn Store, file_type: FileType, name: &str) {
    assert_not_found(store.read(file_type, name));
    assert_not_found(store.read_range(file_type, name, 0, 1));
    assert_not_found(store.size_bytes(file_type, name));
    assert_not_found(store.remove(file_type, name));
}

fn config_stays(store: &dyn Store) {
    store.write(FileType::Config, "", CONFIG).unwrap();
    let refused = store.write(FileType::Config, "", b"another");
    assert!(matches!(refused, Err(Error::Denied { .. })), "expected Denied, got {refused:?}");
    assert_eq!(store.read(FileType::Config, "").unwrap(), CONFIG);
}

/// Lists, and does with every name what a reader does. Returns how many of them are gone.
fn listings_are_late(store: &dyn Store, before: &Before) -> usize {
    let Before { file_type, kept, removed } = before;
    let listed = listed(store, *file_type);
    assert!(listed.contains(kept), "{file_type}: what has always been there is not listed: {listed:?}");
    assert!(
        listed.iter().all(|name| name == kept || name == removed),
        "{file_type}: the listing is not late, so this tests nothing: {listed:?}"
    );
    let gone: Vec<&String> = listed.iter().filter(|name| *name == removed).collect();
    for name in &gone {
        is_gone(store, *file_type, name);
    }
    gone.len()
}
