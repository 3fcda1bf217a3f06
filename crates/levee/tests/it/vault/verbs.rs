//! diff, find, stats, ls, dump and snapshots, held against what restic prints of the same vault.

use std::fs;
use std::path::Path;
use std::process::Command;

use levee_testing::restic::{self, Restic};
use serde_json::Value;

use super::{Case, PASSWORD, succeed, tree};

/// A vault of restic's with two snapshots that differ in every way.
fn two_snapshots(restic: &Restic) -> (Case, std::path::PathBuf) {
    let case = Case::new();
    let source = case.path("source");
    fs::create_dir_all(source.join("deep/er/est")).unwrap();
    fs::create_dir_all(source.join("same/inner")).unwrap();
    for (name, content) in [
        ("one", &b"1"[..]),
        ("changed", b"before"),
        ("kind", b"a file"),
        ("mode", b"same"),
        ("deep/er/est/far", b"down"),
        ("same/inner/file", b"stays"),
        ("Capital.TXT", b"letters"),
    ] {
        fs::write(source.join(name), content).unwrap();
    }
    fs::write(source.join("large"), tree::noise(3, 3_000_000)).unwrap();
    fs::hard_link(source.join("one"), source.join("deep/one again")).unwrap();
    std::os::unix::fs::symlink("one", source.join("link")).unwrap();
    restic.run(&case.vault, PASSWORD, &["init"]);
    restic.run(&case.vault, PASSWORD, &["backup", source.to_str().unwrap(), "--tag", "first", "--host", "a"]);

    fs::write(source.join("changed"), b"after it").unwrap();
    // In place: the times of the directories above stay.
    let far = fs::OpenOptions::new().write(true).open(source.join("deep/er/est/far")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&far, b"up", 0).unwrap();
    fs::remove_file(source.join("kind")).unwrap();
    fs::create_dir(source.join("kind")).unwrap();
    fs::write(source.join("kind/inside"), b"new").unwrap();
    fs::remove_file(source.join("link")).unwrap();
    fs::copy(source.join("large"), source.join("deep/copy of large")).unwrap();
    fs::set_permissions(source.join("mode"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::create_dir_all(source.join("new/below")).unwrap();
    fs::write(source.join("new/below/file"), b"new too").unwrap();
    restic.run(&case.vault, PASSWORD, &["backup", source.to_str().unwrap(), "--tag", "second", "--host", "a"]);
    (case, source)
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// Levee's value must hold everything that restic's does.
#[track_caller]
fn assert_holds(levee: &Value, restic: &Value, what: &str) {
    match (levee, restic) {
        (Value::Object(ours), Value::Object(theirs)) => {
            // The newest restic leaves out counts of nothing, the older one doesn't.
            for (field, value) in theirs.iter().filter(|(_, value)| **value != 0) {
                let ours = ours.get(field).unwrap_or_else(|| panic!("{what}: no {field} in {levee}"));
                assert_holds(ours, value, &format!("{what}.{field}"));
            }
        }
        (Value::Array(ours), Value::Array(theirs)) => {
            assert_eq!(ours.len(), theirs.len(), "{what}:\n{levee}\n{restic}");
            for (number, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                assert_holds(ours, theirs, &format!("{what}[{number}]"));
            }
        }
        (Value::Number(ours), Value::Number(theirs)) => {
            let (ours, theirs) = (ours.as_f64().unwrap(), theirs.as_f64().unwrap());
            assert!((ours - theirs).abs() <= 1e-9 * theirs.abs(), "{what}: {ours} instead of {theirs}");
        }
        _ => assert_eq!(levee, restic, "{what}"),
    }
}

/// Runs both on the same vault, and compares what they print as JSON.
#[track_caller]
fn compare(case: &Case, restic: &Restic, arguments: &[&str]) {
    let mut ours = case.json(arguments);
    let with_json: Vec<_> = arguments.iter().copied().chain(["--json"]).collect();
    let mut theirs = lines(&restic.run(&case.vault, PASSWORD, &with_json));
    // With a folder restic shows the folder's tree as the snapshot's.
    for line in theirs.iter_mut().filter(|line| line["struct_type"] == "snapshot") {
        line.as_object_mut().unwrap().remove("tree");
    }
    if arguments.contains(&"--group-by") {
        // restic's come in any order.
        for groups in ours.iter_mut().chain(&mut theirs).filter_map(Value::as_array_mut) {
            groups.sort_by_key(|group| group["group_key"].to_string());
        }
    }
    assert_holds(&Value::from(ours), &Value::from(theirs), &arguments.join(" "));
}

fn ids(case: &Case) -> Vec<String> {
    let listed = case.json(&["snapshots"]).remove(0);
    listed.as_array().unwrap().iter().map(|snapshot| snapshot["id"].as_str().unwrap().to_string()).collect()
}

#[test]
fn differences_are_those_that_restic_sees() {
    for restic in restic::versions() {
        let (case, source) = two_snapshots(&restic);
        let ids = ids(&case);
        let inside = |id: &str| format!("{id}:{}", source.display());
        compare(&case, &restic, &["diff", &ids[0], &ids[1]]);
        compare(&case, &restic, &["diff", &ids[1], &ids[0]]);
        compare(&case, &restic, &["diff", "--metadata", &ids[0], &ids[1]]);
        compare(&case, &restic, &["diff", &ids[0], &ids[0]]);
        if restic.version() != Restic::distribution().version() {
            compare(&case, &restic, &["diff", "--metadata", &inside(&ids[0]), &inside(&ids[1])]);
        }
        let text = case.levee(&["diff", &ids[0], &ids[1]]);
        assert!(text.contains(&format!("M    {}", source.join("changed").display())), "{text}");
    }
}

#[test]
fn statistics_are_those_that_restic_counts() {
    for restic in restic::versions() {
        let (case, _) = two_snapshots(&restic);
        for mode in ["restore-size", "files-by-contents", "blobs-per-file", "raw-data"] {
            compare(&case, &restic, &["stats", "--mode", mode]);
            compare(&case, &restic, &["stats", "--mode", mode, "latest"]);
        }
        assert!(case.levee(&["stats"]).contains("Total Size"));
    }
}

#[test]
fn finds_what_restic_finds() {
    let Some(restic) = Restic::newest() else { return };
    let (case, source) = two_snapshots(&restic);
    let below = format!("{}/deep/**/f*", source.display());
    for arguments in [
        &["find", "one*"][..],
        &["find", "capital*", "--ignore-case"],
        &["find", "CAPITAL*"],
        &["find", "*", "--snapshot", "latest"],
        &["find", "changed", "--reverse"],
        &["find", &below],
        &["find", "one", "--newest", "2001-02-03 04:05:06"],
        &["find", "one", "--oldest", "2001-02-03"],
    ] {
        compare(&case, &restic, arguments);
    }
    // Restic takes eight digits of an id or all of them.
    let id = ids(&case).remove(1);
    let root: Value = serde_json::from_str(&restic.run(&case.vault, PASSWORD, &["cat", "snapshot", &id])).unwrap();
    let root = root["tree"].as_str().unwrap();
    let folder = format!("{id}:{}", source.display());
    let tree: Value = serde_json::from_str(&restic.run(&case.vault, PASSWORD, &["cat", "tree", &folder])).unwrap();
    let node = |name: &str| tree["nodes"].as_array().unwrap().iter().find(|node| node["name"] == name).unwrap();
    let blob = node("one")["content"][0].as_str().unwrap();
    let subtree = node("deep")["subtree"].as_str().unwrap();
    let sorted = |values: Vec<Value>| {
        let mut found = values.into_iter().next().unwrap().as_array().unwrap().clone();
        found.sort_by_key(|object| format!("{}{}{}", object["snapshot"], object["path"], object["id"]));
        Value::from(found)
    };
    for arguments in [
        vec!["find", "--blob", &blob[..8]],
        vec!["find", "--blob", blob],
        vec!["find", "--tree", subtree],
        vec!["find", "--tree", root],
    ] {
        let theirs: Vec<_> = arguments.iter().copied().chain(["--json"]).collect();
        let theirs = sorted(lines(&restic.run(&case.vault, PASSWORD, &theirs)));
        let ours = sorted(case.json(&arguments));
        assert!(!ours.as_array().unwrap().is_empty(), "{arguments:?}");
        assert_holds(&ours, &theirs, &arguments.join(" "));
    }
    let packs = restic.run(&case.vault, PASSWORD, &["list", "packs"]);
    for pack in packs.lines() {
        let found = case.json(&["find", "--pack", &pack[..10], "--show-pack-id"]).remove(0);
        assert!(found.as_array().unwrap().iter().all(|object| object["pack"] == pack), "{found}");
        assert!(!found.as_array().unwrap().is_empty());
    }
    assert!(case.levee_fails(1, &["find", "--pack", "00000000"]).contains("no pack"));
    assert!(case.levee_fails(1, &["find", "--blob", "not an id"]).contains("hexadecimal"));
}

#[test]
fn lists_and_groups_as_restic_does() {
    let Some(restic) = Restic::newest() else { return };
    let (case, source) = two_snapshots(&restic);
    let folder = format!("latest:{}", source.join("deep").display());
    let source = source.to_str().unwrap();
    for arguments in [
        &["ls", "latest"][..],
        &["ls", "latest", source],
        &["ls", "latest", source, "--recursive"],
        &["ls", &folder],
        &["ls", &folder, "--reverse"],
        &["ls", "latest", "--sort", "size"],
        &["ls", "latest", "--sort", "time", "--reverse"],
        &["snapshots", "--group-by", "host"],
        &["snapshots", "--group-by", "host,paths"],
        &["snapshots", "--group-by", "tags", "--latest", "1"],
        &["snapshots", "--latest", "1"],
    ] {
        compare(&case, &restic, arguments);
    }
    for arguments in [&["ls", "--ncdu", "latest"][..], &["ls", "--ncdu", &folder]] {
        let ours: Value = serde_json::from_str(&case.levee(arguments)).unwrap();
        let theirs: Value = serde_json::from_str(&restic.run(&case.vault, PASSWORD, arguments)).unwrap();
        assert_eq!((&ours[0], &ours[1], &ours[3]), (&theirs[0], &theirs[1], &theirs[3]), "{arguments:?}");
        assert_holds(&ours[2], &theirs[2], "the snapshot");
    }
    let compact = case.levee(&["snapshots", "--compact"]);
    assert!(!compact.contains(source) && compact.contains("second"), "{compact}");
}

/// What `tar` lists of an archive.
fn listed(archive: &Path) -> String {
    succeed(Command::new("tar").args(["--numeric-owner", "--full-time", "-tvf"]).arg(archive))
}

#[test]
fn dumps_are_those_of_restic() {
    for restic in restic::versions() {
        let (case, source) = two_snapshots(&restic);
        assert_eq!(case.levee(&["dump", "latest", source.join("changed").to_str().unwrap()]), "after it");
        let inside = format!("latest:{}", source.display());
        assert_eq!(case.levee(&["dump", &inside, "changed"]), "after it");
        let is_new = restic.version() != Restic::distribution().version();
        for (snapshot, path) in
            [("latest", "/"), ("latest", source.to_str().unwrap()), (&inside, "/"), (&inside, "/deep")]
        {
            if snapshot != "latest" && !is_new {
                continue;
            }
            let (ours, theirs) = (case.path("ours.tar"), case.path("theirs.tar"));
            case.levee(&["dump", snapshot, path, "--target", ours.to_str().unwrap()]);
            let output = restic.output(&case.vault, PASSWORD, &["dump", snapshot, path]);
            assert!(output.status.success());
            fs::write(&theirs, output.stdout).unwrap();
            assert_eq!(listed(&ours), listed(&theirs), "{snapshot} {path}");
        }
        let target = case.path("unpacked");
        fs::create_dir(&target).unwrap();
        case.levee(&["dump", &inside, "/", "-t", case.path("all.tar").to_str().unwrap()]);
        succeed(Command::new("tar").arg("-xf").arg(case.path("all.tar")).arg("-C").arg(&target));
        assert_eq!(fs::read(target.join("large")).unwrap(), fs::read(source.join("large")).unwrap());
        assert!(case.levee_fails(1, &["dump", "latest", "/not there"]).contains("there is no"));
    }
}
