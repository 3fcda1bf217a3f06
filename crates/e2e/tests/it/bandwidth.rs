//! Limits on what copies send: they keep to them for as long as it takes, and nothing else waits for it.

use std::fs;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use levee_testing::random::noise;
use levee_testing::wait::wait_until;

use super::further::{Served, as_of, wait_newer, with_vaults};
use super::hooks::put;
use super::queue::folder;
use super::status::{wait_caught_up, wait_no_problem};
use super::upkeep::asset;
use super::world::{PATIENCE, Setup, Site, World};

const LARGE_BYTES: u64 = 4 << 20;
/// So slow that much else can happen meanwhile, also on a busy machine.
const APP_RATE_KIB: u64 = 64;
/// What an app's large file takes at that rate, at least.
const APP_TIME_MIN: Duration = Duration::from_secs(LARGE_BYTES / (APP_RATE_KIB << 10));
/// A base backup and the log go to a vault at its rate as well.
const VAULT_RATE_KIB: u64 = 128;
const VAULT_TIME_MIN: Duration = Duration::from_secs(LARGE_BYTES / (VAULT_RATE_KIB << 10));

fn is_protected(world: &World, name: &str) -> bool {
    asset(world, name).is_some_and(|asset| asset["protected"] == true)
}

#[test]
fn copies_keep_to_an_apps_bandwidth_and_its_log_does_not_wait_for_them() {
    let mut world = World::protected_with(Setup { zero_loss: false, ..Setup::default() });
    let heard = world.root().join("client/heard");
    fs::create_dir(&heard).unwrap();
    let note = |word: &str| format!("touch '{}/{word}-'\"$LEVEE_ASSET\"", heard.display());
    put(&world, Site::East, "before-copy", &note("begun"), 0o755);
    let note_saved = format!("[ \"$LEVEE_BACKUP_RESULT\" != saved ] || {}", note("saved"));
    put(&world, Site::East, "after-copy", &note_saved, 0o755);
    let has = |file: &str| heard.join(file).exists();

    // A folder that comes with the limit is copied by it from the first byte on.
    let plain = world.protection_file();
    let limit = format!("recovery = \"west\"\nbandwidth = \"{APP_RATE_KIB}k\"\n");
    let limited = plain.replace("recovery = \"west\"\n", &limit);
    assert!(limited.contains("bandwidth"));
    let music = folder(&world, "shop", "music", "1h", &noise(2, LARGE_BYTES as usize));
    let begun = Instant::now();
    world.apply(&format!("{limited}{music}"));
    wait_until("the slow copy to begin", PATIENCE, || has("begun-music"));
    world.cluster().psql_in("shop", "insert into orders values (4711)");
    wait_caught_up(&mut world);
    assert!(!has("saved-music"), "the log has come no sooner than the copy");
    assert!(!is_protected(&world, "music"), "nothing of it is there yet");

    // Without the limit the next copy is fast. The one that is under way keeps its own.
    let pictures = folder(&world, "shop", "pictures", "1h", &noise(3, LARGE_BYTES as usize));
    world.apply(&format!("{plain}{music}{pictures}"));
    wait_until("the next copy", PATIENCE, || is_protected(&world, "pictures"));
    assert!(!has("saved-music"), "the slow copy was done within {:?}", begun.elapsed());
    wait_until("the slow copy", PATIENCE, || has("saved-music"));
    assert!(begun.elapsed() >= APP_TIME_MIN, "it took {:?}, and not {APP_TIME_MIN:?}", begun.elapsed());
    world.wait_protected(Site::East);
    wait_no_problem(&world);
}

#[test]
fn copies_to_a_further_vault_keep_to_its_bandwidth_and_hold_nothing_else_up() {
    let mut world = World::set_up(Setup { zero_loss: false, ..Setup::default() });
    let [near, late] = ["near", "late"].map(|name| {
        let path = world.root().join(name);
        fs::create_dir(&path).unwrap();
        format!("address = {path:?}")
    });
    let far = Served::start(&world);
    far.set_secrets(&world);
    let documents = world.folder(Site::East).join("documents");
    fs::write(documents.join("large"), noise(2, LARGE_BYTES as usize)).unwrap();
    let free = far.spec();
    let limited = format!("{free}bandwidth = \"{VAULT_RATE_KIB}k\"\n");
    let begun = Instant::now();
    world.apply(&with_vaults(&world, &[("near", near.as_str()), ("far", limited.as_str())]));
    world.wait_protected(Site::East);
    // The other vault has everything, and the log has come, while this one has not even the first copy of the folder.
    wait_newer(&world, "orders", "near");
    wait_newer(&world, "documents", "near");
    world.cluster().psql_in("shop", "insert into orders values (4711)");
    wait_caught_up(&mut world);
    assert_eq!(as_of(&world, "documents", "far"), None, "after {:?}", begun.elapsed());
    wait_until("all to be in the slow vault", PATIENCE, || {
        ["orders", "documents"].iter().all(|name| as_of(&world, name, "far").is_some())
    });
    assert!(begun.elapsed() >= VAULT_TIME_MIN, "it took {:?}, and not {VAULT_TIME_MIN:?}", begun.elapsed());

    // The limit goes. Another vault comes with the same file, and shows that the agent has it.
    let vaults = [("near", near.as_str()), ("far", free.as_str()), ("late", late.as_str())];
    world.apply(&with_vaults(&world, &vaults));
    wait_until("the file to hold", PATIENCE, || as_of(&world, "documents", "late").is_some());
    fs::write(documents.join("larger"), noise(3, LARGE_BYTES as usize)).unwrap();
    let (written, begun) = (Timestamp::now(), Instant::now());
    wait_until("the next copy in the vault", PATIENCE, || {
        let at = as_of(&world, "documents", "far").and_then(|at| at.parse::<Timestamp>().ok());
        at.is_some_and(|at| at > written)
    });
    assert!(begun.elapsed() < VAULT_TIME_MIN, "without a limit it took {:?}", begun.elapsed());
    wait_no_problem(&world);
}
