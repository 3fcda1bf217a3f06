//! Restores that fail half-way and are run again, by every rule for what is there already.

use std::collections::BTreeSet;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use levee_store::{FileType, Store};
use levee_vault::{Overwrite, RestoreOptions, RestoreSummary, SnapshotId, Vault};

use crate::support::*;

/// A store in which some packs are not to be had.
struct WithoutPacks {
    store: Arc<dyn Store>,
    packs: BTreeSet<String>,
}

impl WithoutPacks {
    fn read<T>(&self, name: &str, read: impl FnOnce() -> levee_store::Result<T>) -> levee_store::Result<T> {
        if !self.packs.contains(name) {
            return read();
        }
        let (location, name, reason) = (self.store.location(), name.into(), "the link is cut".into());
        Err(levee_store::Error::Unreachable { location, action: "read", file_type: FileType::Data, name, reason })
    }
}

impl Store for WithoutPacks {
    levee_store::forward!(store: create, write, size_bytes, list, remove, location);

    fn read(&self, file_type: FileType, name: &str) -> levee_store::Result<Vec<u8>> {
        self.read(name, || self.store.read(file_type, name))
    }

    fn read_range(&self, file_type: FileType, name: &str, offset: u64, length: usize) -> levee_store::Result<Vec<u8>> {
        self.read(name, || self.store.read_range(file_type, name, offset, length))
    }
}

/// A folder with a file that lies in several packs, and what was stored of it.
struct Case {
    scratch: Scratch,
    source: PathBuf,
    vault: Vault,
    id: SnapshotId,
}

const LARGE_BYTES: usize = 40 << 20;
/// More than what is in any pack of the file, and less than all of it.
const PART_BYTES: u64 = 24 << 20;
/// Packs of directories are smaller, and none of contents is.
const DATA_PACK_BYTES_MIN: u64 = 64 << 10;

impl Case {
    fn new() -> Self {
        let scratch = Scratch::new();
        let source = scratch.path("source");
        std::fs::create_dir_all(source.join("below")).unwrap();
        std::fs::write(source.join("below/large"), noise(LARGE_BYTES, 4)).unwrap();
        for number in 0..10 {
            std::fs::write(source.join(number.to_string()), noise(100_000, 10 + number)).unwrap();
        }
        let vault = scratch.init();
        let id = backup(&vault, &source).snapshot_id.unwrap();
        Self { scratch, source, vault, id }
    }

    /// The packs of file contents, the largest last.
    fn data_packs(&self) -> Vec<String> {
        let sizes = self.scratch.files("data").into_iter().map(|pack| (std::fs::metadata(&pack).unwrap().len(), pack));
        let mut packs: Vec<(u64, PathBuf)> = sizes.filter(|(bytes, _)| *bytes >= DATA_PACK_BYTES_MIN).collect();
        packs.sort();
        packs.iter().map(|(_, pack)| pack.file_name().unwrap().to_str().unwrap().to_string()).collect()
    }

    fn without(&self, packs: impl IntoIterator<Item = String>) -> Vault {
        let store = WithoutPacks { store: self.scratch.store(), packs: packs.into_iter().collect() };
        Vault::open_with_master_key(Arc::new(store), self.vault.master_key().clone()).unwrap()
    }

    fn options(&self, target: &Path, overwrite: Overwrite) -> RestoreOptions {
        let (target, subfolder) = (target.to_path_buf(), Some(self.source.clone()));
        // What was begun is nothing that a restore removes as stray.
        RestoreOptions { target, subfolder, overwrite, delete: true, ..RestoreOptions::default() }
    }

    /// Restores while a part of the large file is not to be had.
    fn fail(&self, target: &Path, overwrite: Overwrite) {
        let vault = self.without(self.data_packs().pop());
        let done = levee_vault::restore(&vault, &self.id, &self.options(target, overwrite), &()).unwrap();
        let paths: Vec<_> = done.errors.first.iter().map(|problem| problem.path.as_path()).collect();
        assert!(paths.contains(&Path::new("below/large")), "{overwrite:?}: {:?}", done.errors);
    }

    /// Restores when everything is there again.
    fn finish(&self, target: &Path, overwrite: Overwrite) -> RestoreSummary {
        let done = levee_vault::restore(&self.vault, &self.id, &self.options(target, overwrite), &()).unwrap();
        assert!(done.errors.is_empty(), "{overwrite:?}: {:?}", done.errors);
        done
    }
}

/// What was begun in a folder: one file.
fn unfinished(folder: &Path) -> PathBuf {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let hidden = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(".levee-unfinished-");
    let found: Vec<PathBuf> = entries.filter(hidden).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

#[test]
fn what_a_failed_restore_has_begun_is_not_taken_for_the_file() {
    let case = Case::new();
    for overwrite in [Overwrite::Always, Overwrite::IfChanged, Overwrite::IfNewer, Overwrite::Never] {
        let target = case.scratch.path(&format!("{overwrite:?}"));
        case.fail(&target, overwrite);
        // Half a file must not stand where it would be kept.
        let looks_there = [Overwrite::Always, Overwrite::IfChanged].contains(&overwrite);
        assert_eq!(target.join("below/large").exists(), looks_there, "{overwrite:?}");
        let done = case.finish(&target, overwrite);
        assert_same(&case.source, &target);
        assert!(done.bytes_written < PART_BYTES, "{overwrite:?}: what was written before is gone on with: {done:?}");
        assert_eq!(case.finish(&target, overwrite).files_restored, 0, "{overwrite:?}");
    }
}

#[test]
fn what_was_begun_is_compared_and_is_nobody_elses() {
    let case = Case::new();
    let target = case.scratch.path("target");
    let below = target.join("below");
    case.fail(&target, Overwrite::Never);
    // Somebody's disk has kept something else.
    let begun = unfinished(&below);
    let opened = std::fs::OpenOptions::new().write(true).open(&begun).unwrap();
    opened.write_all_at(&noise(LARGE_BYTES, 99), 0).unwrap();
    case.finish(&target, Overwrite::Never);
    assert_same(&case.source, &target);

    // One that others may read is not written into.
    std::fs::remove_file(below.join("large")).unwrap();
    case.fail(&target, Overwrite::Never);
    std::fs::set_permissions(&begun, std::fs::Permissions::from_mode(0o644)).unwrap();
    let opened = std::fs::File::open(&begun).unwrap();
    case.finish(&target, Overwrite::Never);
    assert_same(&case.source, &target);
    assert_eq!(opened.metadata().unwrap().nlink(), 0);

    // When the user has brought the file himself, it is of no use any more.
    std::fs::remove_file(below.join("large")).unwrap();
    case.fail(&target, Overwrite::Never);
    assert_eq!(unfinished(&below), begun);
    std::fs::write(below.join("large"), b"mine").unwrap();
    case.finish(&target, Overwrite::Never);
    assert_eq!(std::fs::read(below.join("large")).unwrap(), b"mine");
    assert!(!begun.exists());
}

#[test]
fn an_older_file_stays_whole_until_the_newer_one_is() {
    let case = Case::new();
    let target = case.scratch.path("target");
    let large = target.join("below/large");
    std::fs::create_dir_all(target.join("below")).unwrap();
    // The same but for its first and last pieces, and with another name outside.
    let mut older = noise(LARGE_BYTES, 4);
    older[..100].fill(1);
    older[LARGE_BYTES - 100..].fill(1);
    older.extend(b"longer");
    std::fs::write(&large, &older).unwrap();
    std::fs::hard_link(&large, case.scratch.path("outside")).unwrap();
    symlink("elsewhere", target.join("7")).unwrap();
    set_times(&large, 1000, 0);
    set_times(&target.join("7"), 1000, 0);
    let options = case.options(&target, Overwrite::IfNewer);
    let failed = levee_vault::restore(&case.without(case.data_packs()), &case.id, &options, &()).unwrap();
    assert!(failed.errors.count > 1, "{failed:?}");
    assert_eq!(std::fs::read(&large).unwrap(), older);
    assert_eq!(std::fs::read_link(target.join("7")).unwrap(), Path::new("elsewhere"));

    let done = case.finish(&target, Overwrite::IfNewer);
    assert_same(&case.source, &target);
    assert!(done.bytes_written < PART_BYTES, "{done:?}");
    assert_eq!(std::fs::read(case.scratch.path("outside")).unwrap(), older);
}
