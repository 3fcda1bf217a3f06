//! How it ends when something is wrong: the code, and what the operator is told.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::Command;

use levee_testing::disk::SmallDisk;

use super::{Case, PASSWORD, command, fail, succeed};

const NOBODY: u32 = 65534;

#[test]
fn no_repository_is_10() {
    let case = Case::new();
    for arguments in
        [&["snapshots"][..], &["backup", "/etc/hostname"], &["check"], &["restore", "latest", "-t", "/nowhere"]]
    {
        let message = case.levee_fails(10, arguments);
        assert!(message.contains("no repository here") && message.contains("levee vault init"), "{message}");
    }
    // A folder with something else in it is not a repository either.
    fs::create_dir(&case.vault).unwrap();
    fs::write(case.vault.join("notes"), b"mine").unwrap();
    case.levee_fails(10, &["snapshots"]);
    assert!(!case.vault.join("locks").exists());
}

#[test]
fn a_wrong_password_is_12_and_is_not_shown() {
    let case = Case::with_vault();
    let message = fail(12, command(&case.vault).env("LEVEE_PASSWORD", "battery staple").arg("snapshots"));
    assert!(message.contains("wrong password") && !message.contains("battery"), "{message}");
    let message = fail(12, command(&case.vault).env("LEVEE_PASSWORD", "battery staple").args(["snapshots", "--json"]));
    let error: serde_json::Value = serde_json::from_str(message.trim()).unwrap();
    assert_eq!((&error["message_type"], &error["code"]), (&"exit_error".into(), &12.into()));
}

#[test]
fn no_password_or_vault_is_1_and_says_how_to_give_it() {
    let case = Case::with_vault();
    assert!(fail(1, command(&case.vault).arg("snapshots")).contains("--password-file"));
    assert!(fail(1, command(&case.vault).env("LEVEE_PASSWORD", "").arg("snapshots")).contains("empty password"));
    assert!(fail(1, command("").env("LEVEE_PASSWORD", PASSWORD).arg("snapshots")).contains("LEVEE_VAULT"));
    assert!(
        fail(1, command("s3:bucket").env("LEVEE_PASSWORD", PASSWORD).arg("snapshots"))
            .contains("s3:https://HOST/BUCKET")
    );
}

#[test]
fn passwords_come_from_files_too() {
    let case = Case::with_vault();
    let file = case.path("password");
    fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    succeed(command(&case.vault).arg("snapshots").arg("--password-file").arg(&file));
    succeed(command(&case.vault).arg("snapshots").env("LEVEE_PASSWORD_FILE", &file));
    // The file that was named wins over the environment.
    succeed(command(&case.vault).arg("snapshots").arg("-p").arg(&file).env("LEVEE_PASSWORD", "another"));
    fail(1, command(&case.vault).arg("snapshots").arg("-p").arg(case.path("absent")).env("LEVEE_PASSWORD", PASSWORD));
}

#[test]
fn a_password_typed_at_a_terminal_is_not_echoed() {
    let case = Case::with_vault();
    let levee = format!(
        "{} vault -r {} snapshots",
        levee_testing::levee::Binary::find().path().display(),
        case.vault.display()
    );
    let typed = format!("(sleep 1; echo '{PASSWORD}'; sleep 3) | script -qec '{levee}' /dev/null");
    let mut shell = Command::new("sh");
    let shown = succeed(shell.args(["-c", &typed]).env_remove("LEVEE_PASSWORD").env_remove("LEVEE_PASSWORD_FILE"));
    assert!(shown.contains("password of the vault:"), "{shown}");
    assert!(!shown.contains(PASSWORD), "{shown}");
}

#[test]
fn a_second_init_changes_nothing() {
    let case = Case::with_vault();
    let config = fs::read(case.vault.join("config")).unwrap();
    assert!(case.levee_fails(1, &["init"]).contains("already"));
    assert_eq!(fs::read(case.vault.join("config")).unwrap(), config);
    assert_eq!(fs::read_dir(case.vault.join("keys")).unwrap().count(), 1);
}

#[test]
fn an_unreadable_source_is_3_and_the_rest_is_kept() {
    let case = Case::new();
    let source = case.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("readable"), b"yes").unwrap();
    fs::write(source.join("secret"), b"no").unwrap();
    fs::set_permissions(source.join("secret"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(case.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(&case.vault).unwrap();
    chown(&case.vault, Some(NOBODY), Some(NOBODY)).unwrap();
    let as_nobody = |arguments: &[&str]| {
        let mut command = case.command(arguments);
        command.uid(NOBODY).gid(NOBODY).env("HOME", "/");
        command
    };
    succeed(&mut as_nobody(&["init"]));
    let message = fail(3, &mut as_nobody(&["backup", source.to_str().unwrap()]));
    assert!(message.contains("secret"), "{message}");
    let listed = case.levee(&["ls", "latest"]);
    assert!(listed.contains("/readable"), "{listed}");

    // A source that isn't there counts in the same way, unless it is the only one.
    let missing = case.path("missing");
    let message = case.levee_fails(3, &["backup", source.to_str().unwrap(), missing.to_str().unwrap()]);
    assert!(message.contains("missing"), "{message}");
    let message = case.levee_fails(1, &["backup", missing.to_str().unwrap()]);
    assert!(message.contains("missing"), "{message}");
    assert_eq!(case.json(&["snapshots"])[0].as_array().unwrap().len(), 2);
}

#[test]
fn damage_is_named_and_is_1() {
    let case = Case::with_vault();
    let source = case.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), super::tree::noise(7, 3_000_000)).unwrap();
    case.backup(&[source.to_str().unwrap()]);
    case.levee(&["check", "--read-data"]);

    let packs: Vec<_> = (0..=255u8)
        .flat_map(|byte| fs::read_dir(case.vault.join(format!("data/{byte:02x}"))).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect();
    let pack = packs.iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let whole = fs::read(pack).unwrap();
    let mut changed = whole.clone();
    changed[1_000_000] ^= 1;
    fs::write(pack, &changed).unwrap();
    let name = pack.file_name().unwrap().to_str().unwrap();
    let output = case.command(&["check", "--read-data"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(super::texts(&output).contains(&name[..8]), "{}", super::texts(&output));
    let target = case.path("target");
    case.levee_fails(1, &["restore", "latest", "--target", target.to_str().unwrap()]);

    fs::remove_file(pack).unwrap();
    let output = case.command(&["check"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(super::texts(&output).contains(&name[..8]), "{}", super::texts(&output));
    fs::write(pack, &whole).unwrap();
    case.levee(&["check", "--read-data"]);

    let config = fs::read(case.vault.join("config")).unwrap();
    fs::write(case.vault.join("config"), &config[..20]).unwrap();
    let message = case.levee_fails(1, &["snapshots"]);
    assert!(message.contains("config is damaged"), "{message}");
}

#[test]
fn an_unknown_snapshot_is_1_and_nothing_is_restored() {
    let case = Case::with_vault();
    let target = case.path("target");
    for wanted in ["latest", "0123abcd", "no id"] {
        let message = case.levee_fails(1, &["restore", wanted, "--target", target.to_str().unwrap()]);
        assert!(message.contains("no snapshot"), "{message}");
        assert!(!target.exists());
    }
}

#[test]
fn a_full_disk_is_1_and_what_was_stored_stays_whole() {
    let case = Case::new();
    fs::create_dir(&case.vault).unwrap();
    if !SmallDisk::is_possible() {
        return;
    }
    let _disk = SmallDisk::mount(&case.vault, 4);
    case.levee(&["init"]);
    let source = case.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("small"), super::tree::noise(1, 100_000)).unwrap();
    case.backup(&[source.to_str().unwrap()]);
    fs::write(source.join("large"), super::tree::noise(2, 20_000_000)).unwrap();
    let message = case.levee_fails(1, &["backup", source.to_str().unwrap()]);
    assert!(message.contains("no space left") && message.contains("free some space"), "{message}");
    assert_eq!(case.json(&["snapshots"])[0].as_array().unwrap().len(), 1);
    case.levee(&["check", "--read-data"]);
    fs::remove_file(source.join("large")).unwrap();
    case.backup(&[source.to_str().unwrap()]);
}
