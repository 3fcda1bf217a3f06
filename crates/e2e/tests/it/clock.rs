//! A machine whose clock is off by an hour.

use std::fs;

use levee_testing::process::output;
use levee_testing::wait::wait_until;

use super::faults::{check_failed, create_token};
use super::orders::Orders;
use super::status;
use super::world::{PATIENCE, Process, Setup, Site, World};

/// What the status says about a site's clock, and whether the app's problems say it as well.
fn wait_named(world: &World, agent: &str, way: &str) {
    let says = |value: &serde_json::Value| {
        let said = value.to_string();
        said.contains(&format!("the clock of agent {agent} is")) && said.contains(way) && said.contains("NTP")
    };
    wait_until(&format!("the clock of {agent} to be named"), PATIENCE, || {
        world.status().is_some_and(|status| says(&status["problems"]))
    });
    assert!(says(&world.expect(&["agent", "list"])));
}

#[test]
fn a_clock_that_is_off_by_an_hour_is_named_and_harms_nothing() {
    let mut world = World::set_up(Setup { source_clock: Some("+3600s"), ..Setup::default() });

    // Nobody joins with it; the token is as good as before.
    let token = create_token(&world, &["--site", "west"]);
    let file = world.root().join("client/late.token");
    fs::write(&file, &token).unwrap();
    let folder = world.root().join("late");
    let join = |world: &World| {
        let mut command = world.command_at(Site::West);
        command.args(["agent", "join", "--name", "late-1", "--folder"]).arg(&folder).arg("--token-file").arg(&file);
        output(&mut command)
    };
    world.set_clock(Site::West, "-3600s");
    check_failed(&join(&world), &["clock", "late-1", "1 h", "NTP", "join again"], &[&token]);
    assert!(!folder.join("agent.json").exists() && !folder.join("identity.pem").exists(), "nothing is half-done");

    // Whole machines are off: the agents', and the source's with its agent's; two hours lie between the sites.
    world.set_clock(Site::East, "+3600s");
    for site in [Site::East, Site::West] {
        world.kill(Process::Agent(site));
        world.start(Process::Agent(site));
    }
    world.apply(&world.protection_file());
    world.wait_protected(Site::East);
    wait_named(&world, "east-1", "ahead of");
    wait_named(&world, "west-1", "behind");
    // Ages are by the source's clock on both ends, and true.
    let orders = Orders::start(world.databases());
    orders.wait_for_more_at(world.database(Site::East), PATIENCE);
    wait_until("a true age", PATIENCE, || {
        status::orders(&world).and_then(|orders| orders["age_s"].as_f64()).is_some_and(|age_s| age_s.abs() < 60.0)
    });
    world.expect(&["drill", "shop", "--to", "west"]);
    // A database whose clock is not its agent's is named as well, since moments are told by the database's.
    world.set_clock(Site::East, "+1800s");
    world.kill(Process::Agent(Site::East));
    world.start(Process::Agent(Site::East));
    status::wait_problem(&world, &["PostgreSQL's clock is", "apart from", "NTP"]);
    world.lose(Site::East, true);
    world.expect(&["failover", "shop", "--to", "west", "--old-site-is-down"]);
    orders.wait_for_more_at(world.database(Site::West), PATIENCE);
    orders.check_all_in(world.database(Site::West));
}
