//! `--dry-run`: it says what would be done, and everything stays as it is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::{Case, PASSWORD, succeed};

/// Every file below a folder with its content, and every folder.
pub fn everything_in(folder: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut to_do = vec![folder.to_path_buf()];
    while let Some(path) = to_do.pop() {
        let is_dir = path.is_dir();
        if is_dir {
            to_do.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let content = (!is_dir).then(|| fs::read(&path).unwrap());
        found.insert(path, content);
    }
    found
}

/// Runs a verb with `--dry-run`, which must leave everything as it is and say these fields, and then without, which must
/// say the same and change something.
#[track_caller]
fn check(case: &Case, arguments: &[&str], expected: &[(&str, Value)]) {
    let before = everything_in(case.dir.path());
    let foreseen = case.json(&[arguments, &["--dry-run"]].concat()).pop().unwrap();
    let text = case.levee(&[arguments, &["--dry-run"]].concat());
    assert!(text.contains("would"), "{arguments:?}: {text}");
    assert!(everything_in(case.dir.path()) == before, "a dry run of {arguments:?} has changed something");
    let done = case.json(arguments).pop().unwrap();
    assert!(everything_in(case.dir.path()) != before, "{arguments:?} has changed nothing");
    assert_eq!((&foreseen["dry_run"], &done["dry_run"]), (&json!(true), &json!(false)));
    for (name, value) in expected {
        assert_eq!((&foreseen[name], &done[name]), (value, value), "{arguments:?}: {name}");
    }
}

fn number_of(list: &Value) -> usize {
    list.as_array().map_or(0, Vec::len)
}

#[test]
fn every_verb_that_changes_something_can_be_asked_first() {
    let case = Case::with_vault();
    let source = case.path("source");
    fs::create_dir(&source).unwrap();
    for (content, tag) in [("one", "a"), ("two", "b")] {
        fs::write(source.join("file"), content).unwrap();
        case.backup(&[source.to_str().unwrap(), "--tag", tag]);
    }

    let text = |name: &str| case.path(name).to_str().unwrap().to_string();
    let target = text("target");
    let restore = ["restore", "latest", "--target", &target];
    check(&case, &restore, &[("files_skipped", json!(0)), ("errors", json!(0))]);
    fs::remove_dir_all(&target).unwrap();
    let would = case.levee(&[&restore[..], &["-n"]].concat());
    assert!(would.contains("would restore") && !Path::new(&target).exists(), "{would}");

    let (disk, other) = (text("disk"), text("other"));
    check(&case, &["export", "--target", &disk, "--tag", "a"], &[("skipped", json!([]))]);
    // What has gone before is not exported again.
    let foreseen = case.json(&["export", "--target", &disk, "--dry-run"]).pop().unwrap();
    assert_eq!((number_of(&foreseen["copied"]), number_of(&foreseen["skipped"])), (1, 1), "{foreseen}");
    case.levee(&["export", "--target", &disk]);

    fs::write(case.path("password"), PASSWORD).unwrap();
    let importing = Case { vault: PathBuf::from(&other), dir: case.dir };
    importing.levee(&["init"]);
    let from = ["import", "--from", &disk, "--from-password-file", &text_in(&importing, "password")];
    check(&importing, &from, &[("skipped", json!([]))]);
    let case = Case { vault: importing.dir.path().join("vault"), dir: importing.dir };

    check(&case, &["tag", "--add", "c", "--tag", "a"], &[("changed_snapshots", json!(1))]);

    fs::write(case.path("further"), "another one").unwrap();
    case.levee(&["key", "add", "--new-password-file", &text_in(&case, "further")]);
    let keys = case.json(&["key", "list"]).pop().unwrap();
    let key = |current: bool| {
        let found = keys.as_array().unwrap().iter().find(|key| key["current"] == current);
        found.unwrap()["id"].as_str().unwrap().to_string()
    };
    check(&case, &["key", "remove", &key(false)], &[("id", json!(key(false)))]);
    // What would fail fails in a dry run, too.
    let refused = case.levee_fails(1, &["key", "remove", &key(true), "--dry-run"]);
    assert!(refused.contains(&key(true)[..8]), "{refused}");

    let further = text_in(&case, "further");
    let note = ["--new-password-file", &further, "--host", "elsewhere", "--user", "someone"];
    let noted = [("host_name", json!("elsewhere")), ("user_name", json!("someone"))];
    check(&case, &[&["key", "add"], &note[..]].concat(), &noted);
    // A password that can't be read is said at once, and not only when it is needed.
    let refused = case.levee_fails(1, &["key", "add", "--dry-run", "--new-password-file", "/nowhere/password"]);
    assert!(refused.contains("/nowhere/password"), "{refused}");

    let lock = "0".repeat(64);
    fs::write(case.vault.join("locks").join(&lock), "not a lock").unwrap();
    check(&case, &["unlock", "--remove-all"], &[("removed", json!(1))]);

    // The last one: from here on another password opens the vault.
    let replaced = ("removed_id", json!(key(true)));
    check(&case, &[&["key", "passwd"], &note[..]].concat(), &[noted.to_vec(), vec![replaced]].concat());
    case.levee_fails(12, &["snapshots"]);
}

fn text_in(case: &Case, name: &str) -> String {
    case.path(name).to_str().unwrap().to_string()
}

#[test]
fn caches_that_would_be_removed_stay() {
    let case = Case::with_vault();
    let caches = text_in(&case, "caches");
    case.levee(&["snapshots", "--cache-dir", &caches]);
    // Beside it stands the folder's own mark.
    let mut cached = fs::read_dir(&caches).unwrap().map(|entry| entry.unwrap().path());
    let cache = cached.find(|path| path.is_dir()).unwrap();
    let old = SystemTime::now() - Duration::from_secs(40 * 24 * 3600);
    fs::File::open(&cache).unwrap().set_modified(old).unwrap();
    let cleanup = |more: &[&str]| {
        let arguments = [&["cache", "--cleanup", "--json", "--cache-dir", &caches], more].concat();
        let removed: Value = serde_json::from_str(&succeed(&mut case.command(&arguments))).unwrap();
        (number_of(&removed), removed[0]["dry_run"].clone(), cache.exists())
    };
    assert_eq!(cleanup(&["--dry-run"]), (1, json!(true), true));
    assert_eq!(cleanup(&[]), (1, json!(false), false));
}

#[test]
fn what_would_be_forgotten_is_said() {
    let case = Case::with_vault();
    let source = case.path("source");
    fs::create_dir(&source).unwrap();
    for content in ["one", "two", "three"] {
        fs::write(source.join("file"), content).unwrap();
        case.backup(&[source.to_str().unwrap()]);
    }
    let listed = case.json(&["snapshots"]).remove(0);
    let id = listed[0]["id"].as_str().unwrap();
    let expected = [("message_type", json!("summary")), ("removed", json!([id])), ("failed", json!([]))];
    check(&case, &["forget", id], &expected);
    // By a policy it is restic's list of groups, and nothing else.
    for (more, dry_run) in [(&["--dry-run"][..], true), (&[][..], false)] {
        let lines = case.json(&[&["forget", "--keep-last", "1"], more].concat());
        let group = &lines[0][0];
        assert_eq!((lines.len(), number_of(&lines[0]), &group["dry_run"]), (1, 1, &json!(dry_run)), "{lines:?}");
        assert_eq!((number_of(&group["keep"]), number_of(&group["remove"])), (1, 1), "{group}");
        assert_eq!(number_of(&case.json(&["snapshots"])[0]), if dry_run { 2 } else { 1 });
    }
}

/// A receipt says that something was received.
#[test]
fn a_dry_run_of_an_import_gives_no_receipt() {
    let case = Case::with_vault();
    let import = ["import", "--from", "x", "--from-password-file", "x", "--receipt", "receipt", "--dry-run"];
    let refused = case.levee_fails(1, &import);
    assert!(refused.contains("--receipt"), "{refused}");
}
