//! Assets that come into a protection file, or go out of it, while the app is protected.

use std::fs;

use levee_testing::postgres::Stop;
use levee_testing::wait::{poll, wait_until};

use super::queue::folder;
use super::runs::{Begun, Kind};
use super::status::wait_no_problem;
use super::upkeep::{asset, names};
use super::world::{PATIENCE, Process, Setup, Site, World};

#[test]
fn an_asset_that_comes_later_is_protected_and_moves_along_and_one_that_goes_holds_no_move_up() {
    let world = World::protected_with(Setup { zero_loss: false, ..Setup::default() });
    let plain = world.protection_file();
    let music = folder(&world, "shop", "music", "2s", b"a song");
    let with_music = format!("{plain}{music}");
    world.apply(&with_music);
    wait_until("the new folder to be protected", PATIENCE, || {
        asset(&world, "music").is_some_and(|asset| asset["protected"] == true)
    });

    Begun::new(&world, &Kind::Switchover.command(Site::West)).wait_done(&world);
    let song = |world: &World, site: Site| fs::read(world.folder(site).join("music/1.txt")).ok();
    assert_eq!(song(&world, Site::West).as_deref(), Some(&b"a song"[..]));
    world.wait_protected(Site::West);

    // Named no more, it stays where it is, and nothing waits for it.
    world.apply(&plain);
    wait_until("the folder to be given up", PATIENCE, || asset(&world, "music").is_none());
    Begun::new(&world, &Kind::Switchover.command(Site::East)).wait_done(&world);
    world.wait_protected(Site::East);
    assert_eq!(song(&world, Site::West).as_deref(), Some(&b"a song"[..]), "what is no asset any more was touched");
    wait_no_problem(&world);

    // And named again, where its newest data were left out of two moves: the one at home is what is protected now.
    let home = world.folder(Site::East).join("music");
    fs::create_dir_all(&home).unwrap();
    fs::write(home.join("1.txt"), b"another song").unwrap();
    world.apply(&with_music);
    wait_until("the folder to be protected again", PATIENCE, || {
        asset(&world, "music").is_some_and(|asset| asset["protected"] == true)
    });
}

/// A protection file without the shop's database.
fn without_orders(file: &str) -> String {
    without(file, "[app.shop.postgres.orders")
}

/// A protection file without the tables whose headings begin like this.
pub fn without(file: &str, heading: &str) -> String {
    let mut is_left_out = false;
    let keep = |line: &&str| {
        if line.starts_with('[') {
            is_left_out = line.starts_with(heading);
        }
        !is_left_out
    };
    file.lines().filter(keep).map(|line| format!("{line}\n")).collect()
}

/// Waits until the problems of the shop's folder, which stays in the file, are like this.
#[track_caller]
fn wait_folder_says(world: &World, test: impl Fn(&str) -> bool) {
    let mut last = None;
    let said = poll(PATIENCE, || {
        last = Some(asset(world, "documents")?["problems"].to_string());
        last.as_deref().is_some_and(&test).then_some(())
    });
    assert!(said.is_some(), "it is {last:?}\n{}", world.log_tails());
}

#[test]
fn a_database_that_goes_leaves_no_slot_behind_also_when_it_is_down() {
    let mut world = World::protected_with(Setup { zero_loss: false, ..Setup::default() });
    let file = world.protection_file();
    let slots = |world: &mut World| world.cluster().psql("select count(*) from pg_replication_slots");
    assert_eq!(slots(&mut world), "1");
    world.cluster().stop(Stop::Fast);
    world.apply(&without_orders(&file));
    let is_said = |said: &str| said.contains("levee_shop_orders") && said.contains("orders, which the protection file");
    wait_folder_says(&world, is_said);
    // It is known over a restart of the agent, which is told nothing of that database any more.
    world.kill(Process::Agent(Site::East));
    world.start(Process::Agent(Site::East));
    world.wait_connected(Site::East, true);
    world.cluster().start();
    wait_until("the slot to be dropped", PATIENCE, || slots(&mut world) == "0");
    wait_folder_says(&world, |said| said == "[]");
    world.wait_protected(Site::East);

    // Named again it is protected as before.
    world.apply(&file);
    wait_until("the database to be protected again", PATIENCE, || {
        asset(&world, "orders").is_some_and(|orders| orders["protected"] == true)
    });
    wait_until("a slot", PATIENCE, || slots(&mut world) == "1");
}

#[test]
fn a_staged_standby_of_a_database_that_goes_is_stopped_and_counts_as_old_data_when_it_is_named_again() {
    let world = World::protected_with(Setup { zero_loss: false, ..Setup::default() });
    let file = world.protection_file();
    let switchover = Begun::new(&world, &Kind::Switchover.command(Site::West));
    switchover.wait_begun(&world, "close");
    world.expect(&["run", "abort", &switchover.id]);
    wait_until("the switchover to be aborted", PATIENCE, || switchover.state(&world)["state"] == "aborted");
    world.wait_protected(Site::East);
    let standby = world.folder(Site::West).join("postgres");
    assert!(standby.join("postmaster.pid").exists(), "nothing was staged");

    world.apply(&without_orders(&file));
    wait_until("the standby to be stopped", PATIENCE, || !standby.join("postmaster.pid").exists());
    assert!(standby.join("PG_VERSION").exists(), "its data stay");

    world.apply(&file);
    // What west has said of its earlier time may be shown for a moment: a switchover is refused until it is protected anew.
    let switchover = poll(PATIENCE, || Begun::try_new(&world, &Kind::Switchover.command(Site::West)).ok());
    switchover.expect("it is never protected again").wait_done(&world);
    let here = names(&world.folder(Site::West));
    assert!(here.iter().any(|name| name.starts_with("postgres.")), "nothing was set aside: {here:?}");
    world.wait_protected(Site::West);
}

#[test]
fn a_database_whose_commits_wait_for_levee_is_not_taken_out() {
    let mut world = World::protected();
    let refused = world.try_apply(&without_orders(&world.protection_file()));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("`zero_loss = false`"), "{said}");
    world.cluster().psql_in("shop", "insert into orders values (1)");
    assert!(asset(&world, "orders").is_some_and(|orders| orders["protected"] == true));

    // What the refusal says to do.
    let let_go = world.protection_file().replace("zero_loss = true", "zero_loss = false");
    world.apply(&let_go);
    world.cluster().set("synchronous_standby_names", "");
    world.apply(&without_orders(&let_go));
    let slots = "select count(*) from pg_replication_slots";
    wait_until("the slot to be dropped", PATIENCE, || world.cluster().psql(slots) == "0");
    world.cluster().psql_in("shop", "insert into orders values (2)");
}
