//! What the tests share: repositories in scratch folders, trees of every kind of file, and stock restic.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use levee_store::{LocalStore, Store};
use levee_vault::check::ReadData;
use levee_vault::{BackupOptions, BackupSummary, CheckOptions, MasterKey, Password, RestoreOptions, SnapshotId, Vault};
use tempfile::TempDir;

pub const PASSWORD: &str = "correct horse";

pub const READ_ALL: CheckOptions = CheckOptions { read_data: ReadData::All, no_lock: false };

pub fn password() -> Password {
    Password::new(PASSWORD)
}

/// A scratch folder with room for a repository, a source and targets.
pub struct Scratch {
    pub dir: TempDir,
}

impl Scratch {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn store(&self) -> Arc<dyn Store> {
        Arc::new(LocalStore::new(self.path("repository")))
    }

    pub fn init(&self) -> Vault {
        Vault::init(self.store(), &password()).unwrap()
    }

    /// Another folder with a copy of the repository.
    pub fn copied(&self) -> Self {
        let copy = Self::new();
        let copied = Command::new("cp").arg("-a").args([self.path("repository"), copy.path("repository")]).status();
        assert!(copied.unwrap().success());
        copy
    }

    /// Without a password, which takes the longest of opening.
    pub fn open_with(&self, key: &MasterKey) -> Vault {
        Vault::open_with_master_key(self.store(), key.clone()).unwrap()
    }

    pub fn open(&self) -> Vault {
        Vault::open(self.store(), &password()).unwrap()
    }

    /// The repository's files below one of its folders.
    pub fn files(&self, folder: &str) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let mut to_do = vec![self.path("repository").join(folder)];
        while let Some(directory) = to_do.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    to_do.push(path);
                } else {
                    found.insert(path);
                }
            }
        }
        found
    }

    /// Runs stock restic on the repository and expects it to succeed.
    pub fn restic(&self, arguments: &[&str]) -> String {
        let output = self.restic_output(arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "restic {arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    pub fn restic_output(&self, arguments: &[&str]) -> Output {
        self.restic_command(arguments).output().unwrap()
    }

    pub fn restic_command(&self, arguments: &[&str]) -> Command {
        std::fs::create_dir_all(self.path("cache")).unwrap();
        let mut command = Command::new(restic_program());
        command
            .args(arguments)
            .env("RESTIC_REPOSITORY", self.path("repository"))
            .env("RESTIC_PASSWORD", PASSWORD)
            .env("RESTIC_CACHE_DIR", self.path("cache"))
            .env("TZ", "UTC");
        command
    }
}

/// Restic of the distribution, or the one that `LEVEE_TEST_RESTIC` names.
pub fn restic_program() -> OsString {
    std::env::var_os("LEVEE_TEST_RESTIC").unwrap_or_else(|| "restic".into())
}

/// Whether this restic knows a flag. 0.14 makes no holes and doesn't keep link targets that aren't UTF-8.
pub fn restic_knows(command: &str, flag: &str) -> bool {
    let help = Command::new(restic_program()).args([command, "--help"]).output().unwrap();
    String::from_utf8_lossy(&help.stdout).contains(flag)
}

/// What restic cannot bring back: 0.14 raw link targets, any version times after 2262.
pub fn remove_what_restic_loses(root: &Path) {
    if !restic_knows("restore", "--sparse") {
        std::fs::remove_file(root.join("raw link")).unwrap();
    }
    set_times(&root.join("empty"), 9_151_488_000, 0);
}

pub fn backup_options(path: &Path) -> BackupOptions {
    BackupOptions { paths: vec![path.to_path_buf()], ..BackupOptions::default() }
}

/// Backs up and expects that everything could be read.
pub fn backup(vault: &Vault, path: &Path) -> BackupSummary {
    let summary = levee_vault::backup(vault, &backup_options(path), &()).unwrap();
    assert!(summary.errors.is_empty(), "{:?}", summary.errors);
    summary
}

/// A source with every kind of file, its snapshot, and a place to restore it to, where nothing is yet.
pub struct Saved {
    pub scratch: Scratch,
    pub source: PathBuf,
    pub vault: Vault,
    pub id: SnapshotId,
    pub target: PathBuf,
}

impl Saved {
    pub fn zoo() -> Self {
        let scratch = Scratch::new();
        let (source, target) = (scratch.path("source"), scratch.path("target"));
        make_zoo(&source);
        let vault = scratch.init();
        let id = backup(&vault, &source).snapshot_id.unwrap();
        Self { scratch, source, vault, id, target }
    }
}

/// Restores what a source folder had into a target and expects no problem.
pub fn restore(vault: &Vault, snapshot: SnapshotId, source: &Path, target: &Path) -> levee_vault::RestoreSummary {
    restore_with(vault, snapshot, source, target, RestoreOptions::default())
}

pub fn restore_with(
    vault: &Vault,
    snapshot: SnapshotId,
    source: &Path,
    target: &Path,
    options: RestoreOptions,
) -> levee_vault::RestoreSummary {
    let options = RestoreOptions { target: target.to_path_buf(), subfolder: Some(source.to_path_buf()), ..options };
    let summary = levee_vault::restore(vault, &snapshot, &options, &()).unwrap();
    assert!(summary.errors.is_empty(), "{:?}", summary.errors);
    summary
}

/// A tree with every kind of entry that can be stored.
pub fn make_zoo(root: &Path) {
    let file = |name: &OsStr, content: &[u8]| std::fs::write(root.join(name), content).unwrap();
    std::fs::create_dir_all(root.join("deep/er/est")).unwrap();
    std::fs::create_dir(root.join("empty directory")).unwrap();
    file(OsStr::new("plain"), b"plain content");
    file(OsStr::new("empty"), b"");
    file(OsStr::new("deep/er/est/file"), b"far down");
    file(OsStr::new("quote\"back\\slash\nline<&>"), b"1");
    file(OsStr::new("ünïcödé \u{a0}\u{200b} 日本"), b"2");
    file(OsStr::from_bytes(b"not\xffutf\xe9"), b"3");
    file(OsStr::new("large"), &noise(5 << 20, 1));
    file(OsStr::new("hard link one"), b"several names");
    std::fs::hard_link(root.join("hard link one"), root.join("deep/hard link two")).unwrap();
    symlink("plain", root.join("link")).unwrap();
    symlink("/nowhere/at all", root.join("dangling")).unwrap();
    symlink(OsStr::from_bytes(b"target\xff\xfe"), root.join("raw link")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o640),
        0,
    )
    .unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("device"),
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::from_raw_mode(0o600),
        rustix::fs::makedev(1, 3),
    )
    .unwrap();
    let sparse = std::fs::File::create(root.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"in the middle", 20 << 20).unwrap();
    sparse.set_len(40 << 20).unwrap();
    for (name, mode) in [("setuid", 0o4755), ("setgid", 0o2711), ("unreadable", 0o000)] {
        file(OsStr::new(name), name.as_bytes());
        std::fs::set_permissions(root.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    std::fs::set_permissions(root.join("empty directory"), std::fs::Permissions::from_mode(0o1777)).unwrap();
    std::os::unix::fs::chown(root.join("plain"), Some(12345), Some(54321)).unwrap();
    xattr::set(root.join("plain"), "user.note", b"\x00\xffbinary").unwrap();
    xattr::set(root.join("deep"), "user.note", b"on a directory").unwrap();
    set_times(&root.join("plain"), -315_619_200, 123_456_789);
    set_times(&root.join("empty"), 10_413_792_000, 0);
    set_times(&root.join("deep/er"), 1, 1);
}

pub fn set_times(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    levee_testing::random::noise(seed, length)
}

/// Everything about a tree that a restore must bring back, as text that can be compared.
pub fn describe(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut described = BTreeMap::new();
    let mut first_names = BTreeMap::new();
    let mut to_do = vec![root.to_path_buf()];
    while let Some(path) = to_do.pop() {
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        let relative = path.strip_prefix(root).unwrap().to_path_buf();
        let content = if metadata.is_file() {
            format!("{:x?}", sha(&std::fs::read(&path).unwrap()))
        } else if metadata.is_symlink() {
            format!("{:?}", std::fs::read_link(&path).unwrap())
        } else {
            String::new()
        };
        let links = if metadata.is_dir() { 0 } else { metadata.nlink() };
        let first: &mut Vec<PathBuf> = first_names.entry(metadata.ino()).or_default();
        first.push(relative.clone());
        let mut attributes: Vec<_> = if metadata.is_symlink() {
            Vec::new()
        } else {
            xattr::list(&path).unwrap().map(|name| (name.clone(), xattr::get(&path, &name).unwrap())).collect()
        };
        attributes.sort();
        let line = format!(
            "mode {:o} owner {}:{} links {links} size {} device {} mtime {}.{:09} attributes {attributes:?} content {content}",
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            if metadata.is_dir() { 0 } else { metadata.size() },
            metadata.rdev(),
            metadata.mtime(),
            metadata.mtime_nsec(),
        );
        described.insert(relative, line);
        if metadata.is_dir() {
            to_do.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    for names in first_names.values_mut().filter(|names| names.len() > 1) {
        names.sort();
        for name in names.iter() {
            described.get_mut(name).unwrap().push_str(&format!(" same as {names:?}"));
        }
    }
    described
}

fn sha(content: &[u8]) -> levee_vault::Id {
    levee_vault::Id::of(content)
}

/// Compares two trees and names the first differences.
pub fn assert_same(expected: &Path, actual: &Path) {
    let (expected, actual) = (describe(expected), describe(actual));
    let names: BTreeSet<_> = expected.keys().chain(actual.keys()).collect();
    let differing: Vec<_> = names
        .into_iter()
        .filter(|name| expected.get(*name) != actual.get(*name))
        .map(|name| format!("{name:?}\n  expected {:?}\n  actual   {:?}", expected.get(name), actual.get(name)))
        .collect();
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}
