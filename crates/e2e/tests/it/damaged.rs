//! A base backup whose data are damaged, where an older one is sound.

use levee_testing::process::run;
use levee_testing::wait::wait_until;

use super::repository::{BASES, count, flip_a_bit, largest, packs};
use super::status::{wait_no_problem, wait_problem};
use super::world::{PATIENCE, Site, World};

const ROWS: u32 = 40_000;

/// A protected shop with one sound base gets a second one, which is damaged.
pub fn a_damaged_base_is_passed_over(world: &mut World) {
    // What only the next base has, in a pack of its own.
    let noise = format!("create table noise as select md5(random()::text) as text from generate_series(1, {ROWS})");
    world.cluster().psql_in("shop", &format!("{noise}; grant select on noise to shop"));
    let before = packs(world);
    take_a_base(world);
    let pack = largest(packs(world).difference(&before).cloned());
    flip_a_bit(&pack);
    let name = pack.file_name().unwrap().to_string_lossy().into_owned();

    // The drill passes with the older base and more log, and says so loudly.
    let rebuilt = |run: &serde_json::Value| run["steps"]["rebuild-orders"]["outcome"]["note"].to_string();
    let drill = world.expect(&["drill", "shop", "--to", "west"]);
    let note = rebuilt(&drill);
    for words in ["is damaged", &name[..8], "Rebuilt from the one of"] {
        assert!(note.contains(words), "{words:?} is not in {note}\n{drill:#}");
    }
    wait_problem(world, &["west: ", "base backup", "is damaged", &name[..8], "check --read-data"]);
    let status = world.operator(&["status"]);
    assert_eq!(status.status.code(), Some(2), "{}", String::from_utf8_lossy(&status.stdout));
    // From then on it is passed over at once.
    assert_eq!(rebuilt(&world.expect(&["drill", "shop", "--to", "west"])), "null");
    let snapshot = note.split("base backup ").nth(1).and_then(|rest| rest.get(..8)).unwrap_or_default();
    mend(world, &name, snapshot);
}

/// As docs/operating/faults.md says, where there is no other copy of the repository.
fn mend(world: &World, pack: &str, snapshot: &str) {
    vault(world, &["repair", "packs", "--apply", "--retry-lock", "60s", pack]);
    vault(world, &["forget", "--retry-lock", "60s", snapshot]);
    wait_no_problem(world);
    let bases = count(world, BASES);
    take_a_base(world);
    assert!(count(world, BASES) > bases);
    let drill = world.expect(&["drill", "shop", "--to", "west"]);
    assert_eq!(drill["steps"]["rebuild-orders"]["outcome"]["note"].to_string(), "null", "{drill:#}");
    // It was rebuilt from the new one, and nothing more is found.
    wait_no_problem(world);
}

/// Has one base backup taken soon. The period is longer than it takes to set it back, so that there is no second one.
fn take_a_base(world: &World) {
    let (file, bases) = (world.protection_file(), count(world, BASES));
    world.apply(&file.replace("slot_bound", "base_every = \"20s\"\nslot_bound"));
    wait_until("another base", PATIENCE, || count(world, BASES) > bases);
    world.apply(&file);
    world.wait_protected(Site::East);
}

/// Runs a verb on west's repository, which must succeed.
fn vault(world: &World, arguments: &[&str]) {
    let west = world.shop_folder(Site::West);
    let mut command = world.command_at(Site::West);
    command.arg("vault").args(arguments).arg("--vault").arg(west.join("repository"));
    run(command.arg("--password-file").arg(west.join("repository-password")));
}
