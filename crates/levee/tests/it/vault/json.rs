//! The JSON has restic's field names, held against what restic itself prints.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use levee_testing::restic::Restic;
use serde_json::Value;

use super::{Case, PASSWORD, tree};

fn fields(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap_or_else(|| panic!("not an object: {value}")).keys().map(String::as_str).collect()
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn summary(lines: &[Value]) -> &Value {
    lines.iter().find(|line| line["message_type"] == "summary").expect("a summary")
}

/// Levee must have every field that restic has, of the same JSON type.
#[track_caller]
fn assert_has_fields(levee: &Value, restic: &Value) {
    let missing: Vec<_> = fields(restic).difference(&fields(levee)).copied().collect::<Vec<_>>();
    assert!(missing.is_empty(), "missing: {missing:?}\nlevee:  {levee}\nrestic: {restic}");
    for (field, value) in restic.as_object().unwrap() {
        let same = std::mem::discriminant(value) == std::mem::discriminant(&levee[field]) || value.is_null();
        assert!(same, "{field}: {} instead of {value}", levee[field]);
    }
}

#[test]
fn fields_are_those_of_the_newest_restic() {
    let Some(restic) = Restic::newest() else { return };
    let (ours, theirs) = (Case::new(), Case::new());
    let source = ours.path("source");
    tree::make(&source);
    let source = source.to_str().unwrap();
    let restic = |arguments: &[&str]| lines(&restic.run(&theirs.vault, PASSWORD, arguments));

    assert_has_fields(&ours.json(&["init"])[0], &restic(&["init", "--json"])[0]);
    let backup = ["backup", source, "--tag", "a,b", "--exclude", "*.none", "--json"];
    // The second one has a parent.
    for _ in 0..2 {
        assert_has_fields(summary(&ours.json(&backup[..backup.len() - 1])), summary(&restic(&backup)));
    }
    let (our_list, their_list) = (&ours.json(&["snapshots"])[0], &restic(&["snapshots", "--json"])[0]);
    assert_has_fields(&our_list[1], &their_list[1]);
    assert_has_fields(&our_list[1]["summary"], &their_list[1]["summary"]);
    for field in ["paths", "tags", "excludes", "hostname", "username"] {
        assert_eq!(our_list[1][field], their_list[1][field], "{field}");
    }

    let (our_ls, their_ls) = (ours.json(&["ls", "latest"]), restic(&["ls", "latest", "--json"]));
    assert_eq!(our_ls.len(), their_ls.len());
    assert_has_fields(&our_ls[0], &their_ls[0]);
    for (our_node, their_node) in our_ls[1..].iter().zip(&their_ls[1..]) {
        assert_has_fields(our_node, their_node);
        // The names of directories above the source are not the source's.
        if Path::new(our_node["path"].as_str().unwrap()).starts_with(source) {
            // Reading changes one; Levee moves the other for files whose times cannot be trusted.
            let is_a_fact = |field: &&String| !["atime", "ctime"].contains(&field.as_str());
            for field in their_node.as_object().unwrap().keys().filter(is_a_fact) {
                assert_eq!(our_node[field], their_node[field], "{field} of {our_node}");
            }
        }
    }

    let target = |case: &Case| case.path("target").to_str().unwrap().to_string();
    let ours_restored = ours.json(&["restore", "latest", "--target", &target(&ours)]);
    let theirs_restored = restic(&["restore", "latest", "--target", &target(&theirs), "--json"]);
    assert_has_fields(summary(&ours_restored), summary(&theirs_restored));
    assert_eq!(summary(&ours_restored)["total_bytes"], summary(&theirs_restored)["total_bytes"]);
    assert_has_fields(summary(&ours.json(&["check"])), summary(&restic(&["check", "--json"])));
    let forget = ["forget", "--keep-last", "1", "--dry-run", "--json"];
    let (our_groups, their_groups) = (&ours.json(&forget[..forget.len() - 1])[0], &restic(&forget)[0]);
    assert_eq!(our_groups.as_array().map(Vec::len), their_groups.as_array().map(Vec::len));
    assert_has_fields(&our_groups[0], &their_groups[0]);
    assert_has_fields(&ours.json(&["key", "list"])[0][0], &restic(&["key", "list", "--json"])[0][0]);
}

#[test]
fn counts_are_right() {
    let case = Case::with_vault();
    let source = case.path("source");
    fs::create_dir_all(source.join("folder")).unwrap();
    fs::write(source.join("one"), b"1").unwrap();
    fs::write(source.join("folder/two"), b"22").unwrap();
    let first = case.backup(&[source.to_str().unwrap()]);
    let check = |summary: &Value, expected: [u64; 5]| {
        let fields =
            ["files_new", "files_changed", "files_unmodified", "total_files_processed", "total_bytes_processed"];
        assert_eq!(fields.map(|field| summary[field].as_u64().unwrap()), expected, "{summary}");
    };
    check(&first, [2, 0, 0, 2, 3]);
    assert_eq!(first["data_blobs"], 2);
    fs::write(source.join("one"), b"111").unwrap();
    fs::write(source.join("three"), b"333").unwrap();
    check(&case.backup(&[source.to_str().unwrap()]), [1, 1, 1, 3, 8]);
    check(&case.backup(&[source.to_str().unwrap(), "--force"]), [3, 0, 0, 3, 8]);
    let dry = case.backup(&[source.to_str().unwrap(), "--dry-run"]);
    check(&dry, [0, 0, 3, 3, 8]);
    assert_eq!(dry["dry_run"], true);
    assert_eq!(case.json(&["snapshots"])[0].as_array().unwrap().len(), 3);
}

#[test]
fn quiet_says_nothing_when_all_is_well() {
    let case = Case::with_vault();
    let source = case.path("source");
    fs::create_dir(&source).unwrap();
    assert_eq!(case.levee(&["backup", "--quiet", source.to_str().unwrap()]), "");
    assert_eq!(case.levee(&["check", "--quiet"]), "");
}
