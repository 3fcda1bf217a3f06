//! A copy that an aborted switchover has staged, and a failover whose plan knows nothing of it.

use std::fs;

use levee_testing::wait::wait_until;

use super::runs::{Begun, Kind};
use super::world::{PATIENCE, Site, World};

#[test]
fn a_rebuild_that_finds_a_staged_copy_takes_in_what_came_since() {
    let world = World::protected();
    let plan = world.expect(&["failover", "shop", "--yes", "--to", "west", "--dry-run"]);
    assert!(plan.to_string().contains("rebuild-documents"), "{plan}");
    let id = plan["id"].as_str().expect("a plan has an id");

    let switchover = Begun::new(&world, &Kind::Switchover.command(Site::West));
    switchover.wait_begun(&world, "close");
    world.expect(&["run", "abort", &switchover.id]);
    wait_until("the switchover to be aborted", PATIENCE, || switchover.state(&world)["state"] == "aborted");
    world.wait_protected(Site::East);

    // Only the last copy, which the stop makes, has it.
    fs::write(world.folder(Site::East).join("documents/late.txt"), "late").expect("our own folder");
    Begun::new(&world, &["failover", "shop", "--yes", "--to", "west", "--plan", id]).wait_done(&world);
    let late = fs::read_to_string(world.folder(Site::West).join("documents/late.txt"));
    assert_eq!(late.ok().as_deref(), Some("late"), "what was staged before the run is all that is there");
}
