//! A drill leaves nothing behind, whatever happens in the middle of it.

use levee_testing::wait::{poll, wait_until};

use super::orders::Orders;
use super::runs::{Begun, Kind};
use super::traces::{KEPT_BY_DRILLS, Traces};
use super::world::{PATIENCE, Process, Site, World};

#[test]
fn a_drill_leaves_nothing_behind_also_when_its_agent_is_killed() {
    let mut world = World::protected();
    let orders = Orders::start(world.databases());
    let before = Traces::of(&world, Site::West);
    let runs = world.shop_folder(Site::West).join("runs");
    for killed_at in [None, Some("rebuild-orders"), Some("start-orders"), Some("probe-orders"), Some("clean-up")] {
        // An agent that was just started says what it has when it has opened it.
        world.wait_protected(Site::East);
        let run = Begun::new(&world, &Kind::Drill.command(Site::West));
        if let Some(step) = killed_at {
            run.wait_begun(&world, step);
            world.kill(Process::Agent(Site::West));
            world.start(Process::Agent(Site::West));
        }
        let ended = wait_ended(&run, &world);
        println!("drill killed at {killed_at:?}: {ended}");
        assert!(killed_at.is_some() || ended == "done", "an undisturbed drill is {ended}\n{}", world.log_tails());
        Traces::check_nothing_left(&world, Site::West, &before, &KEPT_BY_DRILLS);
        let left: Vec<_> = std::fs::read_dir(&runs).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    // The age that is shown is that of the log, not that of the base, which is older by all these drills.
    wait_until("the age of what arrives all the time", PATIENCE, || {
        let status = world.status().unwrap_or_default();
        let mut assets = status["assets"].as_array().into_iter().flatten();
        assets.any(|asset| asset["asset"] == "orders" && asset["age_s"].as_f64().is_some_and(|age_s| age_s < 3.0))
    });
    // The shop itself has noticed nothing.
    orders.wait_for_more_at(world.database(Site::East), PATIENCE);
    orders.check_all_in(world.database(Site::East));
}

/// The state in which a drill has ended: it may fail when its agent is killed, but not stay open.
#[track_caller]
fn wait_ended(run: &Begun, world: &World) -> String {
    let state = poll(PATIENCE, || {
        let state = run.state(world)["state"].as_str()?.to_string();
        ["done", "failed", "aborted"].contains(&state.as_str()).then_some(state)
    });
    state.unwrap_or_else(|| panic!("the drill did not end: {:#}\n{}", run.state(world), world.log_tails()))
}
