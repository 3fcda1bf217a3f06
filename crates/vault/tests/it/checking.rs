use std::path::{Path, PathBuf};

use levee_vault::check::{ReadData, Subset};
use levee_vault::{CheckOptions, CheckReport, Error, Id, Lock, LockMode, Vault, unlock};

use crate::support::*;

fn check(vault: &Vault, read_data: bool) -> CheckReport {
    let options = if read_data { READ_ALL } else { CheckOptions::default() };
    levee_vault::check(vault, options, &()).unwrap()
}

fn files_of(scratch: &Scratch, folder: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut to_do = vec![scratch.path("repository").join(folder)];
    while let Some(directory) = to_do.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { to_do.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    files
}

fn overwrite(path: &Path, content: &[u8]) {
    // Repository files may be read-only.
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, content).unwrap();
}

fn with_flipped_bit(path: &Path, position: usize, then: impl FnOnce()) {
    let content = std::fs::read(path).unwrap();
    let mut flipped = content.clone();
    flipped[position] ^= 0x20;
    overwrite(path, &flipped);
    then();
    overwrite(path, &content);
}

#[test]
fn a_flipped_bit_in_any_file_is_found_and_the_file_is_named() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    make_zoo(&source);
    let vault = scratch.init();
    backup(&vault, &source);
    let report = check(&vault, true);
    assert!(report.is_sound() && report.hints.is_empty() && report.unused_blobs == 0, "{report:?}");
    assert_eq!((report.snapshots, report.index_files), (1, 1));
    assert!(report.packs >= 2 && report.bytes_read > 5 << 20 && report.trees >= 4);
    for folder in ["snapshots", "index", "data", "keys"] {
        for path in files_of(&scratch, folder) {
            let length = std::fs::metadata(&path).unwrap().len() as usize;
            for position in [0, length / 3, length / 2, length - 1] {
                with_flipped_bit(&path, position, || {
                    let vault = Vault::open_with_master_key(scratch.store(), vault.master_key().clone()).unwrap();
                    let report = check(&vault, true);
                    let name = format!("{folder}/{}", path.file_name().unwrap().to_str().unwrap());
                    let named = report.errors.iter().any(|finding| finding.file == name);
                    assert!(named, "{name} at {position} of {length}: {report:?}");
                });
            }
        }
    }
    assert!(check(&vault, true).is_sound());
}

#[test]
fn a_damaged_lock_stops_writers_until_it_is_removed() {
    let scratch = Scratch::new();
    let vault = scratch.init();
    let lock = Lock::take(&vault, LockMode::Exclusive).unwrap();
    let [path] = &files_of(&scratch, "locks")[..] else { panic!("one lock") };
    let mut content = std::fs::read(path).unwrap();
    content[40] ^= 0x20;
    overwrite(path, &content);
    std::mem::forget(lock);
    // Who holds it can't be told: nobody writes on a guess.
    let vault = scratch.open();
    let refused = Lock::take(&vault, LockMode::Shared).err().unwrap().to_string();
    assert!(refused.contains(path.file_name().unwrap().to_str().unwrap()), "{refused}");
    assert!(unlock(&vault, false).is_err());
    assert_eq!(unlock(&vault, true).unwrap(), 1);
    Lock::take(&vault, LockMode::Shared).unwrap();
}

#[test]
fn headers_and_missing_files_are_looked_at_without_reading_the_data() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    make_zoo(&source);
    let vault = scratch.init();
    backup(&vault, &source);
    for path in files_of(&scratch, "data") {
        let name = format!("data/{}", path.file_name().unwrap().to_str().unwrap());
        let length = std::fs::metadata(&path).unwrap().len() as usize;
        with_flipped_bit(&path, length - 20, || {
            let report = check(&vault, false);
            assert!(report.errors.iter().any(|finding| finding.file == name), "{report:?}");
        });
        let content = std::fs::read(&path).unwrap();
        overwrite(&path, &content[..length - 1]);
        assert!(check(&vault, false).errors.iter().any(|finding| finding.file == name));
        std::fs::remove_file(&path).unwrap();
        assert!(check(&vault, false).errors.iter().any(|finding| finding.file == name));
        std::fs::write(&path, &content).unwrap();
    }
    let index = files_of(&scratch, "index").remove(0);
    let content = std::fs::read(&index).unwrap();
    std::fs::remove_file(&index).unwrap();
    let report = check(&vault, false);
    assert!(report.errors.iter().any(|finding| finding.message.contains("is not in the index")), "{report:?}");
    assert_eq!(report.hints.len() as u64, report.packs);
    std::fs::write(&index, content).unwrap();
    assert!(check(&vault, false).is_sound());
}

#[test]
fn a_subset_finds_the_damage_that_lies_in_it_and_reads_nothing_else() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    make_zoo(&source);
    let vault = scratch.init();
    backup(&vault, &source);
    let pack = files_of(&scratch, "data").into_iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let id: Id = pack.file_name().unwrap().to_str().unwrap().parse().unwrap();
    let check = |subset: Subset| {
        let options = CheckOptions { read_data: ReadData::Subset(subset), no_lock: false };
        levee_vault::check(&vault, options, &()).unwrap()
    };
    with_flipped_bit(&pack, 100, || {
        let mut packs_read = 0;
        for part in 1..=4 {
            let report = check(Subset::Part { part, of: 4 });
            let has_it = u32::from(id.as_bytes()[0]) % 4 == part - 1;
            assert_eq!(report.is_sound(), !has_it, "{part}/4: {report:?}");
            packs_read += report.packs_read;
        }
        assert_eq!(packs_read, files_of(&scratch, "data").len() as u64);
        assert!(!check(Subset::Percent(100.0)).is_sound() && !check(Subset::Bytes(1 << 30)).is_sound());
        assert_eq!(check(Subset::Percent(1.0)).packs_read, 1);
    });
}

#[test]
fn a_damaged_blob_spoils_its_file_alone() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    make_zoo(&source);
    let vault = scratch.init();
    let id = backup(&vault, &source).snapshot_id.unwrap();
    let sizes = |path: &PathBuf| std::fs::metadata(path).unwrap().len();
    let pack = files_of(&scratch, "data").into_iter().max_by_key(sizes).unwrap();
    with_flipped_bit(&pack, sizes(&pack) as usize / 2, || {
        let vault = scratch.open();
        let target = scratch.path("target");
        let options = levee_vault::RestoreOptions {
            target: target.clone(),
            subfolder: Some(source.clone()),
            ..Default::default()
        };
        let summary = levee_vault::restore(&vault, &id, &options, &()).unwrap();
        let name = pack.file_name().unwrap().to_str().unwrap();
        assert!(summary.errors.first.iter().any(|problem| problem.message.contains(name)), "{summary:?}");
        assert!(summary.errors.first.iter().all(|problem| problem.path == Path::new("large")), "{summary:?}");
        assert_eq!(std::fs::read(target.join("plain")).unwrap(), b"plain content");
    });
}

#[test]
fn locks_forbid_what_they_must() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    std::fs::create_dir(&source).unwrap();
    let vault = scratch.init();
    let shared = Lock::take(&vault, LockMode::Shared).unwrap();
    let also_shared = Lock::take(&scratch.open(), LockMode::Shared).unwrap();
    let refused = levee_vault::check(&vault, CheckOptions::default(), &());
    match refused {
        Err(Error::Locked { by, exclusive: false, stale: false, .. }) => {
            assert!(by.contains(&std::process::id().to_string()), "{by}");
        }
        other => panic!("{other:?}"),
    }
    assert!(!scratch.restic_output(&["prune"]).status.success());
    shared.check().unwrap();
    drop((shared, also_shared));
    let exclusive = Lock::take(&vault, LockMode::Exclusive).unwrap();
    let refused = levee_vault::backup(&scratch.open(), &backup_options(&source), &());
    assert!(matches!(refused, Err(Error::Locked { exclusive: true, .. })));
    assert!(!scratch.restic_output(&["backup", source.to_str().unwrap()]).status.success());
    assert_eq!(unlock(&vault, false).unwrap(), 0);
    drop(exclusive);
    assert!(files_of(&scratch, "locks").is_empty());
    backup(&vault, &source);
}

#[test]
fn stale_locks_are_removed_on_request() {
    let scratch = Scratch::new();
    let vault = scratch.init();
    // Of a process that is gone: restic leaves its lock behind when it is killed.
    let source = scratch.path("source");
    std::fs::create_dir(&source).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        scratch.path("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let fifo = std::fs::OpenOptions::new().read(true).write(true).open(scratch.path("fifo")).unwrap();
    let mut restic = std::process::Command::new("restic")
        .args(["backup", "--stdin", "--no-cache", "--quiet"])
        .env("RESTIC_REPOSITORY", scratch.path("repository"))
        .env("RESTIC_PASSWORD", PASSWORD)
        .stdin(fifo)
        .spawn()
        .unwrap();
    // Until its lock has its final name.
    let has_lock = |path: &PathBuf| path.file_name().unwrap().len() == 64;
    while !files_of(&scratch, "locks").iter().any(has_lock) {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(unlock(&vault, false).unwrap(), 0);
    restic.kill().unwrap();
    restic.wait().unwrap();
    let refused = levee_vault::check(&vault, CheckOptions::default(), &());
    assert!(matches!(refused, Err(Error::Locked { stale: true, .. })), "{refused:?}");
    assert_eq!(unlock(&vault, false).unwrap(), 1);
    check(&vault, false);
    let _held = Lock::take(&vault, LockMode::Shared).unwrap();
    assert_eq!(unlock(&vault, true).unwrap(), 1);
}

#[test]
fn a_vault_notices_what_restic_prunes_beside_it() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    make_zoo(&source);
    let vault = scratch.init();
    let first = backup(&vault, &source).snapshot_id.unwrap();
    std::fs::write(source.join("large"), noise(3 << 20, 77)).unwrap();
    let second = backup(&vault, &source).snapshot_id.unwrap();
    scratch.restic(&["forget", "--prune", "--max-unused", "0", &first.to_string()]);
    restore(&vault, second, &source, &scratch.path("target"));
    assert_same(&source, &scratch.path("target"));
    // What was pruned is stored again, and not taken for known.
    std::fs::write(source.join("large"), noise(5 << 20, 1)).unwrap();
    let third = backup(&vault, &source);
    assert!(third.data_added_bytes >= 5 << 20, "{third:?}");
    assert!(check(&vault, true).is_sound());
    scratch.restic(&["check", "--read-data"]);
}
