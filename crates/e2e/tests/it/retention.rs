//! Which copies the recovery site keeps when damage or a wrong clock speaks against them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use levee_testing::wait::{poll, wait_for, wait_until};

use super::repository::{BASES, count, flip_a_bit, largest, listed, packs, restore_by_hand};
use super::undelete::undelete;
use super::upkeep::{asset, closed_segments, names, noise, wait_documents};
use super::world::{PATIENCE, Process, Setup, Site, World};

/// As many digits as the name of a snapshot has.
const ID_DIGITS: usize = 64;

fn restart(world: &mut World, site: Site) {
    world.kill(Process::Agent(site));
    world.start(Process::Agent(site));
}

/// One more copy of the folder: what changed while its agent was away is copied at once.
fn another_copy(world: &mut World, snapshots: &Path) -> String {
    let before = names(snapshots);
    restart(world, Site::East);
    let is_new = |name: &String| name.len() == ID_DIGITS && !before.contains(name);
    wait_for("another copy", PATIENCE, || names(snapshots).into_iter().find(is_new))
}

/// Waits until this is the newest copy of the folder that was read back whole.
#[track_caller]
fn wait_verified(world: &World, copy: &str) {
    let mut last = None;
    let verified = poll(PATIENCE, || {
        last = asset(world, "documents").map(|documents| documents["last_verified"].clone());
        (last.as_ref()?["position"]["id"] == copy).then_some(())
    });
    assert!(verified.is_some(), "{copy} is not verified, but {last:?}\n{}", world.log_tails());
}

#[test]
fn copies_that_damage_hits_push_out_no_sound_one() {
    let mut world = World::set_up(Setup { zero_loss: false, ..Setup::default() });
    let file = world.protection_file().replace("every = \"2s\"\n", "every = \"1d\"\nkeep = { last = 2 }\n");
    assert!(file.contains("last = 2"));
    world.apply(&file);
    world.wait_protected(Site::East);
    let repository = world.shop_folder(Site::West).join("repository");
    let snapshots = repository.join("snapshots");
    // The first copy stays for what comes to be held against it. This one is the last that is sound.
    let sound = another_copy(&mut world, &snapshots);
    wait_verified(&world, &sound);

    // The pack that the next one brings is damaged, and all that come later rely on it.
    let before = packs(&world);
    fs::write(world.folder(Site::East).join("documents/large"), noise(3 << 20)).unwrap();
    let hit = another_copy(&mut world, &snapshots);
    world.kill(Process::Agent(Site::West));
    flip_a_bit(&largest(packs(&world).difference(&before).cloned()));
    // Whatever was read before counts no more: as if the time were over.
    fs::remove_file(world.shop_folder(Site::West).join("upkeep/rereads")).unwrap();
    world.start(Process::Agent(Site::West));
    wait_documents(&world, |problems| problems.contains("DAMAGED"));
    let later = [another_copy(&mut world, &snapshots), another_copy(&mut world, &snapshots)];

    // Retention looks first thing: the rule keeps the newest two, and the damaged one before them goes.
    restart(&mut world, Site::West);
    wait_until("the time of a damaged copy to be over", PATIENCE, || !names(&snapshots).contains(&hit));
    let left = names(&snapshots);
    assert!(left.contains(&sound), "the last sound copy, {sound}, has gone: {left:?}\n{}", world.log_tails());
    assert!(later.iter().all(|copy| left.contains(copy)), "{later:?} are not all in {left:?}");
    wait_verified(&world, &sound);
}

/// Takes one more base backup, with log before it and after it.
fn another_base(world: &mut World, file: &str) {
    let bases = count(world, BASES);
    world.cluster().psql_in("shop", "insert into orders select count(*) + generate_series(1, 1000) from orders");
    world.cluster().switch_wal();
    world.apply(&file.replace("slot_bound", "base_every = \"20s\"\nslot_bound"));
    wait_until("another base", PATIENCE, || count(world, BASES) > bases);
    world.apply(file);
    world.cluster().switch_wal();
}

#[test]
fn a_clock_that_jumps_ahead_removes_nothing() {
    let mut world = World::set_up(Setup { zero_loss: false, ..Setup::default() });
    // Counted rules are looked at every minute.
    let file = world.protection_file().replace("every = \"2s\"\n", "every = \"2s\"\nkeep = { days = 7, last = 1 }\n");
    assert!(file.contains("days = 7"));
    world.apply(&file);
    world.wait_protected(Site::East);
    another_base(&mut world, &file);
    another_base(&mut world, &file);
    world.wait_protected(Site::East);

    world.kill(Process::Agent(Site::West));
    let snapshots = world.shop_folder(Site::West).join("repository/snapshots");
    let before: BTreeSet<String> = names(&snapshots).into_iter().filter(|name| name.len() == ID_DIGITS).collect();
    let log_before: BTreeSet<PathBuf> = closed_segments(&world).into_iter().collect();
    assert!(before.len() > 3 && log_before.len() >= 3, "{before:?} {log_before:?}");
    let check_all_there = |world: &World, when: &str| {
        let (now, log_now) = (names(&snapshots), closed_segments(world));
        let gone: Vec<&String> = before.iter().filter(|copy| !now.contains(copy)).collect();
        let log_gone: Vec<&PathBuf> = log_before.iter().filter(|segment| !log_now.contains(segment)).collect();
        assert!(gone.is_empty() && log_gone.is_empty(), "{when}: {gone:?} {log_gone:?}\n{}", world.log_tails());
    };

    // Twenty days, as a host has it that has not heard of the time yet.
    world.set_clock(Site::West, "+1728000s");
    world.start(Process::Agent(Site::West));
    wait_documents(&world, |problems| problems.contains("more than a day after they were taken"));
    check_all_there(&world, "by the clock that is ahead");

    // What came meanwhile is marked as from a time to come, and neither hides nor removes what comes now.
    world.kill(Process::Agent(Site::West));
    world.set_clock(Site::West, "+0s");
    world.start(Process::Agent(Site::West));
    wait_documents(&world, |problems| problems.contains("received at a time to come"));
    world.wait_protected(Site::East);
    check_all_there(&world, "by the clock that is right again");
    world.expect(&["drill", "shop", "--to", "west"]);
}

/// A window that was written too short takes base backups off the list, and no log while they can be brought back: once it is
/// mended, every moment behind them can be restored again.
#[test]
fn a_mended_window_brings_a_base_back_with_its_log() {
    let mut world = World::set_up(Setup { zero_loss: false, ..Setup::default() });
    let file = world.protection_file();
    world.apply(&file);
    world.wait_protected(Site::East);
    let bases = listed(&world, "shop", BASES);
    let first = bases[0]["id"].as_str().unwrap().to_string();
    world.cluster().psql("select pg_create_restore_point('between')");
    another_base(&mut world, &file);
    another_base(&mut world, &file);
    world.wait_protected(Site::East);
    wait_until("the log to be closed", PATIENCE, || closed_segments(&world).len() >= 3);
    let log_before = closed_segments(&world);

    let short = file.replace("slot_bound", "keep = \"10s\"\nslot_bound");
    assert!(short.contains("keep = \"10s\""));
    world.apply(&short);
    let snapshots = world.shop_folder(Site::West).join("repository/snapshots");
    wait_until("the first base to go", PATIENCE, || {
        world.cluster().psql_in("shop", "insert into orders select count(*) + 1 from orders");
        !names(&snapshots).contains(&first)
    });
    // Retention has looked again, more than once.
    std::thread::sleep(Duration::from_secs(15));
    let log_now = closed_segments(&world);
    let gone: Vec<&PathBuf> = log_before.iter().filter(|segment| !log_now.contains(segment)).collect();
    assert!(gone.is_empty(), "{gone:?}\n{}", world.log_tails());

    world.apply(&file);
    let desired = world.agent_place(Site::West).folder.join("desired.json");
    let is_told = || fs::read_to_string(&desired).is_ok_and(|text| !text.contains("\"10s\""));
    wait_until("west to be told of the mended rule", PATIENCE, is_told);
    // By then no turn of the shorter one is under way any more.
    another_copy(&mut world, &snapshots);
    let repository = world.shop_folder(Site::West).join("repository");
    let said = undelete(&world, &repository, &["--retry-lock", "60s", &first]);
    assert_eq!(said["snapshots"], serde_json::json!([first]), "{said}");
    let target = world.folder(Site::West).join("between");
    let restored = restore_by_hand(&world, &target, &["--name", "between"]);
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    std::thread::sleep(Duration::from_secs(15));
    assert!(names(&snapshots).contains(&first), "it has gone again\n{}", world.log_tails());
}
