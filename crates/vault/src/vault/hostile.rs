//! What a repository can say that opens with its key and is yet wrong: indexes that lie, configurations
//! from the future.

use std::cell::Cell;
use std::sync::Arc;

use levee_store::{FileType, LocalStore, Store};

use crate::pack::PackedBlob;
use crate::{BackupOptions, BlobKind, Id, Password, RestoreOptions, Vault, index_file};

fn password() -> Password {
    Password::new("password")
}

/// Backs up a small tree, lets `change` rewrite what the index says, and restores. Gives what went wrong.
fn with_index(change: impl Fn(&mut PackedBlob)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (source, target) = (folder.path().join("source"), folder.path().join("target"));
    std::fs::create_dir_all(source.join("below")).unwrap();
    std::fs::write(source.join("below/file"), b"content").unwrap();
    std::fs::write(source.join("other"), vec![7; 3000]).unwrap();
    let store = Arc::new(LocalStore::new(folder.path().join("repository")));
    let vault = Vault::init(store.clone(), &password()).unwrap();
    let options = BackupOptions { paths: vec![source.clone()], ..Default::default() };
    let id = crate::backup(&vault, &options, &()).unwrap().snapshot_id.unwrap();

    for file in vault.list_ids(FileType::Index).unwrap() {
        let json = vault.read_file_json(FileType::Index, &file).unwrap();
        let mut packs = index_file::decode(&json).unwrap().packs;
        packs.iter_mut().flat_map(|(_, blobs)| blobs).for_each(&change);
        store.remove(FileType::Index, &file.to_hex()).unwrap();
        vault.write_file_json(FileType::Index, &index_file::encode(&packs).unwrap()).unwrap();
    }
    let vault = Vault::open_with_master_key(store, vault.master_key().clone()).unwrap();
    let options = RestoreOptions { target: target.clone(), subfolder: Some(source.clone()), ..Default::default() };
    let problems = match crate::restore(&vault, &id, &options, &()) {
        Err(error) => error.to_string(),
        Ok(summary) => summary.errors.first.iter().map(|problem| format!("{}\n", problem.message)).collect(),
    };
    if problems.is_empty() {
        assert_eq!(std::fs::read(target.join("below/file")).unwrap(), b"content");
        assert_eq!(std::fs::read(target.join("other")).unwrap(), vec![7; 3000]);
    }
    problems
}

#[test]
fn an_index_that_lies_is_noticed_and_takes_no_memory() {
    assert_eq!(with_index(|_| ()), "");
    let check = |change: &dyn Fn(&mut PackedBlob)| {
        let problems = with_index(change);
        assert!(!problems.is_empty());
        problems
    };
    check(&|blob| blob.offset += 1);
    check(&|blob| blob.offset = u32::MAX - blob.length);
    check(&|blob| blob.length = u32::MAX - blob.offset);
    check(&|blob| blob.length -= 1);
    check(&|blob| blob.length = 32);
    check(&|blob| blob.uncompressed_length = u32::MAX);
    check(&|blob| blob.uncompressed_length += 1);
    check(&|blob| blob.id = Id::of(b"another"));
    let kinds = check(&|blob| blob.kind = if blob.kind == BlobKind::Tree { BlobKind::Data } else { BlobKind::Tree });
    assert!(kinds.contains("is not in the index"), "{kinds}");
}

/// Whoever takes blobs of one place for one blob writes the content of the one into the file of the other.
#[test]
fn blobs_that_an_index_puts_in_one_place_are_told_apart() {
    let first = Cell::new(None);
    let problems = with_index(|blob| {
        if blob.kind == BlobKind::Data {
            let place = first.get().unwrap_or(*blob);
            first.set(Some(place));
            *blob = PackedBlob { id: blob.id, ..place };
        }
    });
    assert_eq!(problems.lines().count(), 1, "{problems}");
}

#[test]
fn trees_at_the_very_end_of_what_an_offset_can_say_do_not_overflow() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(LocalStore::new(folder.path()));
    let vault = Vault::init(store, &password()).unwrap();
    let blob = |offset, length, name: &[u8]| PackedBlob {
        offset,
        length,
        uncompressed_length: 0,
        kind: BlobKind::Tree,
        id: Id::of(name),
    };
    // Past the check of `decode`, as if it had let them through.
    let trees = vec![blob(0, u32::MAX, b"whole"), blob(u32::MAX - 40, 40, b"last"), blob(u32::MAX, 40, b"beyond")];
    vault.add_to_index(Id::of(b"index"), &vec![(Id::of(b"pack"), trees)]);
    for name in [&b"whole"[..], b"last", b"beyond"] {
        assert!(vault.tree(&Id::of(name)).is_err());
    }
}

#[test]
fn a_configuration_from_the_future_is_refused_and_named() {
    let check = |config: &str, expected: &str| {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(LocalStore::new(folder.path()));
        let vault = Vault::init(store.clone(), &password()).unwrap();
        store.remove(FileType::Config, "").unwrap();
        let json = config.replace("ID", &vault.id().to_hex());
        store.write(FileType::Config, "", &vault.master_key().0.seal(json.as_bytes()).unwrap()).unwrap();
        let message = Vault::open(store, &password()).map(|_| ()).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    };
    check(r#"{"version":3,"id":"ID","chunker_polynomial":"25b468838dcb75","new":{}}"#, "version 3 are not supported");
    check(r#"{"version":4294967295}"#, "are not supported");
    check(r#"{"version":0,"id":"ID","chunker_polynomial":"25b468838dcb75"}"#, "version 0");
    check(r#"{"version":2,"id":"short","chunker_polynomial":"25b468838dcb75"}"#, "config is damaged");
    check(r#"{"version":2,"id":"ID","chunker_polynomial":"zz"}"#, "config is damaged");
    check("{}", "config is damaged");
}
