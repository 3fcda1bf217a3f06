//! The operator's commands around the copies that an agent makes by itself.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use levee_testing::wait::{poll, wait_until};

use super::repository::count;
use super::status::{wait_no_problem, wait_problem};
use super::upkeep::asset;
use super::world::{PATIENCE, Setup, Site, World};

/// What the copies of the folder are tagged with.
pub const DOCUMENTS: &str = "levee-files:shop/documents";

/// Puts a script in the place of an agent's. It is renamed there whole, as one that is half written would be run.
pub fn put(world: &World, site: Site, name: &str, script: &str, mode: u32) {
    let folder = world.agent_place(site).folder.join("hooks");
    fs::create_dir_all(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let (path, new) = (folder.join(name), folder.join(format!("{name}.new")));
    fs::write(&new, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(mode)).unwrap();
    fs::rename(&new, &path).unwrap();
}

/// A script that keeps its environment in a file of a folder, one for each moment and kind of copy.
pub fn keeps_environment(folder: &Path) -> String {
    format!(
        "new=$(mktemp {folder}/.XXXXXX) && env > \"$new\" && mv \"$new\" \"{folder}/$LEVEE_HOOK-$LEVEE_COPY\"",
        folder = folder.display()
    )
}

/// What a command was told, once it has run and all of this holds.
#[track_caller]
pub fn told(world: &World, file: &Path, expected: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut last = BTreeMap::new();
    let found = poll(PATIENCE, || {
        let text = fs::read_to_string(file).ok()?;
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        last = pairs.map(|(name, value)| (name.to_string(), value.to_string())).collect();
        expected.iter().all(|(name, value)| last.get(*name).is_some_and(|is| is == value)).then(|| last.clone())
    });
    found.unwrap_or_else(|| panic!("{}: {last:#?} is not {expected:?}\n{}", file.display(), world.log_tails()))
}

/// Waits until a folder's problems contain these words, or until there are none.
#[track_caller]
pub fn wait_documents(world: &World, words: Option<&str>) {
    let mut last = None;
    let found = poll(PATIENCE, || {
        last = asset(world, "documents").map(|asset| asset["problems"].to_string());
        let said = last.as_deref()?;
        words.map_or(said == "[]", |words| said.contains(words)).then_some(())
    });
    assert!(found.is_some(), "{words:?} is not in {last:?}\n{}", world.log_tails());
}

#[test]
fn commands_hear_what_is_copied_and_one_that_fails_keeps_the_copy_from_being_made() {
    let world = World::set_up(Setup { zero_loss: false, ..Setup::default() });
    let heard: PathBuf = world.root().join("client/heard");
    fs::create_dir(&heard).unwrap();
    for name in ["before-copy", "after-copy"] {
        put(&world, Site::East, name, &keeps_environment(&heard), 0o755);
    }
    world.apply(&world.protection_file());
    world.wait_protected(Site::East);
    let common = [("LEVEE_APP", "shop"), ("LEVEE_SITE", "east")];
    for (copy, asset) in [("files", "documents"), ("base-backup", "orders")] {
        let what = [("LEVEE_ASSET", asset), ("LEVEE_COPY", copy)];
        let expected = [&common[..], &what[..], &[("LEVEE_HOOK", "before")][..]].concat();
        let before = told(&world, &heard.join(format!("before-{copy}")), &expected);
        assert!(!before.contains_key("LEVEE_BACKUP_RESULT"), "nothing was copied yet: {before:#?}");
        let saved = [("LEVEE_HOOK", "after"), ("LEVEE_BACKUP_RESULT", "saved")];
        let expected = [&common[..], &what[..], &saved[..]].concat();
        let after = told(&world, &heard.join(format!("after-{copy}")), &expected);
        assert_eq!(after["LEVEE_SNAPSHOT_ID"].len(), 64, "{after:#?}");
        assert!(after["LEVEE_DURATION_S"].parse::<u64>().is_ok(), "{after:#?}");
    }

    // It is not allowed: nothing is copied, the status says why, and what comes after hears it too.
    put(&world, Site::East, "before-copy", "exit 3", 0o755);
    wait_documents(&world, Some("the copy of documents is not made: "));
    wait_documents(&world, Some("before-copy failed (exit status: 3)"));
    assert_eq!(world.operator(&["status"]).status.code(), Some(2));
    let failed = told(&world, &heard.join("after-files"), &[("LEVEE_BACKUP_RESULT", "failed")]);
    assert!(failed["LEVEE_ERROR"].contains("exit status: 3"), "{failed:#?}");
    let stays = count(&world, DOCUMENTS);
    fs::write(world.folder(Site::East).join("documents/new.txt"), "new").unwrap();

    // What others could change is not run at all, and does not count as allowed.
    put(&world, Site::East, "before-copy", "true", 0o777);
    wait_documents(&world, Some("can be changed by others, and is not run"));
    assert_eq!(count(&world, DOCUMENTS), stays, "no copy was allowed");

    put(&world, Site::East, "before-copy", "true", 0o755);
    wait_documents(&world, None);
    wait_until("a new copy", PATIENCE, || count(&world, DOCUMENTS) > stays);
    wait_no_problem(&world);
}

#[test]
fn a_base_backup_that_is_not_allowed_is_said_until_it_is() {
    let world = World::set_up(Setup { zero_loss: false, ..Setup::default() });
    put(&world, Site::East, "before-copy", "test \"$LEVEE_COPY\" != base-backup", 0o755);
    world.apply(&world.protection_file());
    wait_problem(&world, &["east: ", "the base backup of orders is not made: ", "before-copy failed (exit status: 1)"]);
    put(&world, Site::East, "before-copy", "true", 0o755);
    world.wait_protected(Site::East);
    wait_no_problem(&world);
}
