use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use levee_store::{Error, FileType, LocalStore, Store, conformance, content_name};
use levee_testing::disk::SmallDisk;

use crate::objects;

#[test]
fn conforms() {
    let dir = tempfile::tempdir().unwrap();
    conformance::check(&LocalStore::new(dir.path().join("a/b/repository")));
}

/// Where a file lies in a folder that holds a repository.
pub fn path_in(folder: &Path, file_type: FileType, name: &str) -> PathBuf {
    match file_type {
        FileType::Config => folder.join("config"),
        FileType::Data => folder.join("data").join(&name[..2]).join(name),
        _ => folder.join(file_type.folder()).join(name),
    }
}

#[test]
fn files_that_were_changed_below_it_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::new(dir.path().join("repository"));
    conformance::check_changed_files(&store, |file_type, name| path_in(store.dir(), file_type, name));
}

#[test]
fn only_the_owner_may_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::new(dir.path().join("repository"));
    store.create().unwrap();
    store.write(FileType::Config, "", b"config").unwrap();
    let name = content_name(b"pack");
    store.write(FileType::Data, &name, b"pack").unwrap();
    let mode = |path: &str| fs::metadata(store.dir().join(path)).unwrap().permissions().mode() & 0o7777;
    for folder in ["", "data", "data/00", "data/ff", "index", "keys", "locks", "snapshots"] {
        assert_eq!(mode(folder), 0o700, "{folder:?}");
    }
    assert_eq!(mode("config"), 0o600);
    assert_eq!(mode(&format!("data/{}/{name}", &name[..2])), 0o600);
}

#[test]
fn foreign_names_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::new(dir.path());
    store.create().unwrap();
    let name = content_name(b"pack");
    store.write(FileType::Data, &name, b"pack").unwrap();
    fs::write(dir.path().join("data/00/.tmp-abc"), b"torn").unwrap();
    fs::write(dir.path().join("data/00/notes.txt"), b"by hand").unwrap();
    // A pack in another folder than its own would be listed but never found.
    fs::write(dir.path().join("data/00").join(content_name(b"stray")), b"stray").unwrap();
    fs::create_dir(dir.path().join("index").join(&name)).unwrap();
    assert_eq!(store.list(FileType::Data).unwrap().into_iter().map(|entry| entry.name).collect::<Vec<_>>(), [name]);
    assert_eq!(store.list(FileType::Index).unwrap(), []);
}

#[test]
fn missing_folders_are_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::new(dir.path().join("repository"));
    store.create().unwrap();
    store.write(FileType::Config, "", b"config").unwrap();
    fs::remove_dir_all(store.dir().join("data")).unwrap();
    assert_eq!(store.list(FileType::Data).unwrap(), []);
    let name = content_name(b"pack");
    store.write(FileType::Data, &name, b"pack").unwrap();
    assert_eq!(store.read(FileType::Data, &name).unwrap(), b"pack");
    // But a repository that isn't there is not made by writing into it: the disk may not be mounted.
    fs::remove_dir_all(store.dir()).unwrap();
    assert!(matches!(store.write(FileType::Data, &name, b"pack"), Err(Error::NotFound { .. })));
}

#[test]
fn a_disk_that_is_unmounted_meanwhile_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::new(dir.path().join("repository"));
    // A new repository has no configuration until the end.
    store.create().unwrap();
    let key = content_name(b"key");
    store.write(FileType::Key, &key, b"key").unwrap();
    store.write(FileType::Config, "", b"config").unwrap();
    let opened = LocalStore::new(store.dir());
    opened.read(FileType::Config, "").unwrap();
    let name = content_name(b"pack");
    opened.write(FileType::Data, &name, b"pack").unwrap();
    // The mount point is a folder, too.
    fs::rename(store.dir(), dir.path().join("elsewhere")).unwrap();
    fs::create_dir(store.dir()).unwrap();
    for store in [&store, &opened] {
        for file_type in [FileType::Data, FileType::Index, FileType::Snapshot, FileType::Lock] {
            let refused = store.write(file_type, &name, b"pack");
            assert!(matches!(refused, Err(Error::Vanished { .. })), "{refused:?}");
            let listed = store.list(file_type);
            assert!(matches!(listed, Err(Error::Vanished { .. })), "{listed:?}");
        }
    }
    assert_eq!(fs::read_dir(store.dir()).unwrap().count(), 0);
    // Whoever looks for a repository finds none.
    assert_eq!(LocalStore::new(store.dir()).list(FileType::Key).unwrap(), []);
    fs::remove_dir(store.dir()).unwrap();
    fs::rename(dir.path().join("elsewhere"), store.dir()).unwrap();
    opened.write(FileType::Index, &name, b"pack").unwrap();
    assert_eq!(opened.list(FileType::Data).unwrap().len(), 1);
}

#[test]
fn tells_when_a_file_was_received() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::new(dir.path());
    store.create().unwrap();
    objects::check_received(&store, |store| store.received(FileType::Lock));
}

#[test]
fn a_full_disk_is_named_and_leaves_nothing_behind() {
    if !SmallDisk::is_possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let _disk = SmallDisk::mount(dir.path(), 1);
    let store = LocalStore::new(dir.path().join("repository"));
    store.create().unwrap();
    let content = vec![7; 2 << 20];
    let name = content_name(&content);
    let full = store.write(FileType::Data, &name, &content);
    assert!(matches!(full, Err(Error::Full { .. })), "{full:?}");
    assert_eq!(fs::read_dir(store.dir().join("data").join(&name[..2])).unwrap().count(), 0);
    // What fits can still be written.
    let small = content_name(b"small");
    store.write(FileType::Data, &small, b"small").unwrap();
}

#[track_caller]
fn assert_replaced<T: std::fmt::Debug>(result: Result<T, Error>) {
    let is_said = matches!(&result, Err(Error::Vanished { reason, .. }) if reason.contains("another folder"));
    assert!(is_said, "{result:?}");
}

/// Below the disk lies what was written before it was ever mounted.
#[test]
fn an_older_repository_below_an_unmounted_disk_is_left_alone() {
    if !SmallDisk::is_possible() {
        return;
    }
    // Another one, and an older state of the same.
    for config in [b"another", b"the one"] {
        let dir = tempfile::tempdir().unwrap();
        let older = LocalStore::new(dir.path());
        older.create().unwrap();
        older.write(FileType::Config, "", config).unwrap();
        let (old, new) = (content_name(b"old"), content_name(b"new"));
        older.write(FileType::Data, &old, b"old").unwrap();

        let disk = SmallDisk::mount(dir.path(), 1);
        let store = LocalStore::new(dir.path());
        store.create().unwrap();
        store.write(FileType::Config, "", b"the one").unwrap();
        store.write(FileType::Data, &new, b"new").unwrap();
        drop(disk);
        assert_replaced(store.write(FileType::Data, &new, b"new"));
        assert_replaced(store.write(FileType::Lock, &new, b"new"));
        assert_replaced(store.list(FileType::Data));
        assert_replaced(store.remove(FileType::Data, &old));
        // That it isn't below the disk says nothing about the repository on it.
        assert_replaced(store.read(FileType::Data, &new));
        assert_replaced(store.size_bytes(FileType::Data, &new));
        assert_eq!(older.list(FileType::Lock).unwrap(), []);
        assert_eq!(older.list(FileType::Data).unwrap().into_iter().map(|entry| entry.name).collect::<Vec<_>>(), [old]);
    }
}

/// As after a remount, and on file systems that number their folders anew at times.
#[test]
fn a_repository_in_a_folder_of_another_number_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::new(dir.path().join("repository"));
    store.create().unwrap();
    store.write(FileType::Config, "", b"config").unwrap();
    let (first, second) = (content_name(b"first"), content_name(b"second"));
    store.write(FileType::Data, &first, b"first").unwrap();
    let renumber = || {
        fs::rename(store.dir(), dir.path().join("before")).unwrap();
        let copied = Command::new("cp").arg("-a").arg(dir.path().join("before")).arg(store.dir()).status().unwrap();
        assert!(copied.success());
        fs::remove_dir_all(dir.path().join("before")).unwrap();
    };
    renumber();
    store.write(FileType::Data, &second, b"second").unwrap();
    assert_eq!(store.list(FileType::Data).unwrap().len(), 2);
    // What it has removed itself is not missed.
    store.remove(FileType::Data, &second).unwrap();
    renumber();
    assert_eq!(store.list(FileType::Data).unwrap().len(), 1);
    store.write(FileType::Data, &second, b"second").unwrap();
    fs::remove_file(store.dir().join("data").join(&second[..2]).join(&second)).unwrap();
    renumber();
    assert_replaced(store.list(FileType::Data));
}

/// A lock is written and removed all the time: what was written before it still tells.
#[test]
fn an_older_copy_is_known_for_one_also_when_a_lock_came_last() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::new(dir.path().join("repository"));
    store.create().unwrap();
    store.write(FileType::Config, "", b"config").unwrap();
    let older = dir.path().join("older");
    let copied = Command::new("cp").arg("-a").args([store.dir(), older.as_path()]).status().unwrap();
    assert!(copied.success());
    let (pack, lock) = (content_name(b"pack"), content_name(b"lock"));
    store.write(FileType::Data, &pack, b"pack").unwrap();
    store.write(FileType::Lock, &lock, b"lock").unwrap();
    store.remove(FileType::Lock, &lock).unwrap();
    store.require_standing().unwrap();

    fs::rename(store.dir(), dir.path().join("disk")).unwrap();
    assert!(matches!(store.require_standing(), Err(Error::Vanished { .. })), "there is no folder at all");
    fs::rename(&older, store.dir()).unwrap();
    assert_replaced(store.require_standing());
    assert_replaced(store.write(FileType::Data, &lock, b"lock"));
    // Whoever has seen no repository here takes what stands here.
    LocalStore::new(store.dir()).require_standing().unwrap();

    fs::rename(store.dir(), &older).unwrap();
    fs::rename(dir.path().join("disk"), store.dir()).unwrap();
    store.require_standing().unwrap();
    assert_eq!(store.read(FileType::Data, &pack).unwrap(), b"pack");
}

/// As after an error of the disk, or when somebody takes the right to write away.
#[test]
fn a_disk_that_may_only_be_read_is_said_and_goes_on_later() {
    if !SmallDisk::is_possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(dir.path(), 1);
    let store = LocalStore::new(dir.path().join("repository"));
    store.create().unwrap();
    let (before, after) = (content_name(b"before"), content_name(b"after"));
    store.write(FileType::Data, &before, b"before").unwrap();
    disk.set_read_only(true);
    for refused in [store.write(FileType::Data, &after, b"after"), store.remove(FileType::Data, &before)] {
        let is_named = |source: &std::io::Error| source.kind() == std::io::ErrorKind::ReadOnlyFilesystem;
        assert!(matches!(&refused, Err(Error::Io { source, .. }) if is_named(source)), "{refused:?}");
    }
    assert_eq!(store.read(FileType::Data, &before).unwrap(), b"before");
    disk.set_read_only(false);
    store.write(FileType::Data, &after, b"after").unwrap();
    store.remove(FileType::Data, &before).unwrap();
}
