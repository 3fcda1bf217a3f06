//! A source that is promoted in place, so that its log goes on on another timeline.

use std::fs;

use levee_testing::postgres::Stop;
use levee_testing::wait::wait_until;
use serde_json::json;

use super::orders::{self, Orders};
use super::repository::restore_by_hand;
use super::status::{self, wait_caught_up, wait_no_problem};
use super::world::{PATIENCE, Process, Setup, Site, World};

/// Its agent is away meanwhile: what the old timeline has beyond the other site's copy is fetched first.
#[test]
fn a_source_that_was_promoted_while_its_agent_was_away_lacks_nothing_at_the_other_site() {
    let mut world = World::protected_with(Setup { zero_loss: false, ..Setup::default() });
    let (east, west) = (world.database(Site::East), world.database(Site::West));
    let orders = Orders::start(world.databases());
    orders.wait_for_more_at(east, PATIENCE);

    world.kill(Process::Agent(Site::East));
    orders.wait_for_more_at(east, PATIENCE);
    let cluster = world.cluster();
    cluster.psql("select pg_create_restore_point('before_promotion')");
    cluster.set("restore_command", "false");
    cluster.stop(Stop::Immediate);
    fs::write(cluster.data_directory().join("recovery.signal"), "").unwrap();
    cluster.start();
    // It answers while it recovers.
    wait_until("it is promoted", PATIENCE, || cluster.psql("select pg_is_in_recovery()") == "f");
    cluster.psql("checkpoint");
    assert_eq!(cluster.psql("select timeline_id from pg_control_checkpoint()"), "2");
    orders.wait_for_more_at(east, PATIENCE);

    world.start(Process::Agent(Site::East));
    wait_caught_up(&mut world);
    wait_no_problem(&world);
    assert_eq!(status::orders(&world).unwrap()["gaps"], json!([]));
    // The point was on no disk but the source's before, and on its old timeline.
    let target = world.folder(Site::West).join("by-hand");
    let restored = restore_by_hand(&world, &target, &["--name", "before_promotion"]);
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));

    let acknowledged = orders.acknowledged();
    drop(orders);
    wait_caught_up(&mut world);
    world.lose(Site::East, true);
    world.expect(&["failover", "shop", "--to", "west", "--old-site-is-down"]);
    assert!(orders::check_in(&acknowledged, west) >= 60);

    // The other way about: what is left to be done for it can be shown, and followed.
    world.start(Process::Agent(Site::East));
    world.wait_protected(Site::West);
    let shown = world.expect(&["reprotect", "shop", "--dry-run"]);
    assert_eq!((&shown["kind"], &shown["to"]), (&json!("reprotect"), &json!("east")), "{shown}");
    let run = world.expect(&["reprotect", "shop", "--plan", shown["id"].as_str().unwrap()]);
    assert_eq!(run["state"], "done", "{run}");
}
