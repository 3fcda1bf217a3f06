//! Archives of folders in a snapshot.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{Cursor, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use levee_vault::ArchiveFormat;

use crate::support::*;

fn archive(scratch: &Scratch, source: &Path, format: ArchiveFormat) -> Vec<u8> {
    archive_at(scratch, source, "/top/", format)
}

/// With names that begin with `prefix`.
fn archive_at(scratch: &Scratch, source: &Path, prefix: &str, format: ArchiveFormat) -> Vec<u8> {
    let vault = scratch.init();
    let id = backup(&vault, source).snapshot_id.unwrap();
    let tree = vault.directory_tree(&id, source).unwrap();
    let mut out = Vec::new();
    levee_vault::dump_archive(&vault, &tree, Path::new(prefix), format, &mut out).unwrap();
    out
}

#[test]
fn a_tar_archive_unpacks_to_what_was_stored() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    make_zoo(&source);
    // What the format or unpacking it loses: links between names, fractions of seconds, holes.
    std::fs::remove_file(source.join("deep/hard link two")).unwrap();
    std::os::unix::fs::chown(source.join("plain"), Some(4_000_000_000), Some(3_000_000_000)).unwrap();
    let packed = scratch.path("packed.tar");
    std::fs::write(&packed, archive(&scratch, &source, ArchiveFormat::Tar)).unwrap();
    let target = scratch.path("target");
    std::fs::create_dir(&target).unwrap();
    let status = std::process::Command::new("tar")
        .args(["--xattrs", "--xattrs-include=*", "--same-owner", "--numeric-owner", "-p", "-xf"])
        .arg(&packed)
        .arg("-C")
        .arg(&target)
        .status()
        .unwrap();
    assert!(status.success());
    // The archive holds whole seconds, to the nearest one.
    let to_the_second = |described: BTreeMap<PathBuf, String>| -> Vec<(PathBuf, String)> {
        let round = |text: String| {
            let (head, tail) = text.split_once(" mtime ").unwrap();
            let (seconds, rest) = tail.split_once('.').unwrap();
            let (nanoseconds, rest) = rest.split_once(' ').unwrap();
            let nearest =
                seconds.parse::<i64>().unwrap() + i64::from(nanoseconds.parse::<u32>().unwrap() >= 500_000_000);
            format!("{head} {nearest} {rest}")
        };
        // The archive has no entry for the folder itself.
        let all = described.into_iter().filter(|(path, _)| !path.as_os_str().is_empty());
        all.map(|(path, text)| (path, round(text))).collect()
    };
    assert_eq!(to_the_second(describe(&target.join("top"))), to_the_second(describe(&source)));
}

#[test]
fn a_zip_archive_has_files_folders_and_links() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    make_zoo(&source);
    let packed = archive(&scratch, &source, ArchiveFormat::Zip);
    let mut zip = zip::ZipArchive::new(Cursor::new(packed)).unwrap();
    let mut read = |name: &str| {
        let mut entry = zip.by_name(name).unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (entry.unix_mode().unwrap(), content)
    };
    assert_eq!(read("top/plain"), (0o100644, b"plain content".to_vec()));
    assert_eq!(read("top/large").1, noise(5 << 20, 1));
    // Permissions alone: the format has no agreed place for setuid and its like.
    assert_eq!(read("top/setuid").0, 0o100755);
    assert_eq!(read("top/empty directory/").0, 0o040777);
    assert_eq!(read("top/link"), (0o120777, b"plain".to_vec()));
    assert_eq!(read("top/deep/er/est/file").1, b"far down");
}

fn from_bytes(name: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(name))
}

#[test]
fn names_that_turn_alike_in_a_zip_archive_are_told_apart() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    std::fs::create_dir(&source).unwrap();
    for name in [&b"\xfe.txt"[..], b"\xff.txt", "\u{fffd}.txt".as_bytes()] {
        std::fs::write(source.join(from_bytes(name)), name).unwrap();
    }
    for name in [&b"folder \xfe"[..], b"folder \xff"] {
        std::fs::create_dir(source.join(from_bytes(name))).unwrap();
        std::fs::write(source.join(from_bytes(name)).join("file"), name).unwrap();
    }
    let packed = archive_at(&scratch, &source, "/", ArchiveFormat::Zip);
    let mut zip = zip::ZipArchive::new(Cursor::new(packed)).unwrap();
    let mut held = BTreeMap::new();
    for index in 0..zip.len() {
        let mut entry = zip.by_index(index).unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        held.insert(entry.name().unwrap().to_string(), content);
    }
    let expected: [(&str, &[u8]); 7] = [
        ("folder \u{fffd}-1/", b""),
        ("folder \u{fffd}-1/file", b"folder \xff"),
        ("folder \u{fffd}/", b""),
        ("folder \u{fffd}/file", b"folder \xfe"),
        ("\u{fffd}.txt", "\u{fffd}.txt".as_bytes()),
        ("\u{fffd}.txt-1", b"\xfe.txt"),
        ("\u{fffd}.txt-2", b"\xff.txt"),
    ];
    assert_eq!(held, BTreeMap::from(expected.map(|(name, content)| (name.to_string(), content.to_vec()))));
}

#[test]
fn a_tar_archive_has_names_and_link_targets_byte_for_byte() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    std::fs::create_dir(&source).unwrap();
    let long = |first: &[u8], length: usize| [first, &vec![b'x'; length][..]].concat();
    let names = [long(b"\xe9", 99), long(b"\xe9", 120), long(b"y", 99), long(b"", 100), long(b"\xff", 250)];
    for name in &names {
        std::fs::write(source.join(from_bytes(name)), name).unwrap();
    }
    let directory = source.join(from_bytes(&long(b"\xfc", 99)));
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("inside"), b"of a long name").unwrap();
    let long_target = long(b"\xe9//", 300);
    let targets: [&[u8]; 8] = [b"a//b", b"/", b"//", b"./a/", b"a/./b", b"../up", b"\xe9", &long_target];
    for (number, target) in targets.iter().enumerate() {
        std::os::unix::fs::symlink(from_bytes(target), source.join(format!("link {number}"))).unwrap();
    }
    let packed = scratch.path("packed.tar");
    std::fs::write(&packed, archive_at(&scratch, &source, "/", ArchiveFormat::Tar)).unwrap();
    let target = scratch.path("target");
    std::fs::create_dir(&target).unwrap();
    let mut tar = std::process::Command::new("tar");
    // Absolute link targets as they are.
    tar.args(["-P", "-xf"]).arg(&packed).arg("-C").arg(&target);
    assert!(tar.status().unwrap().success());
    let content = |root: &Path| -> BTreeMap<PathBuf, Vec<u8>> {
        let held = describe(root).into_keys().filter(|path| !path.as_os_str().is_empty());
        held.map(|path| {
            let here = root.join(&path);
            let content = match std::fs::symlink_metadata(&here).unwrap() {
                found if found.is_symlink() => std::fs::read_link(&here).unwrap().as_os_str().as_bytes().to_vec(),
                found if found.is_dir() => Vec::new(),
                _ => std::fs::read(&here).unwrap(),
            };
            (path, content)
        })
        .collect()
    };
    assert_eq!(content(&target), content(&source));
}
