//! Passwords: added, listed, removed, changed; and locks that stand in the way.

use std::fs;
use std::sync::Arc;

use levee_store::LocalStore;
use levee_testing::restic::Restic;
use levee_vault::{Lock, LockMode, Password, Vault};

use super::{Case, PASSWORD, command, fail, succeed};

const OTHER: &str = "battery staple";

fn keys(case: &Case) -> Vec<serde_json::Value> {
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
        fs::write(source.join(number.to_string()), super::tree::noise(number, 2_000_000)).unwrap();
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
    for restic in levee_testing::restic::versions() {
        restic.run(&case.vault, PASSWORD, &["check", "--read-data"]);
    }
}
