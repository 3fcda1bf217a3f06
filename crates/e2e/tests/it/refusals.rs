//! What is refused, and how it is said.

use std::process::Output;

use super::runs::{Begun, Kind};
use super::status::{wait_no_problem, wait_problem};
use super::world::{Process, Setup, Site, World};

#[track_caller]
fn check_refused(output: &Output, says: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for text in says {
        assert!(said.contains(text), "{text:?} is not in: {said}");
    }
}

#[test]
fn only_one_run_of_an_app_can_be_under_way() {
    let mut world = World::protected();
    // The old agent is held, so that the run stays where it asks that agent to stop the app.
    world.running(Process::Agent(Site::East)).signal(rustix::process::Signal::STOP);
    let run = Begun::new(&world, &Kind::Failover.command(Site::West));
    run.wait_begun(&world, "stop");
    let second = world.operator(&Kind::Failover.command(Site::West));
    check_refused(&second, &[&run.id, "under way", "levee run watch", "levee run abort"]);
    let drill = world.operator(&Kind::Drill.command(Site::West));
    check_refused(&drill, &[&run.id, "under way"]);
    world.running(Process::Agent(Site::East)).signal(rustix::process::Signal::CONT);
    run.wait_done(&world);
    let again = world.operator(&Kind::Failover.command(Site::West));
    check_refused(&again, &["writes there already"]);
}

#[test]
fn a_failover_needs_a_word_on_the_old_site() {
    let mut world = World::protected();
    world.kill(Process::Agent(Site::East));
    world.wait_connected(Site::East, false);
    let without = world.operator(&Kind::Failover.command(Site::West));
    check_refused(&without, &["--old-site-is-down", "east", "not connected"]);
    check_refused(&world.operator(&Kind::Switchover.command(Site::West)), &["east", "not connected"]);
    check_refused(&world.operator(&["failover", "shop", "--yes", "--to", "north"]), &["north", "east", "west"]);
    check_refused(&world.operator(&["failover", "shelf", "--yes", "--to", "west"]), &["shelf", "levee app list"]);
    // The shop is where it was, and can be brought back there.
    world.start(Process::Agent(Site::East));
    world.wait_protected(Site::East);
}

/// What a failover would stop at is said while there is time.
#[test]
fn a_recovery_site_without_the_databases_programs_is_named_before_it_is_needed() {
    let world = World::set_up(Setup::default());
    let file = world.protection_file();
    let place = "[app.shop.postgres.orders.at.west]\n";
    assert!(file.contains(place), "{file}");
    world.apply(&file.replace(place, &format!("{place}binaries = \"/nowhere\"\n")));
    let said = wait_problem(&world, &["west", "PostgreSQL 15 is not installed here", "/nowhere"]);
    println!("said about the database: {said}");
    assert_eq!(world.operator(&["status"]).status.code(), Some(2));
    world.apply(&file);
    world.wait_protected(Site::East);
    wait_no_problem(&world);
}
