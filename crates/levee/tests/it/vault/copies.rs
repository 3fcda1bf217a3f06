//! `backup --copy-to`: one backup in several vaults.

use std::fs;
use std::path::{Path, PathBuf};

use levee_testing::disk::SmallDisk;
use levee_testing::ports::free_port;
use levee_testing::restic::Restic;

use super::{Case, PASSWORD, below, fail, succeed, tree};

const OTHER: &str = "another password";

/// A further vault, with a password of its own, and the file that this stands in.
fn further(case: &Case, name: &str) -> (PathBuf, PathBuf) {
    let (vault, password) = (case.path(name), case.path(&format!("{name}-password")));
    fs::write(&password, OTHER).unwrap();
    let mut init = super::command(&vault);
    succeed(init.arg("--password-file").arg(&password).arg("init"));
    (vault, password)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn source(case: &Case) -> PathBuf {
    let source = case.path("source");
    fs::create_dir_all(source.join("deep/er")).unwrap();
    fs::write(source.join("deep/er/file"), tree::noise(1, 3_000_000)).unwrap();
    fs::write(source.join("small"), "small").unwrap();
    source
}

/// Stock restic finds all of it there.
fn assert_whole(case: &Case, vault: &Path, source: &Path) {
    let (restic, target) = (Restic::distribution(), case.path("restored"));
    restic.run(vault, OTHER, &["check", "--read-data"]);
    restic.run(vault, OTHER, &["restore", "latest", "--target", text(&target)]);
    for name in ["deep/er/file", "small"] {
        assert!(fs::read(below(&target, source).join(name)).unwrap() == fs::read(source.join(name)).unwrap(), "{name}");
    }
    fs::remove_dir_all(target).unwrap();
}

#[test]
fn a_backup_goes_to_several_vaults_side_by_side_or_afterwards() {
    let case = Case::with_vault();
    let source = source(&case);
    let (near, password) = further(&case, "near");
    let (far, _) = further(&case, "far");
    let to_both = ["--copy-to", text(&near), "--copy-to", text(&far), "--copy-to-password-file", text(&password)];
    let backup = |more: &[&str]| {
        let summary = case.backup(&[&[text(&source)], &to_both[..], more].concat());
        let copies = summary["copies"].as_array().unwrap().clone();
        assert!(copies.iter().all(|copy| copy["snapshot_id"].is_string()), "{summary}");
        copies.iter().map(|copy| copy["data_copied"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    // Nothing is left for afterwards.
    assert_eq!(backup(&["--side-by-side"]), [0, 0]);
    for vault in [&near, &far] {
        assert_whole(&case, vault, &source);
    }
    fs::write(source.join("small"), "smaller").unwrap();
    let copied = backup(&[]);
    assert!(copied.iter().all(|bytes| (7..100_000).contains(bytes)), "{copied:?}");
    // One that was not there from the beginning gets what is not read again, too.
    let (late, _) = further(&case, "late");
    fs::write(source.join("small"), "smallest").unwrap();
    let to_late =
        [text(&source), "--copy-to", text(&late), "--copy-to-password-file", text(&password), "--side-by-side"];
    let copied = case.backup(&to_late)["copies"][0]["data_copied"].as_u64().unwrap();
    assert!(copied >= 3_000_000, "{copied}");
    for vault in [&near, &late] {
        Restic::distribution().run(vault, OTHER, &["check", "--read-data"]);
    }
    assert_whole(&case, &late, &source);
    // What comes from a command goes there as well.
    let printed = ["--stdin-from-command", "--side-by-side", "--json", "--", "echo", "printed"];
    let said = case.levee(&[&["backup"], &to_both[..], &printed].concat());
    let summary: serde_json::Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(summary["copies"][1]["data_copied"], 0, "{summary}");
}

#[test]
fn a_vault_that_is_out_of_reach_keeps_no_snapshot_from_being_made() {
    let case = Case::with_vault();
    let source = source(&case);
    let (near, password) = further(&case, "near");
    // Nobody listens there; its name holds a password, which is not to be seen.
    let gone = format!("rest:https://ann:{}@127.0.0.1:{}/gone/", "sesame", free_port());
    for side_by_side in [&["--side-by-side"][..], &[]] {
        let before = case.json(&["snapshots"])[0].as_array().unwrap().len();
        let arguments = ["backup", text(&source), "--copy-to", &gone, "--copy-to", text(&near)];
        let password = ["--copy-to-password-file", text(&password)];
        let mut command = case.command(&[&arguments[..], &password, side_by_side].concat());
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("NOT COPIED to number 1 of --copy-to") && said.contains("127.0.0.1"), "{said}");
        assert!(!said.contains("sesame") && !String::from_utf8_lossy(&output.stderr).contains("sesame"), "{said}");
        assert!(said.contains(&format!("copied to {}", near.display())) && said.contains("saved"), "{said}");
        assert_eq!(case.json(&["snapshots"])[0].as_array().unwrap().len(), before + 1);
        assert_whole(&case, &near, &source);
    }
    // A name that is none is another matter.
    let nowhere = ["--copy-to", "s3:https://host", "--copy-to-password-file", text(&password)];
    let refused = case.levee_fails(1, &[&["backup", text(&source)], &nowhere[..]].concat());
    assert!(refused.contains("number 1 of --copy-to"), "{refused}");
    // It has to be said how they are opened.
    let refused = case.levee_fails(1, &["backup", text(&source), "--copy-to", text(&near)]);
    assert!(refused.contains("password file"), "{refused}");
    let wrong = case.path("wrong");
    fs::write(&wrong, PASSWORD).unwrap();
    let arguments = ["backup", text(&source), "--copy-to", text(&near), "--copy-to-password-file", text(&wrong)];
    fail(1, &mut case.command(&arguments));
}

#[test]
fn a_copy_that_is_missing_is_made_up_for_also_when_nothing_has_changed_since() {
    let case = Case::with_vault();
    let source = source(&case);
    let (far, password) = further(&case, "far");
    let away = case.path("away");
    // From within it: other tests change the folders above, which are in a snapshot too.
    let backup = |more: &[&str]| {
        let copy = ["backup", ".", "--json", "--copy-to", text(&far), "--copy-to-password-file", text(&password)];
        let output = case.command(&[&copy[..], more].concat()).current_dir(&source).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut lines = said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let summary = lines.find(|line| line["message_type"] == "summary").expect("a summary");
        (output.status.code(), summary)
    };
    // What was written just now is not taken for unchanged.
    std::thread::sleep(std::time::Duration::from_millis(100));
    let unless_unchanged = &["--skip-if-unchanged"];
    fs::rename(&far, &away).unwrap();
    let (code, summary) = backup(unless_unchanged);
    assert!(code == Some(1) && summary["copies"][0]["error"].is_string(), "{summary}");
    assert!(summary["snapshot_id"].is_string(), "{summary}");
    // It is still away, and nothing has changed: that is no success.
    let (code, summary) = backup(unless_unchanged);
    assert!(code == Some(1) && summary["copies"][0]["error"].is_string(), "{summary}");
    assert!(summary["snapshot_id"].is_null(), "{summary}");

    fs::rename(&away, &far).unwrap();
    // What only looks copies nothing.
    let (code, summary) = backup(&["--skip-if-unchanged", "--dry-run"]);
    assert!(code == Some(0) && summary["copies"].is_null(), "{summary}");
    let (code, summary) = backup(unless_unchanged);
    assert!(code == Some(0) && summary["snapshot_id"].is_null(), "{summary}");
    assert!(summary["copies"][0]["snapshot_id"].is_string(), "{summary}");
    let (restic, target) = (Restic::distribution(), case.path("restored"));
    restic.run(&far, OTHER, &["check", "--read-data"]);
    restic.run(&far, OTHER, &["restore", "latest", "--target", text(&target)]);
    assert_eq!(fs::read_to_string(target.join("small")).unwrap(), "small");
    // From then on it is there already, and is not copied again.
    let (code, summary) = backup(unless_unchanged);
    let copy = &summary["copies"][0];
    assert!(code == Some(0) && copy["snapshot_id"].is_null() && copy["error"].is_null(), "{summary}");
    assert_eq!(case.json(&["snapshots"])[0].as_array().unwrap().len(), 1);
}

#[test]
fn a_vault_whose_disk_becomes_full_meanwhile_holds_no_other_up() {
    const DISK_MIB: usize = 64;
    /// For a pack, and not for all of them.
    const ROOM_MIB: usize = 24;
    let case = Case::with_vault();
    if !SmallDisk::is_possible() {
        return;
    }
    let source = source(&case);
    fs::write(source.join("large"), tree::noise(2, 40_000_000)).unwrap();
    let disk = case.path("disk");
    fs::create_dir(&disk).unwrap();
    let _mounted = SmallDisk::mount(&disk, DISK_MIB as u32);
    let (near, password) = further(&case, "near");
    let (small, _) = further(&case, "disk/vault");
    let ballast = disk.join("somebody-elses");
    fs::write(&ballast, vec![1_u8; (DISK_MIB - ROOM_MIB) << 20]).unwrap();

    let to_both = ["--copy-to", text(&small), "--copy-to", text(&near), "--copy-to-password-file", text(&password)];
    let backup = [&["backup", text(&source), "--side-by-side"], &to_both[..]].concat();
    let output = case.command(&backup).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let failed = said.lines().find(|line| line.contains(&format!("NOT COPIED to {}", small.display())));
    assert!(failed.is_some_and(|line| line.contains("no space left")), "{said}");
    assert!(said.contains(&format!("copied to {}", near.display())) && said.contains("saved"), "{said}");
    assert_whole(&case, &near, &source);
    Restic::distribution().run(&case.vault, PASSWORD, &["check", "--read-data"]);

    // What has come there does no harm, and with room the next backup brings the rest.
    fs::remove_file(&ballast).unwrap();
    Restic::distribution().run(&small, OTHER, &["check", "--read-data"]);
    assert_eq!(case.json(&["snapshots"])[0].as_array().unwrap().len(), 1);
    case.levee(&backup);
    assert_whole(&case, &small, &source);
}
