//! Somebody else's repository in the place of an agent's.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use levee_testing::process::run;

use super::status::{wait_no_problem, wait_problem};
use super::world::{Process, Setup, Site, World};

#[test]
fn a_foreign_repository_is_named_and_left_as_it_is() {
    let mut world = World::protected_with(Setup { zero_loss: false, ..Setup::default() });
    let repository = world.shop_folder(Site::West).join("repository");
    let ours = repository.with_file_name("ours");
    world.kill(Process::Agent(Site::West));
    fs::rename(&repository, &ours).unwrap();
    let password = world.root().join("client/foreign-password");
    fs::write(&password, "someone else's").unwrap();
    let mut restic = Command::new("restic");
    run(restic.args(["init", "--no-cache", "-r"]).arg(&repository).arg("--password-file").arg(&password));
    let before = content(&repository);

    world.try_start(Site::West);
    wait_problem(&world, &["west: ", "wrong password", "another repository", "put back"]);
    assert_eq!(world.operator(&["status"]).status.code(), Some(2));
    let after = content(&repository);
    assert!(after == before, "{:?} became {:?}", before.keys(), after.keys());

    world.kill(Process::Agent(Site::West));
    fs::rename(&repository, repository.with_file_name("theirs")).unwrap();
    fs::rename(&ours, &repository).unwrap();
    world.start(Process::Agent(Site::West));
    world.wait_protected(Site::East);
    wait_no_problem(&world);
    world.expect(&["drill", "shop", "--to", "west"]);
}

/// Every file below a folder.
fn content(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => open.push(entry.path()),
                false => drop(found.insert(entry.path(), fs::read(entry.path()).unwrap())),
            }
        }
    }
    found
}
