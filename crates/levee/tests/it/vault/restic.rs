//! What Levee writes, restic checks and restores; and the other way round.

use levee_testing::restic::{self, Restic};

use super::tree::{self, allocated_bytes, assert_same, assert_same_to_restic};
use super::{Case, PASSWORD, below};

fn restic_checks(restic: &Restic, case: &Case) {
    let printed = restic.run(&case.vault, PASSWORD, &["check", "--read-data"]);
    assert!(printed.contains("no errors were found"), "restic {}: {printed}", restic.version());
}

#[test]
fn restic_checks_and_restores_what_levee_wrote() {
    let case = Case::with_vault();
    let source = case.path("source");
    tree::make(&source);
    case.backup(&[source.to_str().unwrap()]);
    // A second snapshot, so that parents and a second index are there too.
    std::fs::write(source.join("small"), b"other bytes now").unwrap();
    case.backup(&[source.to_str().unwrap()]);
    for restic in restic::versions() {
        restic_checks(&restic, &case);
        let target = case.path(restic.version());
        restic.run(&case.vault, PASSWORD, &["restore", "latest", "--target", target.to_str().unwrap()]);
        assert_same_to_restic(&restic, &source, &below(&target, &source));
    }
}

#[test]
fn levee_checks_and_restores_what_restic_wrote() {
    let source_of = |case: &Case| case.path("source");
    let check = |restic: &Restic, version: &str| {
        let case = Case::new();
        let (source, target) = (source_of(&case), case.path("target"));
        tree::make(&source);
        restic.run(&case.vault, PASSWORD, &["init", "--repository-version", version]);
        restic.run(&case.vault, PASSWORD, &["backup", source.to_str().unwrap()]);
        case.levee(&["check", "--read-data"]);
        case.levee(&["restore", "latest", "--target", target.to_str().unwrap(), "--verify"]);
        assert_same_to_restic(restic, &source, &below(&target, &source));
        // And Levee goes on in that repository, with restic's snapshot as the parent.
        let summary = case.backup(&[source.to_str().unwrap()]);
        assert_eq!(summary["files_new"], 0, "{summary}");
        restic_checks(restic, &case);
        assert_eq!(case.json(&["snapshots"])[0].as_array().unwrap().len(), 2);
    };
    for restic in restic::versions() {
        check(&restic, "2");
        check(&restic, "1");
    }
}

#[test]
fn levee_restores_what_levee_wrote_and_leaves_it_alone_afterwards() {
    let case = Case::with_vault();
    let (source, target) = (case.path("source"), case.path("target"));
    tree::make(&source);
    let summary = case.backup(&[source.to_str().unwrap()]);
    let id = summary["snapshot_id"].as_str().unwrap();
    case.levee(&["check", "--read-data"]);
    case.levee(&["restore", id, "--target", target.to_str().unwrap(), "--verify"]);
    let restored = below(&target, &source);
    assert_same(&source, &restored);
    assert!(allocated_bytes(&restored.join("sparse")) < 4 << 20, "the hole was filled");
    assert!(allocated_bytes(&restored.join("only a hole")) < 1 << 20, "the hole was filled");
    // Again over what is there: nothing is to be done, and nothing changes.
    case.levee(&["restore", &id[..8], "--target", target.to_str().unwrap()]);
    assert_same(&source, &restored);
}

#[test]
fn an_unchanged_tree_adds_next_to_nothing() {
    let case = Case::with_vault();
    let source = case.path("source");
    tree::make(&source);
    // What seems to be changed after now is read again each time.
    std::fs::remove_file(source.join("far ahead")).unwrap();
    let first = case.backup(&[source.to_str().unwrap()]);
    assert!(first["data_added"].as_u64().unwrap() > 5_000_000, "{first}");
    let second = case.backup(&[source.to_str().unwrap()]);
    assert_eq!((&second["files_new"], &second["files_changed"]), (&0.into(), &0.into()), "{second}");
    assert_eq!(second["files_unmodified"], first["files_new"], "{second}");
    assert!(second["data_added"].as_u64().unwrap() < 10_000, "{second}");
    // One byte in the middle of a large file costs about a chunk.
    let mut content = std::fs::read(source.join("noise")).unwrap();
    content[2_500_000] ^= 1;
    std::fs::write(source.join("noise"), content).unwrap();
    let third = case.backup(&[source.to_str().unwrap()]);
    let added = third["data_added"].as_u64().unwrap();
    assert!(added > 0 && added < 4_500_000, "{third}");
}
