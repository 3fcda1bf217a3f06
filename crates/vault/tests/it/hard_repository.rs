//! Repositories that are damaged or lie: what is wrong is named, and nothing wrong is restored.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use levee_vault::repair::{RepairOptions, SnapshotRepairOptions, repair_index, repair_snapshots};
use levee_vault::{
    Error, ForgetOptions, Id, Password, PruneOptions, RestoreOptions, SnapshotId, SnapshotSelection, Vault, forget,
    prune,
};

use crate::support::*;

fn files_of(scratch: &Scratch, folder: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut to_do = vec![scratch.path("repository").join(folder)];
    while let Some(path) = to_do.pop() {
        if path.is_dir() {
            to_do.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn replace(path: &Path, content: &[u8]) {
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, content).unwrap();
}

/// What came of restoring everything: the errors as text, or that the tree is whole.
fn try_everything(scratch: &Scratch, source: &Path) -> Result<(), String> {
    let vault = Vault::open(scratch.store(), &password()).map_err(|error| error.to_string())?;
    try_opened(&vault, source)
}

fn try_opened(vault: &Vault, source: &Path) -> Result<(), String> {
    let text = |error: Error| error.to_string();
    let (id, _) = vault.find_snapshot("latest", &Default::default()).map_err(text)?;
    let target = tempfile::tempdir().unwrap();
    let options = RestoreOptions {
        target: target.path().to_path_buf(),
        subfolder: Some(source.to_path_buf()),
        ..Default::default()
    };
    let summary = levee_vault::restore(vault, &id, &options, &()).map_err(text)?;
    if !summary.errors.is_empty() {
        return Err(summary.errors.first.iter().map(|problem| format!("{problem:?}\n")).collect());
    }
    assert_same(source, target.path());
    Ok(())
}

fn small_tree(root: &Path) {
    std::fs::create_dir_all(root.join("deep/er")).unwrap();
    std::fs::write(root.join("file"), noise(40_000, 1)).unwrap();
    std::fs::write(root.join("deep/other"), b"some text, some text, some text").unwrap();
    std::fs::write(root.join("deep/er/third"), noise(2000, 2)).unwrap();
}

#[test]
fn a_flipped_bit_in_any_file_is_never_silently_restored() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    small_tree(&source);
    let vault = scratch.init();
    backup(&vault, &source);
    // With the master key at hand opening costs no key derivation.
    let attempt = |folder: &str| match folder {
        "keys" => try_everything(&scratch, &source),
        _ => Vault::open_with_master_key(scratch.store(), vault.master_key().clone())
            .map_err(|error| error.to_string())
            .and_then(|vault| try_opened(&vault, &source)),
    };
    let (mut noticed, mut harmless) = (0, 0);
    for folder in ["config", "keys", "snapshots", "index", "data"] {
        for path in files_of(&scratch, folder) {
            let content = std::fs::read(&path).unwrap();
            for step in 0..9 {
                let position = (content.len() - 1) * step / 8;
                let mut flipped = content.clone();
                flipped[position] ^= 1 << (step % 8);
                replace(&path, &flipped);
                let name = path.file_name().unwrap().to_str().unwrap();
                match attempt(folder) {
                    Ok(()) => harmless += 1,
                    Err(message) => {
                        noticed += 1;
                        let names_it = message.contains(&name[..name.len().min(10)]) || folder == "keys";
                        assert!(names_it, "{folder}/{name} at {position}: {message}");
                    }
                }
            }
            replace(&path, &content);
        }
    }
    // The header of a pack and the notes in a key file are not needed for a restore.
    assert!(noticed > 20 && harmless < noticed, "{noticed} {harmless}");
    try_everything(&scratch, &source).unwrap();
}

/// Whoever may only add to a repository can add such a file.
#[test]
fn a_snapshot_that_cannot_be_read_hides_no_other_stops_a_prune_and_can_be_forgotten() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    small_tree(&source);
    let sound = backup(&scratch.init(), &source).snapshot_id.unwrap();
    let content = b"no snapshot at all";
    let id = Id::of(content);
    std::fs::write(scratch.path("repository/snapshots").join(id.to_hex()), content).unwrap();

    let vault = scratch.open();
    let listed = vault.list_snapshots().unwrap();
    assert_eq!(listed.readable.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [sound]);
    assert_eq!(listed.damaged.iter().map(|damaged| damaged.id.0).collect::<Vec<_>>(), [id]);
    assert_eq!(vault.find_snapshot("latest", &SnapshotSelection::default()).unwrap().0, sound);
    assert_eq!(vault.select(&SnapshotSelection::default()).unwrap().len(), 1);
    let names_it = |error: Error| assert!(error.to_string().contains(&id.to_hex()), "{error}");
    names_it(vault.find_snapshot(&id.to_hex()[..8], &SnapshotSelection::default()).unwrap_err());
    // What it refers to is not known.
    names_it(prune(&vault, &PruneOptions::default(), Timestamp::now(), &()).unwrap_err());

    let selection = SnapshotSelection { ids: vec![id.to_hex()[..8].into()], ..SnapshotSelection::default() };
    let forgotten = forget(&vault, &ForgetOptions { selection, ..ForgetOptions::default() }, Timestamp::now()).unwrap();
    assert_eq!(forgotten.removed, [SnapshotId(id)]);
    prune(&vault, &PruneOptions::default(), Timestamp::now(), &()).unwrap();
    assert_eq!(vault.snapshots().unwrap().len(), 1);
}

#[test]
fn an_index_file_that_cannot_be_read_stops_no_reader_and_no_backup_but_whatever_removes() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    small_tree(&source);
    let first = backup(&scratch.init(), &source).snapshot_id.unwrap();
    let content = b"no index at all";
    let id = Id::of(content);
    std::fs::write(scratch.path("repository/index").join(id.to_hex()), content).unwrap();

    let vault = scratch.open();
    try_opened(&vault, &source).unwrap();
    vault.open_snapshot(&first).unwrap();
    let damaged = || vault.damaged_index_files().iter().map(|(id, _)| *id).collect::<Vec<_>>();
    assert_eq!(damaged(), [id]);
    std::fs::write(source.join("file"), noise(40_000, 9)).unwrap();
    backup(&vault, &source);
    try_everything(&scratch, &source).unwrap();
    let report = levee_vault::check(&vault, READ_ALL, &()).unwrap();
    let named: Vec<_> = report.errors.iter().map(|finding| finding.file.clone()).collect();
    assert_eq!(named, [format!("index/{id}")]);

    let names_it = |error: Error| assert!(error.to_string().contains(&id.to_hex()), "{error}");
    names_it(prune(&vault, &PruneOptions::default(), Timestamp::now(), &()).unwrap_err());
    names_it(repair_snapshots(&vault, &SnapshotRepairOptions::default(), &()).unwrap_err());
    let apply = RepairOptions { apply: true, ..RepairOptions::default() };
    assert_eq!(repair_index(&vault, false, apply, &()).unwrap().unreadable_index_files, [id]);
    vault.refresh_index().unwrap();
    assert_eq!(damaged(), []);
    prune(&vault, &PruneOptions::default(), Timestamp::now(), &()).unwrap();
    repair_snapshots(&vault, &SnapshotRepairOptions::default(), &()).unwrap();
    try_everything(&scratch, &source).unwrap();
}

#[test]
fn truncated_and_missing_files_are_named() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    small_tree(&source);
    backup(&scratch.init(), &source);
    for folder in ["config", "snapshots", "index", "data"] {
        for path in files_of(&scratch, folder) {
            let content = std::fs::read(&path).unwrap();
            for length in [0, 1, 31, content.len() / 3] {
                replace(&path, &content[..length]);
                let name = path.file_name().unwrap().to_str().unwrap();
                let message = try_everything(&scratch, &source).unwrap_err();
                assert!(message.contains(&name[..name.len().min(10)]), "{folder}/{name} of {length}: {message}");
            }
            replace(&path, &content);
        }
    }
    try_everything(&scratch, &source).unwrap();
}

#[test]
fn files_with_others_content_are_refused() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    small_tree(&source);
    let vault = scratch.init();
    backup(&vault, &source);
    std::fs::write(source.join("file"), noise(40_000, 9)).unwrap();
    backup(&vault, &source);
    for folder in ["snapshots", "index", "data"] {
        let files = files_of(&scratch, folder);
        // Each is authentic, and has the other's name.
        let contents: Vec<_> = files.iter().map(|path| std::fs::read(path).unwrap()).collect();
        for (number, path) in files.iter().enumerate() {
            replace(path, &contents[(number + 1) % contents.len()]);
        }
        assert!(try_everything(&scratch, &source).is_err(), "{folder}");
        let report = levee_vault::check(&scratch.open(), READ_ALL, &());
        assert!(report.is_err() || !report.unwrap().is_sound(), "{folder}");
        for (path, content) in files.iter().zip(&contents) {
            replace(path, content);
        }
    }
    try_everything(&scratch, &source).unwrap();
}

#[test]
fn a_password_may_be_any_bytes_and_another_encoding_is_another_password() {
    let latin1 = b"gr\xfc\xdfe".to_vec();
    let utf8 = "grüße".as_bytes().to_vec();
    let scratch = Scratch::new();
    Vault::init(scratch.store(), &Password::new(latin1.clone())).unwrap();
    Vault::open(scratch.store(), &Password::new(latin1.clone())).unwrap();
    let refused = Vault::open(scratch.store(), &Password::new(utf8));
    assert!(matches!(refused, Err(Error::WrongPassword { .. })), "{refused:?}");
    // Restic takes the same bytes.
    let password_file = scratch.path("password");
    std::fs::write(&password_file, &latin1).unwrap();
    let status = std::process::Command::new(restic_program())
        .args(["check", "--no-cache", "--quiet", "--password-file"])
        .arg(&password_file)
        .env("RESTIC_REPOSITORY", scratch.path("repository"))
        .env_remove("RESTIC_PASSWORD")
        .status()
        .unwrap();
    assert!(status.success());
}
