//! A disk is full: the recovery site's, the server's, the source agent's, that of the place where the app is to live.

use std::fs;
use std::path::Path;
use std::time::Duration;

use levee_testing::disk::SmallDisk;
use levee_testing::wait::{poll, wait_until};

use super::faults::{check_failed, said_by};
use super::orders::Orders;
use super::runs::{Begun, Kind};
use super::status::{wait_no_problem, wait_problem};
use super::traces::Traces;
use super::world::{PATIENCE, Process, Setup, Site, World};

/// Room for the base backup, some segments of log and a drill.
const DISK_MIB: u32 = 512;
const SERVER_DISK_MIB: u32 = 64;

#[test]
fn a_full_disk_at_the_recovery_site_takes_nothing_and_loses_nothing() {
    if !SmallDisk::is_possible() {
        return;
    }
    let mut world =
        World::protected_with(Setup { small_disk: Some((Process::Agent(Site::West), DISK_MIB)), ..Setup::default() });
    let orders = Orders::start(world.databases());
    let east = world.database(Site::East);
    orders.wait_for_more_at(east, PATIENCE);

    world.disk().fill();
    let documents = world.folder(Site::East).join("documents");
    fs::write(documents.join("no-room.txt"), "x".repeat(1 << 20)).unwrap();
    // More log than what west has set aside for it, from a session that does not wait for it.
    world.cluster().psql("set synchronous_commit = local; create table bulk (t text)");
    for _ in 0..3 {
        let rows = "select md5(i::text) || md5((-i)::text) from generate_series(1, 150000) i";
        world.cluster().psql(&format!("set synchronous_commit = local; insert into bulk {rows}"));
    }
    let said = wait_problem(&world, &["west", "left on the disk", "free some"]);
    println!("said about the database: {said}");
    wait_until("orders to wait", PATIENCE, || {
        let before = orders.count_at(east);
        std::thread::sleep(Duration::from_secs(2));
        orders.count_at(east) == before
    });
    let said = wait_problem(&world, &["east", "space"]);
    println!("said about the database: {said}");
    let text = world.operator(&["status"]);
    assert_eq!(text.status.code(), Some(2));
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("left on the disk"), "{text}");
    // What needs room says so, and leaves nothing behind.
    let before = Traces::of(&world, Site::West);
    let drill = world.operator(&["drill", "shop", "--to", "west"]);
    check_failed(&drill, &["No space left on device"], &[]);
    // The empty folder of all drills.
    Traces::check_nothing_left(&world, Site::West, &before, &["agent/apps/shop/runs"]);

    // It goes on by itself when there is room.
    world.disk().free();
    orders.wait_for_more_at(east, PATIENCE);
    wait_no_problem(&world);
    world.wait_protected(Site::East);
    world.expect(&["drill", "shop", "--to", "west"]);
    world.expect(&["switchover", "shop", "--yes", "--to", "west"]);
    assert!(orders.check_all_in(world.database(Site::West)) > 40);
    assert!(world.folder(Site::West).join("documents/no-room.txt").exists());
}

/// Losing the server stops no database, and so does what it cannot write.
#[test]
fn a_full_disk_at_the_server_holds_up_no_database_and_a_run_goes_on_when_there_is_room() {
    if !SmallDisk::is_possible() {
        return;
    }
    let disk = Some((Process::Server, SERVER_DISK_MIB));
    let world = World::protected_with(Setup { small_disk: disk, ..Setup::default() });
    let orders = Orders::start(world.databases());
    let (east, west) = (world.database(Site::East), world.database(Site::West));
    orders.wait_for_more_at(east, PATIENCE);

    world.disk().fill();
    // What is asked anew is refused with the reason, and nothing of it stays.
    let other = world.protection_file().replace("every = \"2s\"", "every = \"3s\"");
    let refused = world.try_apply(&other);
    println!("said about the file: {}", said_by(&refused));
    check_failed(&refused, &["full"], &[]);
    for command in [&["token", "create", "--name", "late"][..], &["drill", "shop", "--to", "west"]] {
        let refused = world.operator(command);
        println!("said about {command:?}: {}", said_by(&refused));
        check_failed(&refused, &["full"], &[]);
    }
    assert!(world.status().is_some(), "what is known can be asked for");
    orders.wait_for_more_at(east, PATIENCE);

    world.disk().free();
    let begun = Begun::new(&world, &Kind::Drill.command(Site::West));
    begun.wait_begun(&world, "choose");
    world.disk().fill();
    std::thread::sleep(Duration::from_secs(3));
    orders.wait_for_more_at(east, PATIENCE);
    world.disk().free();
    begun.wait_done(&world);
    wait_no_problem(&world);
    let applied = said_by(&world.operator(&["app", "show", "shop"]));
    assert!(applied.contains("\"2s\"") && !applied.contains("\"3s\""), "the refused file counts: {applied}");
    world.expect(&["switchover", "shop", "--yes", "--to", "west"]);
    orders.wait_for_more_at(west, PATIENCE);
    assert!(orders.check_all_in(west) > 40);
}

/// Waits until a run waits for its operator, who is told how to go on, and returns what a step of it failed with.
#[track_caller]
fn wait_failed(run: &Begun, world: &World, step: &str) -> String {
    let said = poll(PATIENCE, || {
        let state = run.state(world);
        let failure = state["steps"][step]["failure"]["message"].as_str().unwrap_or_default().to_string();
        (state["state"] == "blocked").then_some(failure)
    });
    let said = said.unwrap_or_else(|| panic!("{step} has not failed: {:#}\n{}", run.state(world), world.log_tails()));
    println!("said about {step}: {said}");
    // Whoever follows the run is told so at once, and what to do.
    let watched = world.operator(&["run", "watch", &run.id]);
    assert_eq!(watched.status.code(), Some(4), "{}", said_by(&watched));
    let advice = format!("levee run retry {} {step}", run.id);
    assert!(said_by(&watched).contains(&advice), "{advice} is not in: {}", said_by(&watched));
    said
}

/// Tells the run that its operator has made room, and waits until it is done.
#[track_caller]
fn retry(run: &Begun, world: &World, step: &str) {
    let retried = world.operator(&["run", "retry", &run.id, step]);
    assert!(retried.status.success(), "{}", said_by(&retried));
    run.wait_done(world);
}

/// The names of what lies in a folder.
fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// What the agent at the source keeps is little, and only a change of it needs room.
#[test]
fn a_full_disk_of_the_agent_at_the_source_holds_up_no_database_and_a_switchover_goes_on_when_there_is_room() {
    if !SmallDisk::is_possible() {
        return;
    }
    let disk = Some((Process::Agent(Site::East), DISK_MIB));
    let world = World::protected_with(Setup { small_disk: disk, ..Setup::default() });
    let orders = Orders::start(world.databases());
    let (east, west) = (world.database(Site::East), world.database(Site::West));
    orders.wait_for_more_at(east, PATIENCE);

    world.disk().fill();
    let own = world.shop_folder(Site::East);
    let state = own.join("state.json");
    let before = fs::read(&state).unwrap();
    let run = Begun::new(&world, &Kind::Switchover.command(Site::West));
    let said = wait_failed(&run, &world, "stop");
    for words in [&*state.to_string_lossy(), "No space left on device", "make room"] {
        assert!(said.contains(words), "{words:?} is not in: {said}");
    }
    // Nothing has been stopped, and no half of a file takes the place of a whole one.
    orders.wait_for_more_at(east, PATIENCE);
    assert_eq!(fs::read(&state).unwrap(), before);
    assert!(!names_in(&own).iter().any(|name| name.ends_with(".tmp")), "{:?}", names_in(&own));

    world.disk().free();
    retry(&run, &world, "stop");
    orders.wait_for_more_at(west, PATIENCE);
    assert!(orders.check_all_in(west) > 40);
}

/// The database of the recovery site is to live on another disk than the agent's, and that one is full.
#[test]
fn a_failover_to_a_full_disk_leaves_nothing_that_looks_whole_and_goes_on_when_there_is_room() {
    if !SmallDisk::is_possible() {
        return;
    }
    let mut world = World::set_up(Setup::default());
    let live = world.folder(Site::West).join("live");
    fs::create_dir(&live).unwrap();
    let disk = SmallDisk::mount(&live, DISK_MIB);
    disk.fill();
    let place = |path: &Path| format!("data_directory = {path:?}");
    let (usual, own) = (place(&world.folder(Site::West).join("postgres")), place(&live.join("postgres")));
    let file = world.protection_file();
    assert!(file.contains(&usual), "{file}");
    world.apply(&file.replace(&usual, &own));
    world.wait_protected(Site::East);
    // It is said while there is time.
    let said = wait_problem(&world, &["no room here", "live/postgres", "Make room"]);
    println!("said about the database: {said}");
    let orders = Orders::start(world.databases());
    orders.wait_for_more_at(world.database(Site::East), PATIENCE);

    world.lose(Site::East, true);
    let run = Begun::new(&world, &["failover", "shop", "--to", "west", "--old-site-is-down"]);
    let said = wait_failed(&run, &world, "rebuild-orders");
    for words in ["live/postgres", "No space left on device"] {
        assert!(said.contains(words), "{words:?} is not in: {said}");
    }
    assert!(!live.join("postgres").exists(), "{:?}", names_in(&live));

    disk.free();
    retry(&run, &world, "rebuild-orders");
    let west = world.database(Site::West);
    orders.wait_for_more_at(west, PATIENCE);
    assert!(orders.check_all_in(west) > 20);
    let left = names_in(&live);
    assert!(!left.iter().any(|name| name.contains("levee-restore")), "{left:?}");
}
