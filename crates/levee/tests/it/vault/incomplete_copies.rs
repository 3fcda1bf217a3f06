//! `copy`, `export` and `import` where a snapshot is damaged, and sets of volumes whose password has changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use levee_testing::restic::Restic;
use serde_json::Value;

use super::{Case, PASSWORD, command, succeed, texts, tree};

const OTHER: &str = "battery staple";

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn packs(case: &Case) -> Vec<PathBuf> {
    (0..=255u8)
        .flat_map(|byte| fs::read_dir(case.vault.join(format!("data/{byte:02x}"))).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect()
}

/// A vault with an old snapshot whose data are damaged and a new one that is sound; and both of their ids.
fn with_a_damaged_snapshot() -> (Case, String, String) {
    let case = Case::with_vault();
    let source = case.path("source");
    fs::create_dir(&source).unwrap();
    let back_up = |seed| {
        fs::write(source.join("file"), tree::noise(seed, 1_000_000)).unwrap();
        case.backup(&[text(&source)])["snapshot_id"].as_str().unwrap().to_string()
    };
    let damaged = back_up(1);
    let pack = packs(&case).into_iter().max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap();
    let sound = back_up(2);
    let mut content = fs::read(&pack).unwrap();
    content[1000] ^= 1;
    fs::remove_file(&pack).unwrap();
    fs::write(&pack, content).unwrap();
    (case, damaged, sound)
}

/// Runs a command that must end as incomplete, and returns the summary.
#[track_caller]
fn incomplete(mut command: Command) -> Value {
    let output = command.arg("--json").output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{command:?}: {}", texts(&output));
    let printed = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(printed.lines().last().unwrap()).unwrap()
}

#[track_caller]
fn assert_names(summary: &Value, damaged: &str, sound: &str) {
    let copied = summary["copied"].as_array().unwrap();
    let failed = summary["failed"].as_array().unwrap();
    assert_eq!((copied.len(), failed.len()), (1, 1), "{summary}");
    assert_eq!((copied[0]["from"].as_str(), failed[0]["id"].as_str()), (Some(sound), Some(damaged)), "{summary}");
    assert!(failed[0]["error"].as_str().unwrap().contains("does not open"), "{summary}");
}

#[test]
fn a_damaged_snapshot_keeps_no_other_from_being_copied() {
    let (case, damaged, sound) = with_a_damaged_snapshot();
    let to = Case::with_vault();
    let password = case.path("password");
    fs::write(&password, PASSWORD).unwrap();
    let copy = ["copy", "--from-repo", text(&case.vault), "--from-password-file", text(&password)];
    assert_names(&incomplete(to.command(&copy)), &damaged, &sound);
    Restic::distribution().run(&to.vault, PASSWORD, &["check", "--read-data"]);
    // Each time, until it is mended or forgotten.
    let said = to.levee_fails(3, &copy);
    assert!(said.contains(&format!("snapshot {} was NOT COPIED", &damaged[..8])), "{said}");
    case.levee(&["forget", &damaged]);
    to.levee(&copy);
}

#[test]
fn a_damaged_snapshot_keeps_no_other_from_travelling() {
    let (case, damaged, sound) = with_a_damaged_snapshot();
    let (disk, password) = (case.path("disk"), case.path("password"));
    fs::write(&password, PASSWORD).unwrap();
    let summary = incomplete(case.command(&["export", "--target", text(&disk)]));
    assert_names(&summary, &damaged, &sound);
    assert_eq!(summary["custody"]["snapshots"][0]["id"], sound, "{summary}");
    let to = Case::with_vault();
    to.levee(&["import", "--from", text(&disk), "--from-password-file", text(&password)]);
    Restic::distribution().run(&to.vault, PASSWORD, &["check", "--read-data"]);
}

#[test]
fn an_export_after_a_change_of_password_opens_with_the_new_one() {
    let case = Case::with_vault();
    let (source, disk) = (case.path("source"), case.path("disk"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "one").unwrap();
    case.backup(&[text(&source)]);
    let said = case.levee(&["export", "--target", text(&disk)]);
    assert!(!said.contains("Old passwords"), "{said}");
    let new = case.path("new");
    fs::write(&new, OTHER).unwrap();
    let old_key = case.json(&["key", "passwd", "--new-password-file", text(&new)]).pop().unwrap()["removed_id"].clone();
    let with_new = |arguments: &[&str]| succeed(command(&case.vault).env("LEVEE_PASSWORD", OTHER).args(arguments));
    fs::write(source.join("file"), "two").unwrap();
    with_new(&["backup", text(&source)]);
    let said = with_new(&["export", "--target", text(&disk)]);
    assert!(said.contains("Old passwords") && said.contains(&old_key.as_str().unwrap()[..8]), "{said}");
    let to = Case::with_vault();
    let import = ["import", "--from", text(&disk), "--from-password-file", text(&new)];
    let summary = to.json(&import).pop().unwrap();
    assert_eq!(summary["copied"].as_array().unwrap().len(), 2, "{summary}");
}
