//! A failover from a site whose database had crashed, and whose agent is there to be asked.

use levee_testing::postgres::Session;

use super::orders::Orders;
use super::runs::Begun;
use super::world::{PATIENCE, Setup, Site, World};
use super::writers::WriterWatch;

#[test]
fn a_failover_from_a_crashed_database_says_what_it_leaves_and_never_starts_it() {
    let mut world = World::protected_with(Setup { zero_loss: false, ..Setup::default() });
    let (east, west) = (world.database(Site::East), world.database(Site::West));
    let watch = WriterWatch::start(world.databases());
    let orders = Orders::start(world.databases());
    orders.wait_for_more_at(east, PATIENCE);
    world.stop_source();

    let run = Begun::new(&world, &["failover", "shop", "--yes", "--to", "west"]);
    let ended = run.wait_done(&world);
    assert_eq!(ended.retries, 0);
    let state = run.state(&world);
    let note = state["steps"]["stop"]["outcome"]["note"].as_str().unwrap_or_default();
    for words in ["not everything was sent from east", "orders", "did not stop cleanly", "in production"] {
        assert!(note.contains(words), "{words:?} is not in {note}\n{state:#}");
    }
    let left = &state["facts"]["left"];
    assert_eq!(left["orders"]["kept_in"].as_str(), world.folder(Site::East).join("postgres").to_str());
    assert!(left["orders"]["ends_at"].is_null() && left["orders"]["sent"].is_object(), "{left:#}");
    // The link is up: the folder's last changes are not left.
    assert!(left["documents"].is_null(), "{left:#}");
    println!("the stop took {} s", state["steps"]["stop"]["seconds"]);
    orders.wait_for_more_at(west, PATIENCE);
    assert!(Session::open(east, "shop", "shop").is_err(), "the crashed database runs");
    world.wait_protected(Site::West);
    orders.wait_for_more_at(west, PATIENCE);
    watch.check();
}
