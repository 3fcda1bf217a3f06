//! Archives of folders in a snapshot.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::path::Path;

use levee_vault::ArchiveFormat;

use crate::support::*;

fn archive(scratch: &Scratch, source: &Path, format: ArchiveFormat) -> Vec<u8> {
    let vault = scratch.init();
    let id = backup(&vault, source).snapshot_id.unwrap();
    let tree = vault.directory_tree(&id, source).unwrap();
    let mut out = Vec::new();
    levee_vault::dump_archive(&vault, &tree, Path::new("/top/"), format, &mut out).unwrap();
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
    let to_the_second = |described: BTreeMap<std::path::PathBuf, String>| -> Vec<(std::path::PathBuf, String)> {
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
