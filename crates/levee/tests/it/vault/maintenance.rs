//! Forgetting, pruning, copying, tags, transport on disks and repair, as a user runs them.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};

use levee_testing::restic::Restic;
use serde_json::Value;

use super::dry_runs::everything_in;
use super::tree::noise;
use super::{Case, PASSWORD, below};

/// A vault with two snapshots of a file that differs.
fn with_two_snapshots() -> (Case, String) {
    let case = Case::with_vault();
    let source = case.path("source");
    fs::create_dir(&source).unwrap();
    for (content, time) in [("one", "2026-01-01 10:00:00"), ("two", "2026-01-01 11:00:00")] {
        fs::write(source.join("file"), content).unwrap();
        case.backup(&[source.to_str().unwrap(), "--time", time, "--host", "here"]);
    }
    let source = source.to_str().unwrap().to_string();
    (case, source)
}

fn ids(groups: &Value, what: &str) -> Vec<String> {
    let list = groups[0][what].as_array().cloned().unwrap_or_default();
    list.iter().map(|snapshot| snapshot["id"].as_str().unwrap().to_string()).collect()
}

#[test]
fn forget_prints_what_restic_prints_and_prune_frees_it() {
    let (case, _) = with_two_snapshots();
    let arguments = ["forget", "--keep-daily", "1", "--dry-run"];
    let ours = case.json(&arguments).remove(0);
    if let Some(restic) = Restic::newest() {
        let printed = restic.run(&case.vault, PASSWORD, &[&arguments[..], &["--json"]].concat());
        let theirs: Value = serde_json::from_str(printed.lines().next().unwrap()).unwrap();
        for what in ["keep", "remove"] {
            assert_eq!(ids(&ours, what), ids(&theirs, what), "{what}");
        }
        for field in ["host", "paths", "tags"] {
            assert_eq!(ours[0][field], theirs[0][field], "{field}");
        }
        assert_eq!(ours[0]["reasons"][0]["matches"], theirs[0]["reasons"][0]["matches"]);
    }
    assert_eq!(case.json(&["snapshots"])[0].as_array().unwrap().len(), 2, "a dry run changes nothing");
    assert!(case.levee_fails(1, &["forget"]).contains("no policy"));
    assert!(case.levee_fails(1, &["forget", "--keep-tag", "none"]).contains("keeps none"));
    assert!(case.levee_fails(1, &["forget", "--unsafe-allow-remove-all"]).contains("--host"));

    let text = case.levee(&["forget", "--keep-daily", "1", "--prune", "--max-unused", "0", "--grace", "0"]);
    assert!(text.contains("removed 1 snapshots") && text.contains("deleted:"), "{text}");
    let again = case.json(&["prune", "--max-unused", "0"]).pop().unwrap();
    assert_eq!(
        (&again["message_type"], &again["unused_blobs"], &again["snapshots"]),
        (&"summary".into(), &0.into(), &1.into())
    );
    Restic::distribution().run(&case.vault, PASSWORD, &["check", "--read-data"]);
}

#[test]
fn what_was_forgotten_is_brought_back() {
    let (case, source) = with_two_snapshots();
    let list = |case: &Case| case.json(&["undelete", "--list"])[0].as_array().unwrap().clone();
    assert!(case.levee(&["undelete", "--list"]).contains("nothing"));
    let text = case.levee(&["forget", "--keep-last", "1", "--compact"]);
    // The group is named by its path, the snapshots in it are not.
    assert!(text.contains("removed 1 snapshots") && text.matches(&source).count() == 1, "{text}");
    case.levee(&["prune", "--max-unused", "0"]);
    let listed = list(&case);
    let id = listed[0]["id"].as_str().unwrap();
    assert!(listed.len() == 1 && listed[0]["pruned"].is_string(), "{listed:?}");
    assert!(case.levee_fails(1, &["undelete"]).contains("--all"));
    assert!(case.levee_fails(1, &["undelete", "0123456789"]).contains("--list"));
    case.levee(&["undelete", "--all", "--host", "elsewhere"]);
    assert_eq!(case.json(&["undelete", "--dry-run", id]).pop().unwrap()["snapshots"], serde_json::json!([id]));
    assert_eq!(case.json(&["undelete", id]).pop().unwrap()["snapshots"], serde_json::json!([id]));
    assert!(list(&case).is_empty());
    assert_eq!(case.levee(&["dump", id, &format!("{source}/file")]), "one");
    Restic::distribution().run(&case.vault, PASSWORD, &["check", "--read-data"]);
}

#[test]
fn rewriting_adds_a_summary() {
    let case = Case::new();
    let old = Restic::distribution();
    let source = case.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "content").unwrap();
    old.run(&case.vault, PASSWORD, &["init"]);
    old.run(&case.vault, PASSWORD, &["backup", source.to_str().unwrap()]);
    let summary = |case: &Case| case.json(&["snapshots"])[0][0]["summary"].clone();
    assert!(summary(&case).is_null());
    let rewritten = case.json(&["rewrite", "--snapshot-summary", "--forget"]).pop().unwrap();
    assert_eq!(rewritten["changed_snapshots"], 1);
    let written = summary(&case);
    assert_eq!((&written["total_files_processed"], &written["total_bytes_processed"]), (&1.into(), &7.into()));
    let again = case.json(&["rewrite", "--snapshot-summary", "--forget"]).pop().unwrap();
    assert_eq!(again["changed_snapshots"], 0);
    assert!(case.json(&["rewrite", "--iexclude", "FILE", "--dry-run"]).pop().unwrap()["changed_snapshots"] == 1);
    for restic in levee_testing::restic::versions() {
        restic.run(&case.vault, PASSWORD, &["snapshots"]);
    }
}

#[test]
fn snapshots_are_copied_tagged_and_rewritten() {
    let (from, source) = with_two_snapshots();
    let to = Case::with_vault();
    let password = from.path("password");
    fs::write(&password, PASSWORD).unwrap();
    let copy =
        ["copy", "--from-repo", from.vault.to_str().unwrap(), "--from-password-file", password.to_str().unwrap()];
    let summary = to.json(&copy).pop().unwrap();
    assert_eq!(summary["copied"].as_array().unwrap().len(), 2);
    let again = to.json(&copy).pop().unwrap();
    assert_eq!((again["copied"].as_array().unwrap().len(), &again["blobs"]), (0, &0.into()));

    let tagged = to.json(&["tag", "--add", "a,b", "latest"]);
    assert_eq!((&tagged[0]["message_type"], &tagged[1]["changed_snapshots"]), (&"changed".into(), &1.into()));
    assert!(to.levee_fails(1, &["tag", "--set", "a", "--add", "b"]).contains("--set"));

    let rewritten = to.json(&["rewrite", "--exclude", "file", "--forget"]).pop().unwrap();
    assert_eq!(rewritten["changed_snapshots"], 2);
    let target = to.path("restored");
    to.levee(&["restore", "latest", "--target", target.to_str().unwrap()]);
    let restored = below(&target, source.as_ref());
    assert!(restored.is_dir() && !restored.join("file").exists());
    Restic::distribution().run(&to.vault, PASSWORD, &["check", "--read-data"]);
}

#[test]
fn restic_cuts_alike_in_a_vault_that_was_made_like_another() {
    let (from, _) = with_two_snapshots();
    let password = from.path("password");
    fs::write(&password, PASSWORD).unwrap();
    let source = ["--from-repo", from.vault.to_str().unwrap(), "--from-password-file", password.to_str().unwrap()];
    let to = Case::new();
    let mut init = vec!["init"];
    init.extend(source);
    let refused = to.levee_fails(1, &init);
    assert!(refused.contains("--copy-chunker-params") && !to.vault.exists(), "{refused}");
    init.push("--copy-chunker-params");
    to.levee(&init);
    let config = |case: &Case| -> Value {
        let printed = Restic::distribution().run(&case.vault, PASSWORD, &["cat", "config"]);
        serde_json::from_str(&printed).unwrap()
    };
    let (like, made) = (config(&from), config(&to));
    assert_eq!(like["chunker_polynomial"], made["chunker_polynomial"]);
    assert_ne!(like["id"], made["id"]);
}

#[test]
fn a_check_reads_as_much_as_it_is_told_to() {
    let (case, _) = with_two_snapshots();
    let read = |arguments: &[&str]| {
        let summary = case.json(&[&["check"], arguments].concat()).pop().unwrap();
        summary["packs_read"].as_u64().unwrap()
    };
    let all = read(&["--read-data"]);
    assert!(all >= 2, "{all}");
    assert_eq!(read(&[]), 0);
    assert_eq!(read(&["--read-data-subset", "100%"]), all);
    assert_eq!(read(&["--read-data-subset", "1%"]), 1);
    assert_eq!(read(&["--read-data-subset", "1/2"]) + read(&["--read-data-subset", "2/2"]), all);
    let refused = case.levee_fails(1, &["check", "--read-data-subset", "3/2"]);
    assert!(refused.contains("N/T"), "{refused}");
    let text = case.levee(&["check", "--read-data-subset=1G"]);
    assert!(text.contains(&format!("{all} of them")), "{text}");
}

#[test]
fn a_vault_travels_on_a_disk() {
    let (from, source) = with_two_snapshots();
    let to = Case::with_vault();
    let (disk, password, receipt) = (from.path("disk"), from.path("password"), to.path("receipt"));
    fs::write(&password, PASSWORD).unwrap();
    let text = from.levee(&["export", "--target", disk.to_str().unwrap()]);
    assert!(text.contains("exported 2 snapshots"), "{text}");
    let mut arguments =
        vec!["import", "--from", disk.to_str().unwrap(), "--from-password-file", password.to_str().unwrap()];
    arguments.extend(["--receipt", receipt.to_str().unwrap()]);
    let summary = to.json(&arguments).pop().unwrap();
    assert_eq!((summary["copied"].as_array().unwrap().len(), &summary["received"]["what"]), (2, &"received".into()));
    let receipt: Value = serde_json::from_slice(&fs::read(receipt).unwrap()).unwrap();
    assert_eq!(receipt["custody"], summary["custody"]);
    let target = to.path("restored");
    to.levee(&["restore", "latest", "--target", target.to_str().unwrap()]);
    assert_eq!(fs::read(below(&target, source.as_ref()).join("file")).unwrap(), b"two");
}

#[test]
fn repair_does_nothing_unasked() {
    let (case, _) = with_two_snapshots();
    for file in fs::read_dir(case.vault.join("index")).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    assert!(case.levee_fails(1, &["repair", "index"]).contains("--apply"));
    assert_eq!(fs::read_dir(case.vault.join("index")).unwrap().count(), 0);
    case.levee(&["repair", "index", "--apply"]);
    case.levee(&["check", "--read-data"]);
    assert!(case.levee(&["repair", "index"]).contains("agrees"));
    let looked = case.json(&["repair", "snapshots"]).pop().unwrap();
    assert_eq!(looked["losses"]["count"], 0);
    assert_eq!((&looked["dry_run"], &looked["applied"]), (&true.into(), &false.into()), "{looked}");
}

/// Runs `levee vault repair …` on a vault that needs it: only with `--apply` it changes something, and succeeds.
#[track_caller]
fn assert_repairs_when_asked(case: &Case, arguments: &[&str]) {
    let before = everything_in(&case.vault);
    let refused = case.levee_fails(1, arguments);
    assert!(refused.contains("--apply"), "{arguments:?}: {refused}");
    let output = case.command(&[arguments, &["--json"]].concat()).output().unwrap();
    let looked = String::from_utf8(output.stdout).unwrap();
    let looked: Value = serde_json::from_str(looked.lines().last().unwrap()).unwrap();
    assert_eq!((&looked["dry_run"], &looked["applied"]), (&true.into(), &false.into()), "{looked}");
    assert!(everything_in(&case.vault) == before, "{arguments:?} has changed something unasked");
    let done = case.json(&[arguments, &["--apply"]].concat()).pop().unwrap();
    assert_eq!((&done["dry_run"], &done["applied"]), (&false.into(), &true.into()), "{done}");
    assert!(everything_in(&case.vault) != before, "{arguments:?} has changed nothing");
}

#[test]
fn repair_of_damaged_packs_and_snapshots_does_nothing_unasked() {
    let case = Case::with_vault();
    let source = case.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("large"), noise(1, 100_000)).unwrap();
    fs::write(source.join("small"), "small").unwrap();
    case.backup(&[source.to_str().unwrap()]);
    // The middle of the pack that holds the contents, nearly all of which is the large file.
    let files = everything_in(&case.vault.join("data"));
    let (pack, _) = files.iter().max_by_key(|(_, content)| content.as_deref().map_or(0, <[u8]>::len)).unwrap();
    fs::set_permissions(pack, fs::Permissions::from_mode(0o600)).unwrap();
    File::options().write(true).open(pack).unwrap().write_all_at(b"damage", 50_000).unwrap();
    let damaged = case.levee_fails(1, &["check", "--read-data"]);
    let name = pack.file_name().unwrap().to_str().unwrap();
    assert!(damaged.contains(name), "{damaged}");

    assert_repairs_when_asked(&case, &["repair", "packs", name]);
    // Now the index lacks what is lost, and the snapshot is known to need it.
    assert_repairs_when_asked(&case, &["repair", "snapshots", "--forget"]);
    case.levee(&["check"]);
    assert_eq!(case.levee(&["dump", "latest", &format!("{}/small", source.display())]), "small");
}
