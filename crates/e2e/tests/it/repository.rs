//! West's repository, as restic and the disk have it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use levee_testing::process::output;
use serde_json::Value;

use super::world::{Site, World};

/// What base backups are tagged with.
pub const BASES: &str = "levee-base";

/// How many snapshots with a tag there are.
pub fn count(world: &World, tag: &str) -> usize {
    count_of(world, "shop", tag)
}

/// The same in the repository of any app.
pub fn count_of(world: &World, app: &str, tag: &str) -> usize {
    listed(world, app, tag).len()
}

/// Those snapshots, as restic lists them.
pub fn listed(world: &World, app: &str, tag: &str) -> Vec<Value> {
    let west = world.agent_place(Site::West).folder.join("apps").join(app);
    let mut restic = Command::new("restic");
    restic.args(["snapshots", "--json", "--no-lock", "--no-cache", "--tag", tag, "-r"]);
    restic.arg(west.join("repository")).arg("--password-file").arg(west.join("repository-password"));
    serde_json::from_slice(&output(&mut restic).stdout).unwrap_or_default()
}

pub fn packs(world: &World) -> BTreeSet<PathBuf> {
    let data = world.shop_folder(Site::West).join("repository/data");
    let folders = fs::read_dir(data).unwrap().flatten().filter_map(|folder| fs::read_dir(folder.path()).ok());
    folders.flat_map(|entries| entries.flatten().map(|entry| entry.path())).collect()
}

/// Restores the database at west from what is kept there, with nobody's help: `to` says how far.
pub fn restore_by_hand(world: &World, target: &Path, to: &[&str]) -> Output {
    let west = world.shop_folder(Site::West);
    let mut command = world.command_at(Site::West);
    command.args(["database", "restore", "--asset", "shop/orders", "--vault"]).arg(west.join("repository"));
    command.arg("--password-file").arg(west.join("repository-password"));
    command.arg("--journal").arg(west.join("journal/orders"));
    command.arg("--identity-file").arg(west.join("journal-identity"));
    output(command.arg("--data-directory").arg(target).args(to))
}

/// The largest of these packs.
pub fn largest(packs: impl IntoIterator<Item = PathBuf>) -> PathBuf {
    packs.into_iter().max_by_key(|path| fs::metadata(path).map_or(0, |data| data.len())).expect("there is a pack")
}

/// Makes one bit of a file wrong.
pub fn flip_a_bit(path: &PathBuf) {
    let mut content = fs::read(path).unwrap();
    let middle = content.len() / 3;
    content[middle] ^= 1;
    fs::write(path, content).unwrap();
}
