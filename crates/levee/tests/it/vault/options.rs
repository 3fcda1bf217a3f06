//! What the flags of backup and restore do.

use std::fs;
use std::path::Path;

use super::{Case, below};

fn paths(case: &Case, snapshot: &str) -> Vec<String> {
    let lines = case.json(&["ls", snapshot]);
    lines[1..].iter().map(|node| node["path"].as_str().unwrap().to_string()).collect()
}

/// A folder with `keep/a`, `keep/b.tmp`, `skip/c` and `.d`.
fn source(case: &Case) -> std::path::PathBuf {
    let source = case.path("source");
    for (path, content) in [("keep/a", "a"), ("keep/b.tmp", "bb"), ("skip/c", "ccc"), (".d", "dddd")] {
        fs::create_dir_all(source.join(path).parent().unwrap()).unwrap();
        fs::write(source.join(path), content).unwrap();
    }
    source
}

#[test]
fn excludes_leave_files_out() {
    let case = Case::with_vault();
    let source = source(&case);
    let list = case.path("excludes");
    fs::write(&list, "# a comment\n\n*.tmp\n").unwrap();
    let check = |arguments: &[&str], absent: &[&str]| {
        let mut all = vec![source.to_str().unwrap()];
        all.extend(arguments);
        case.backup(&all);
        let stored = paths(&case, "latest");
        for path in ["keep/a", "keep/b.tmp", "skip/c", ".d"] {
            let is_stored = stored.contains(&source.join(path).to_str().unwrap().to_string());
            assert_eq!(is_stored, !absent.contains(&path), "{path} with {arguments:?}");
        }
    };
    check(&[], &[]);
    check(&["--exclude", "*.tmp"], &["keep/b.tmp"]);
    check(&["--exclude", "skip", "-e", ".[a-d]"], &["skip/c", ".d"]);
    check(&["--exclude", source.join("keep").to_str().unwrap()], &["keep/a", "keep/b.tmp"]);
    check(&["--exclude-file", list.to_str().unwrap()], &["keep/b.tmp"]);
}

#[test]
fn tags_hosts_and_times_are_kept_and_found() {
    let case = Case::with_vault();
    let source = source(&case);
    let source = source.to_str().unwrap();
    case.backup(&[source, "--tag", "daily,web", "--tag", "x", "--host", "alpha", "--time", "2020-02-03 04:05:06"]);
    case.backup(&[source, "--host", "beta"]);
    let count = |arguments: &[&str]| {
        let mut all = vec!["snapshots"];
        all.extend(arguments);
        case.json(&all)[0].as_array().unwrap().len()
    };
    assert_eq!(count(&[]), 2);
    assert_eq!(count(&["--host", "alpha"]), 1);
    assert_eq!(count(&["--tag", "web"]), 1);
    assert_eq!(count(&["--tag", "web,x"]), 1);
    assert_eq!(count(&["--tag", "web,y"]), 0);
    assert_eq!(count(&["--path", source]), 2);
    assert_eq!(count(&["--path", "/elsewhere"]), 0);
    assert_eq!(count(&["--latest", "1"]), 2);
    assert_eq!(count(&["--host", "alpha", "--host", "beta"]), 2);
    assert_eq!(count(&["--tag", "web", "--tag", ""]), 2);
    let snapshots = case.json(&["snapshots"]);
    assert_eq!(snapshots[0][0]["tags"], serde_json::json!(["daily", "web", "x"]));
    assert!(snapshots[0][0]["time"].as_str().unwrap().starts_with("2020-02-0"), "{}", snapshots[0][0]);
    // The other host is not a parent, unless it is asked for.
    assert!(snapshots[0][1].get("parent").is_none(), "{}", snapshots[0][1]);
    let first = snapshots[0][0]["short_id"].as_str().unwrap().to_string();
    let summary = case.backup(&[source, "--host", "gamma", "--parent", &first]);
    assert_eq!(summary["files_unmodified"], 4, "{summary}");
    // Nor a parent of other paths or tags, unless the group says so.
    let unmodified = |arguments: &[&str]| {
        let summary = case.backup(&[&[source, "--host", "delta", "--dry-run"], arguments].concat());
        summary["files_unmodified"].as_u64().unwrap()
    };
    assert_eq!(unmodified(&[]), 0);
    assert_eq!(unmodified(&["--group-by", "paths"]), 4);
    assert_eq!(unmodified(&["--group-by", "tags", "--tag", "x"]), 4);
    assert_eq!(unmodified(&["--group-by", "tags", "--tag", "y"]), 0);
}

#[test]
fn snapshots_keep_their_writers_distance_from_utc() {
    let case = Case::with_vault();
    let source = source(&case);
    let mut backup = case.command(&["backup", source.to_str().unwrap(), "--time", "2026-02-03 23:30:00"]);
    super::succeed(backup.env("TZ", "Asia/Kolkata"));
    let time = |case: &Case| case.json(&["snapshots"])[0][0]["time"].as_str().unwrap().to_string();
    assert_eq!(time(&case), "2026-02-03T23:30:00+05:30");
    case.levee(&["rewrite", "--new-host", "other", "--forget"]);
    case.levee(&["tag", "--add", "x"]);
    assert_eq!(time(&case), "2026-02-03T23:30:00+05:30");
}

/// Policies count days by the distance from UTC that a snapshot notes.
#[test]
fn a_time_that_is_given_anew_is_one_of_the_day_that_it_was_given_for() {
    let case = Case::with_vault();
    let source = source(&case);
    let here = |arguments: &[&str]| super::succeed(case.command(arguments).env("TZ", "Etc/GMT-2"));
    for time in ["2026-11-19 12:00:00", "2026-11-20 12:00:00"] {
        here(&["backup", source.to_str().unwrap(), "--time", time]);
    }
    here(&["rewrite", "--new-time", "2026-11-20 00:30:00", "--forget", "latest"]);
    let times = || -> Vec<String> {
        let snapshots = case.json(&["snapshots"]).remove(0);
        let times = snapshots.as_array().unwrap().iter().map(|snapshot| snapshot["time"].as_str().unwrap().to_string());
        times.collect()
    };
    let expected = ["2026-11-19T12:00:00+02:00", "2026-11-20T00:30:00+02:00"];
    assert_eq!(times(), expected);
    // In UTC both would be of one day.
    case.levee(&["forget", "--keep-daily", "2"]);
    assert_eq!(times(), expected);
}

#[test]
fn restore_takes_what_is_included() {
    let case = Case::with_vault();
    let source = source(&case);
    case.backup(&[source.to_str().unwrap()]);
    let check = |name: &str, arguments: &[&str], expected: &[&str]| {
        let target = case.path(name);
        let mut all = vec!["restore", "latest", "--target", target.to_str().unwrap()];
        all.extend(arguments);
        case.levee(&all);
        let restored = below(&target, &source);
        for path in ["keep/a", "keep/b.tmp", "skip/c", ".d"] {
            assert_eq!(restored.join(path).exists(), expected.contains(&path), "{path} with {arguments:?}");
        }
    };
    check("t1", &["--include", "*.tmp"], &["keep/b.tmp"]);
    check("t2", &["-i", source.join("keep").to_str().unwrap()], &["keep/a", "keep/b.tmp"]);
    check("t3", &["--exclude", "skip"], &["keep/a", "keep/b.tmp", ".d"]);
}

#[test]
fn restore_puts_right_what_differs() {
    let case = Case::with_vault();
    let source = source(&case);
    case.backup(&[source.to_str().unwrap()]);
    let target = case.path("target");
    let arguments = ["restore", "latest", "--target", target.to_str().unwrap()];
    case.levee(&arguments);
    let restored = below(&target, &source);
    fs::write(restored.join("keep/a"), "changed by hand").unwrap();
    fs::remove_file(restored.join("skip/c")).unwrap();
    fs::write(restored.join("extra"), "extra").unwrap();
    case.levee(&arguments);
    assert_eq!(fs::read(restored.join("keep/a")).unwrap(), b"a");
    assert_eq!(fs::read(restored.join("skip/c")).unwrap(), b"ccc");
    assert!(restored.join("extra").exists());
    let mut with_delete = arguments.to_vec();
    with_delete.push("--delete");
    case.levee(&with_delete);
    assert!(!restored.join("extra").exists());
}

#[test]
fn a_dry_run_changes_nothing() {
    let case = Case::with_vault();
    let source = source(&case);
    let summary = case.backup(&[source.to_str().unwrap(), "-n"]);
    assert_eq!(summary["files_new"], 4, "{summary}");
    let files = |folder: &Path| fs::read_dir(case.vault.join(folder)).unwrap().count();
    for folder in ["snapshots", "index", "locks"] {
        assert_eq!(files(Path::new(folder)), 0, "{folder}");
    }
}

#[test]
fn ls_lists_a_folder() {
    let case = Case::with_vault();
    let source = source(&case);
    case.backup(&[source.to_str().unwrap()]);
    let keep = source.join("keep");
    let listed = case.levee(&["ls", "latest", keep.to_str().unwrap(), "--quiet"]);
    let expected: Vec<_> =
        [keep.clone(), keep.join("a"), keep.join("b.tmp")].iter().map(|path| path.display().to_string()).collect();
    assert_eq!(listed.lines().collect::<Vec<_>>(), expected);
    assert!(case.levee(&["ls", "--long", "latest"]).contains("-rw-r--r--"));
}

#[test]
fn wrong_usage_says_what_is_wrong() {
    let case = Case::with_vault();
    let check = |arguments: &[&str], expected: &str| {
        let message = case.levee_fails(1, arguments);
        assert!(message.contains(expected), "{arguments:?}: {message}");
    };
    check(&["backup"], "--files-from");
    check(&["restore", "latest"], "--target");
    check(&["backup", "/etc/hostname", "--time", "yesterday"], "2006-01-02 15:04:05");
    check(&["backup", "/etc/hostname", "--no-such-flag"], "--no-such-flag");
    check(&["backup", "/etc/hostname", "--exclude", "[a"], "[a");
}
