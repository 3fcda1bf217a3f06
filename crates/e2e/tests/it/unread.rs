//! A folder with a file that its agent can't read: the other site says so too, and keeps the last copy that has all.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::time::Duration;

use levee_testing::wait::{wait_for, wait_until};

use super::hooks::wait_documents;
use super::repository::listed;
use super::world::{PATIENCE, Process, Setup, Site, World};

const NOBODY: u32 = 65534;
/// What the tag of a copy begins with that lacks something.
const INCOMPLETE: &str = "levee-incomplete:";
/// Longer than the pause between two looks of retention here.
const SETTLED: Duration = Duration::from_secs(8);

/// The ids of the folder's copies at west, the oldest first: those that have all, and those that lack something.
fn copies(world: &World) -> [Vec<String>; 2] {
    let mut found = listed(world, "shop", "levee-files:shop/documents");
    found.sort_by_key(|copy| copy["time"].to_string());
    let lacks = |copy: &serde_json::Value| {
        let tags = copy["tags"].as_array().into_iter().flatten();
        tags.filter_map(serde_json::Value::as_str).any(|tag| tag.starts_with(INCOMPLETE))
    };
    let (lacking, whole): (Vec<_>, Vec<_>) = found.iter().partition(|copy| lacks(copy));
    let ids = |copies: Vec<&serde_json::Value>| -> Vec<String> {
        copies.into_iter().map(|copy| copy["id"].as_str().unwrap_or_default().to_string()).collect()
    };
    [ids(whole), ids(lacking)]
}

#[test]
fn what_could_not_be_read_is_said_by_both_sites_and_pushes_no_whole_copy_out() {
    let mut world = World::set_up(Setup { zero_loss: false, ..Setup::default() });
    // The agent of a file server without the right to read what is not its own.
    world.run_behind(Site::East, &["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]);
    world.kill(Process::Agent(Site::East));
    world.start(Process::Agent(Site::East));
    let file = world.protection_file();
    world.apply(&file);
    world.wait_protected(Site::East);
    wait_until("a few copies", PATIENCE, || copies(&world)[0].len() >= 4);
    wait_documents(&world, None);

    let closed = world.folder(Site::East).join("documents/closed.txt");
    fs::write(&closed, "nobody may read this").unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    chown(&closed, Some(NOBODY), Some(NOBODY)).unwrap();
    // That is west's word; east names the file.
    wait_documents(&world, Some("the newest copy lacks 1 file(s)"));
    wait_documents(&world, Some("closed.txt"));
    // It is the copies that say so, and nobody's memory.
    world.kill(Process::Agent(Site::West));
    world.wait_connected(Site::West, false);
    world.start(Process::Agent(Site::West));
    world.wait_connected(Site::West, true);
    std::thread::sleep(SETTLED);
    wait_documents(&world, Some("the newest copy lacks 1 file(s)"));

    let [whole, _] =
        wait_for("copies that lack it", PATIENCE, || Some(copies(&world)).filter(|[_, lacking]| lacking.len() >= 3));
    let (newest, older) = (&whole[whole.len() - 1], &whole[whole.len() - 2]);
    // The first of all is what the others are held against, and stays for that.
    world.apply(&file.replace("every = \"2s\"\n", "every = \"2s\"\nkeep = \"3s\"\n"));
    wait_until("copies to be removed", PATIENCE, || !copies(&world)[0].contains(older));
    std::thread::sleep(SETTLED);
    let [whole, lacking] = copies(&world);
    assert!(whole.contains(newest), "{newest} is not in {whole:?}\n{}", world.log_tails());
    assert!(!lacking.is_empty(), "{}", world.log_tails());

    fs::set_permissions(&closed, fs::Permissions::from_mode(0o644)).unwrap();
    wait_documents(&world, None);
    wait_until("the copy to be the newest whole one no more", PATIENCE, || !copies(&world)[0].contains(newest));
}
