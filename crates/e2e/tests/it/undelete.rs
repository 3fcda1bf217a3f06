//! The way back to what retention has removed: `levee vault undelete` with the recovery kit's password.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use levee_testing::process::run;
use levee_testing::restic::Restic;
use levee_testing::wait::wait_for;
use serde_json::Value;

use super::further::of_kit;
use super::world::{PATIENCE, Site, World};

/// What copies of the folder are tagged with.
const DOCUMENTS: &str = "levee-files:shop/documents";

/// Waits until the folder's newest copy in a repository has a file, and gives the copy's id there.
#[track_caller]
pub fn wait_copy_with(world: &World, repository: &Path, file: &str) -> String {
    let (restic, password) = (Restic::distribution(), of_kit(world, "restic password"));
    wait_for("a copy with the file in it", PATIENCE, || {
        let listed = restic.output(repository, &password, &["ls", "latest", "--tag", DOCUMENTS, "--json", "--no-lock"]);
        // A line about the copy, and one about each file.
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        let mut lines = listed.lines().map(|line| serde_json::from_str::<Value>(line).unwrap_or_default());
        let copy = lines.next()?["id"].as_str()?.to_string();
        lines.any(|line| line["name"] == file).then_some(copy)
    })
}

/// Runs `levee vault undelete` at west, and gives the last value that it prints.
#[track_caller]
pub fn undelete(world: &World, repository: &Path, arguments: &[&str]) -> Value {
    let mut command = world.command_at(Site::West);
    command.args(["vault", "undelete", "--json", "--vault"]).arg(repository).args(arguments);
    let said = run(command.env("LEVEE_PASSWORD", of_kit(world, "restic password")));
    serde_json::from_str(said.lines().last().unwrap_or_default()).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// Waits until retention has removed a copy of the folder and a prune has taken its data out of the index, and gives
/// the copy's id.
#[track_caller]
pub fn wait_pruned(world: &World, repository: &Path, is_wanted: impl Fn(&Value) -> bool) -> String {
    wait_for("a prune after the removal of a copy", PATIENCE, || {
        let listed = undelete(world, repository, &["--list", "--tag", DOCUMENTS]);
        let mut pruned = listed.as_array()?.iter().filter(|forgotten| forgotten["pruned"].is_string());
        Some(pruned.find(|forgotten| is_wanted(forgotten))?["id"].as_str()?.to_string())
    })
}

/// Brings a copy of the folder back, and restores it with stock restic: it has every document that there is now. Gives
/// the folder as it was restored.
#[track_caller]
pub fn bring_back(world: &World, repository: &Path, copy: &str) -> PathBuf {
    let path = repository.join("snapshots").join(copy);
    assert!(!path.exists(), "{copy} was never removed");
    let said = undelete(world, repository, &["--retry-lock", "60s", copy]);
    assert_eq!(said["snapshots"], serde_json::json!([copy]), "{said}");
    let (password, target) = (of_kit(world, "restic password"), world.root().join("client/brought-back"));
    let to = target.to_string_lossy();
    Restic::distribution().run(repository, &password, &["restore", copy, "--target", &to, "--no-lock"]);
    let documents = world.folder(Site::East).join("documents");
    let restored = target.join(documents.strip_prefix("/").unwrap());
    for entry in fs::read_dir(&documents).unwrap() {
        let path = entry.unwrap().path();
        run(Command::new("cmp").arg(&path).arg(restored.join(path.file_name().unwrap())));
    }
    assert!(path.exists(), "{copy} has gone again\n{}", world.log_tails());
    restored
}
