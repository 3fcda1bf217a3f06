//! Passwords: added, listed, removed, changed; and locks that stand in the way.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use levee_store::LocalStore;
use levee_testing::image;
use levee_testing::restic::{self, Restic};
use levee_vault::{Error, Lock, LockMode, Password, Vault};
use serde_json::Value;

use super::{Case, PASSWORD, below, command, fail, succeed, tree};

const OTHER: &str = "battery staple";

fn keys(case: &Case) -> Vec<Value> {
    case.json(&["key", "list"])[0].as_array().unwrap().clone()
}

#[test]
fn passwords_come_and_go() {
    let case = Case::with_vault();
    let new_password = case.path("new");
    fs::write(&new_password, OTHER).unwrap();
    let new_password = new_password.to_str().unwrap();
    let with_other = |arguments: &[&str]| {
        let mut command = command(&case.vault);
        command.env("LEVEE_PASSWORD", OTHER).args(arguments);
        command
    };

    fail(12, &mut with_other(&["snapshots"]));
    case.levee(&["key", "add", "--new-password-file", new_password, "--host", "elsewhere", "--user", "someone"]);
    succeed(&mut with_other(&["snapshots"]));
    assert!(Restic::distribution().run(&case.vault, OTHER, &["key", "list"]).contains("elsewhere"));
    let listed = keys(&case);
    assert_eq!(listed.len(), 2);
    let current = listed.iter().find(|key| key["current"] == true).unwrap();
    let other = listed.iter().find(|key| key["current"] == false).unwrap();
    assert_eq!((&other["hostName"], &other["userName"]), (&"elsewhere".into(), &"someone".into()));

    let message = case.levee_fails(1, &["key", "remove", current["id"].as_str().unwrap()]);
    assert!(message.contains("in use"), "{message}");
    case.levee_fails(1, &["key", "remove", "0123"]);
    case.levee(&["key", "remove", &other["id"].as_str().unwrap()[..10]]);
    fail(12, &mut with_other(&["snapshots"]));

    case.levee(&["key", "passwd", "--new-password-file", new_password]);
    case.levee_fails(12, &["snapshots"]);
    succeed(&mut with_other(&["snapshots"]));
    assert_eq!(fs::read_dir(case.vault.join("keys")).unwrap().count(), 1);
    Restic::distribution().run(&case.vault, OTHER, &["check"]);
}

/// A change that was cut short, or another user's key, leaves several key files of one password.
#[test]
fn a_password_that_was_changed_opens_nothing_any_more() {
    let case = Case::with_vault();
    let (same, new) = (case.path("same"), case.path("new"));
    fs::write(&same, PASSWORD).unwrap();
    fs::write(&new, OTHER).unwrap();
    let unused = case.path("unused");
    fs::write(&unused, "a third one").unwrap();
    for password in [&same, &same, &unused] {
        case.levee(&["key", "add", "--new-password-file", text(password)]);
    }
    let passwd = ["key", "passwd", "--new-password-file", text(&new)];
    let foreseen = case.json(&[&passwd[..], &["--dry-run"]].concat()).pop().unwrap();
    let changed = case.json(&passwd).pop().unwrap();
    for summary in [&foreseen, &changed] {
        assert_eq!(summary["also_removed_ids"].as_array().unwrap().len(), 2, "{summary}");
    }
    assert_eq!(foreseen["removed_id"], changed["removed_id"]);
    case.levee_fails(12, &["snapshots"]);
    // The third is somebody else's.
    assert_eq!(fs::read_dir(case.vault.join("keys")).unwrap().count(), 2);
    for password in [OTHER, "a third one"] {
        succeed(command(&case.vault).env("LEVEE_PASSWORD", password).arg("snapshots"));
    }
    // To the same password once more: the key that it opens in the end is the new one.
    let again = ["key", "passwd", "--new-password-file", text(&new)];
    succeed(command(&case.vault).env("LEVEE_PASSWORD", OTHER).args(again));
    succeed(command(&case.vault).env("LEVEE_PASSWORD", OTHER).arg("snapshots"));
    assert_eq!(fs::read_dir(case.vault.join("keys")).unwrap().count(), 2);
}

#[test]
fn a_damaged_key_file_is_removed_by_the_name_that_check_gives() {
    let case = Case::with_vault();
    let further = case.path("further");
    fs::write(&further, OTHER).unwrap();
    let added = case.json(&["key", "add", "--new-password-file", text(&further)]).pop().unwrap();
    let id = added["id"].as_str().unwrap();
    let path = case.vault.join("keys").join(id);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "no JSON").unwrap();
    let output = case.command(&["check"]).output().unwrap();
    assert!(!output.status.success() && super::texts(&output).contains(id), "{}", super::texts(&output));
    assert_eq!(keys(&case).len(), 1);
    case.levee(&["key", "remove", &id[..8]]);
    case.levee(&["check"]);
}

const DISK_BYTES: u64 = 40 << 20;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn opened(vault: &Path, password: &str) -> levee_vault::Result<Vault> {
    Vault::open(Arc::new(LocalStore::new(vault)), &Password::new(password))
}

/// What comes back of an image that stock restic restores, as docs/formats/image.md says.
fn joined(restored: &Path, whole: &Path) -> Vec<u8> {
    let join = format!("cat '{}'/segment-*/data > '{}'", restored.display(), whole.display());
    assert!(Command::new("sh").args(["-c", &join]).status().unwrap().success());
    fs::read(whole).unwrap()
}

/// The way to another master key: everything is copied into a new vault, and the old one goes with its password.
#[test]
fn a_copy_has_another_master_key_and_needs_nothing_of_the_vault_that_it_is_of() {
    let case = Case::with_vault();
    let (source, disk) = (case.path("source"), case.path("disk.raw"));
    tree::make(&source);
    case.backup(&[text(&source), "--tag", "kept"]);
    let before = case.path("before");
    case.levee(&["restore", "latest", "--target", text(&before)]);
    fs::write(source.join("small"), b"other bytes now").unwrap();
    case.backup(&[text(&source)]);
    image::empty(&disk, DISK_BYTES);
    let file = File::options().write(true).open(&disk).unwrap();
    file.write_all_at(&tree::noise(7, 3_000_000), 10 << 20).unwrap();
    case.backup(&["--image", text(&disk)]);
    let listed_before = case.json(&["snapshots"]).remove(0);

    let (new, old_password) = (case.path("new"), case.path("old-password"));
    fs::write(&old_password, PASSWORD).unwrap();
    let with_new = |arguments: &[&str]| {
        let mut command = command(&new);
        succeed(command.env("LEVEE_PASSWORD", OTHER).args(arguments))
    };
    with_new(&["init"]);
    let from = ["--from-repo", text(&case.vault), "--from-password-file", text(&old_password)];
    with_new(&[&["copy"], &from[..]].concat());
    let master_key = |vault: &Path, password: &str| opened(vault, password).unwrap().master_key().to_json();
    assert!(*master_key(&case.vault, PASSWORD) != *master_key(&new, OTHER), "it is the old master key");
    fs::remove_dir_all(&case.vault).unwrap();
    fs::remove_file(&old_password).unwrap();

    // The old password opens nothing there, for nobody.
    assert_eq!(fs::read_dir(new.join("keys")).unwrap().count(), 1);
    fail(12, command(&new).env("LEVEE_PASSWORD", PASSWORD).arg("snapshots"));
    let refused = opened(&new, PASSWORD);
    assert!(matches!(refused, Err(Error::WrongPassword { key_files: 1, .. })), "{refused:?}");

    let printed = with_new(&["snapshots", "--json"]);
    let listed: Value = serde_json::from_str(printed.lines().next().unwrap()).unwrap();
    let facts = |list: &Value| -> Vec<[Value; 4]> {
        let each = |snapshot: &Value| ["time", "hostname", "paths", "tags"].map(|field| snapshot[field].clone());
        list.as_array().unwrap().iter().map(each).collect()
    };
    assert_eq!(facts(&listed), facts(&listed_before));
    assert!(listed[0]["time"].is_string() && listed[0]["tags"] == serde_json::json!(["kept"]), "{listed}");
    let [first, second, third] = [0, 1, 2].map(|number: usize| listed[number]["id"].as_str().unwrap());

    with_new(&["check", "--read-data"]);
    for (snapshot, expected) in [(first, below(&before, &source)), (second, source.clone())] {
        let target = case.path(snapshot);
        with_new(&["restore", snapshot, "--target", text(&target), "--verify"]);
        tree::assert_same(&expected, &below(&target, &source));
    }
    let whole = case.path("restored.img");
    with_new(&["restore", third, "--image", "disk.raw", "--target", text(&whole), "--verify"]);
    assert!(fs::read(&whole).unwrap() == fs::read(&disk).unwrap());

    for restic in restic::versions() {
        let checked = restic.run(&new, OTHER, &["check", "--read-data"]);
        assert!(checked.contains("no errors were found"), "restic {}: {checked}", restic.version());
        assert!(!restic.output(&new, PASSWORD, &["snapshots"]).status.success(), "restic {}", restic.version());
        let target = case.path(restic.version());
        restic.run(&new, OTHER, &["restore", second, "--target", text(&target)]);
        tree::assert_same_to_restic(&restic, &source, &below(&target, &source));
        let target = case.path(&format!("image-{}", restic.version()));
        restic.run(&new, OTHER, &["restore", third, "--target", text(&target)]);
        let whole = joined(&below(&target, &disk), &case.path("whole.raw"));
        assert!(whole == fs::read(&disk).unwrap(), "restic {}", restic.version());
    }
}

#[test]
fn an_exclusive_lock_is_11_until_it_is_gone() {
    let case = Case::with_vault();
    let vault = Vault::open(Arc::new(LocalStore::new(&case.vault)), &Password::new(PASSWORD)).unwrap();
    let lock = Lock::take(&vault, LockMode::Exclusive).unwrap();
    let message = case.levee_fails(11, &["backup", "/etc/hostname"]);
    assert!(message.contains("locked exclusively by"), "{message}");
    // Its process lives, so it is not stale.
    case.levee(&["unlock"]);
    case.levee_fails(11, &["backup", "/etc/hostname"]);
    drop(lock);
    case.levee(&["backup", "/etc/hostname"]);

    let lock = Lock::take(&vault, LockMode::Exclusive).unwrap();
    case.levee(&["unlock", "--remove-all"]);
    case.levee(&["backup", "/etc/hostname"]);
    drop(lock);
}

#[test]
fn a_backup_that_was_killed_leaves_a_vault_that_goes_on() {
    let case = Case::with_vault();
    let source = case.path("source");
    fs::create_dir(&source).unwrap();
    for number in 0..40 {
        fs::write(source.join(number.to_string()), tree::noise(number, 2_000_000)).unwrap();
    }
    let source = source.to_str().unwrap();
    for delay_ms in [60, 120, 250, 400] {
        let mut backup = case.command(&["backup", source]).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(delay_ms));
        backup.kill().unwrap();
        backup.wait().unwrap();
    }
    let left_behind: Vec<_> = (0..=255u8)
        .flat_map(|byte| fs::read_dir(case.vault.join(format!("data/{byte:02x}"))).unwrap())
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name.len() != 64)
        .collect();
    assert!(left_behind.is_empty(), "{left_behind:?}");
    // The locks of processes that are gone are stale, and check needs an exclusive one.
    case.levee(&["unlock"]);
    case.levee(&["check", "--read-data"]);
    case.backup(&[source]);
    case.levee(&["check", "--read-data"]);
    for restic in restic::versions() {
        restic.run(&case.vault, PASSWORD, &["check", "--read-data"]);
    }
}
