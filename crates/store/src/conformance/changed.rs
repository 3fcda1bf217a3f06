//! Files that something below the store has cut or made longer.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use super::{NAMED, write_new};
use crate::{Error, FileType, Store, content_name};

/// `path` says where a file of the store lies on this machine.
pub fn check_changed_files(store: &dyn Store, path: impl Fn(FileType, &str) -> PathBuf) {
    store.create().unwrap();
    for file_type in NAMED {
        let content: Vec<u8> = (0..=255).cycle().take(70_001).collect();
        let name = write_new(store, file_type, &content);
        for length in [70_000, 35_000, 1, 70_002] {
            set_length(&path(file_type, &name), length);
            change_is_noticed(store, file_type, &name, &content, length);
            // Whoever has the content again makes it good.
            store.write(file_type, &name, &content).unwrap();
            assert!(store.read(file_type, &name).unwrap() == content, "{file_type} of {length} bytes stays damaged");
            assert_eq!(store.size_bytes(file_type, &name).unwrap(), content.len() as u64);
        }
        store.remove(file_type, &name).unwrap();
    }
    a_changed_config_is_left_alone(store, &path(FileType::Config, ""));
}

fn set_length(path: &Path, length: usize) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(length as u64).unwrap();
}

fn change_is_noticed(store: &dyn Store, file_type: FileType, name: &str, content: &[u8], length: usize) {
    let what = format!("{file_type} of {length} bytes instead of {}", content.len());
    // The sizes are those of what stands there, so that a check finds it without reading.
    assert_eq!(store.size_bytes(file_type, name).unwrap(), length as u64, "{what}");
    let listed = store.list(file_type).unwrap();
    assert!(listed.iter().any(|entry| entry.name == name && entry.size_bytes == length as u64), "{what}: {listed:?}");

    // All of it is not the content of that name, and so no reader takes it for that.
    match store.read(file_type, name) {
        Ok(read) => {
            assert_eq!(read.len(), length, "{what}");
            assert!(content_name(&read) != name, "{what}");
        }
        Err(error) => assert!(matches!(error, Error::Damaged { .. }), "{what}: {error:?}"),
    }
    // A part is exact, or none: never less than was asked for.
    let whole_until = length.min(content.len());
    for (offset, count) in [(0, 1), (0, whole_until), (whole_until - 1, 1)] {
        let read = store.read_range(file_type, name, offset as u64, count).unwrap();
        assert!(read == content[offset..offset + count], "{what}: {count} bytes from {offset}");
    }
    for (offset, count) in [(0, length + 1), (length - 1, 2), (length, 1)] {
        let read = store.read_range(file_type, name, offset as u64, count);
        assert!(matches!(read, Err(Error::Damaged { .. })), "{what}: {count} bytes from {offset}: {read:?}");
    }
    let replaced = store.write(file_type, name, b"something else");
    assert!(replaced.is_err(), "{what}: what is damaged was replaced by another content");
    assert_eq!(store.size_bytes(file_type, name).unwrap(), length as u64, "{what}");
}

/// Nothing names its content, so nobody can say that the one that comes is the right one.
fn a_changed_config_is_left_alone(store: &dyn Store, path: &Path) {
    store.write(FileType::Config, "", b"the config").unwrap();
    set_length(path, 9);
    let refused = store.write(FileType::Config, "", b"the config");
    assert!(matches!(refused, Err(Error::Denied { .. })), "expected Denied, got {refused:?}");
    assert_eq!(store.read(FileType::Config, "").unwrap(), b"the confi");
    assert_eq!(fs::read(path).unwrap(), b"the confi");
}
