//! A folder with everything that file systems come up with, and what can be seen of it.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

pub use levee_testing::random::noise;
use levee_testing::restic::Restic;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, mknodat, setxattr, utimensat};

fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Makes the folder. Needs root, for owners.
pub fn make(root: &Path) {
    let file = |name: &str, content: &[u8]| {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    };
    file("empty", b"");
    file("small", b"a few bytes");
    file("noise", &noise(1, 5_000_000));
    file("text", "the same line again and again\n".repeat(200_000).as_bytes());
    file("zeros", &vec![0; 3_000_000]);
    file("deep/er/and/deeper/file", b"deep");
    fs::create_dir(root.join("empty folder")).unwrap();

    for name in [
        &b"not \xff\xfe utf-8"[..],
        b"new\nline",
        b"\"quoted\\\"",
        b"tab\there",
        "ünïcödé 🎈".as_bytes(),
        b"<&>",
        b"*?[x]",
    ] {
        fs::write(root.join(OsStr::from_bytes(name)), name).unwrap();
    }

    symlink("small", root.join("link")).unwrap();
    symlink("nowhere/at/all", root.join("dangling link")).unwrap();
    symlink(OsStr::from_bytes(b"bytes \xf0\x28"), root.join(RAW_LINK)).unwrap();
    set_time(&root.join("link"), 1_000_000_000, 5);
    fs::hard_link(root.join("noise"), root.join("deep/hard link")).unwrap();
    fs::hard_link(root.join("noise"), root.join("zz hard link")).unwrap();

    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    sparse.write_all_at(&noise(2, 100_000), 20 << 20).unwrap();
    let hole = File::create(root.join("only a hole")).unwrap();
    hole.set_len(16 << 20).unwrap();

    for (mode, name) in
        [(0o000, "mode 0"), (0o4755, "setuid"), (0o2711, "setgid"), (0o7777, "all bits"), (0o444, "read only")]
    {
        let path = file(name, name.as_bytes());
        chown(&path, Some(1234), Some(4321)).unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    for (mode, name) in [(0o1777, "sticky"), (0o555, "not writable"), (0o2770, "setgid folder")] {
        file(&format!("{name}/inside"), b"inside");
        fs::set_permissions(root.join(name), Permissions::from_mode(mode)).unwrap();
    }

    let attributed = file("attributed", b"with attributes");
    setxattr(&attributed, "user.levee.test", b"a \0 value", XattrFlags::empty()).unwrap();
    setxattr(&attributed, "user.empty", b"", XattrFlags::empty()).unwrap();
    setxattr(root.join("empty folder"), "user.on.a.folder", b"yes", XattrFlags::empty()).unwrap();

    mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();

    for (name, seconds, nanoseconds) in [
        ("before 1970", -1_000_000_000, 123_456_789),
        ("at the beginning", 0, 0),
        ("far ahead", 4_000_000_000, 999_999_999),
    ] {
        set_time(&file(name, name.as_bytes()), seconds, nanoseconds);
    }
    // Last, since what is made inside a folder changes its time.
    set_time(&root.join("deep/er"), -5, 7);
    set_time(&root.join("not writable"), 1_234_567_890, 1);
    // A file that has changed within the clock's last tick could change again without its time showing
    // it, and is rightly read again.
    thread::sleep(Duration::from_millis(50));
}

/// What can be seen of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    mode: u32,
    owner: (u32, u32),
    modified: (i64, i64),
    size: u64,
    content: Option<String>,
    link_target: Option<OsString>,
    attributes: BTreeMap<OsString, Vec<u8>>,
    /// The first path of the same file, when there are several.
    same_file_as: Option<PathBuf>,
}

/// Everything below `root`, by its path from there.
pub fn facts(root: &Path) -> BTreeMap<PathBuf, Facts> {
    let (mut found, mut seen) = (BTreeMap::new(), HashMap::new());
    walk(root, Path::new(""), &mut found, &mut seen);
    found
}

fn walk(root: &Path, relative: &Path, found: &mut BTreeMap<PathBuf, Facts>, seen: &mut HashMap<(u64, u64), PathBuf>) {
    let path = root.join(relative);
    let metadata = fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut same_file_as = None;
    if metadata.nlink() > 1 && !metadata.is_dir() {
        let first = seen.entry((metadata.dev(), metadata.ino())).or_insert_with(|| relative.to_path_buf());
        same_file_as = Some(first.clone());
    }
    let facts = Facts {
        mode: metadata.mode(),
        owner: (metadata.uid(), metadata.gid()),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        size: if metadata.is_dir() { 0 } else { metadata.size() },
        content: metadata.is_file().then(|| levee_store::content_name(&fs::read(&path).unwrap())),
        link_target: metadata.is_symlink().then(|| fs::read_link(&path).unwrap().into_os_string()),
        attributes: if metadata.is_symlink() { BTreeMap::new() } else { attributes(&path) },
        same_file_as,
    };
    found.insert(relative.to_path_buf(), facts);
    if metadata.is_dir() {
        let mut names: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        for name in names {
            walk(root, &relative.join(name), found, seen);
        }
    }
}

fn attributes(path: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let mut names = vec![0; 4096];
    let length = rustix::fs::listxattr(path, &mut names[..]).unwrap();
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 4096];
            let length = rustix::fs::getxattr(path, name, &mut value[..]).unwrap();
            (OsString::from_vec(name.to_vec()), value[..length].to_vec())
        })
        .collect()
}

/// A link whose target old versions of restic cannot keep.
const RAW_LINK: &str = "link to no utf-8";

/// Asserts that two folders look the same, naming what differs.
#[track_caller]
pub fn assert_same(left: &Path, right: &Path) {
    compare(left, facts(left), right, facts(right));
}

/// The same, as far as restic 0.14 can keep it.
#[track_caller]
pub fn assert_same_to_restic(restic: &Restic, left: &Path, right: &Path) {
    let (mut left_facts, mut right_facts) = (facts(left), facts(right));
    if restic.version() == "0.14.0" {
        left_facts.remove(Path::new(RAW_LINK));
        right_facts.remove(Path::new(RAW_LINK));
    }
    compare(left, left_facts, right, right_facts);
}

#[track_caller]
fn compare(left: &Path, left_facts: BTreeMap<PathBuf, Facts>, right: &Path, right_facts: BTreeMap<PathBuf, Facts>) {
    for (path, facts) in &left_facts {
        let other = right_facts.get(path);
        assert_eq!(Some(facts), other, "{path:?} of {} against {}", left.display(), right.display());
    }
    let extra: Vec<_> = right_facts.keys().filter(|path| !left_facts.contains_key(*path)).collect();
    assert!(extra.is_empty(), "only in {}: {extra:?}", right.display());
}

/// The bytes on disk of a file.
pub fn allocated_bytes(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}
