//! A server that is away: runs need it, and protection does not.

use std::fs;

use levee_testing::wait::wait_until;

use super::orders::Orders;
use super::repository::{count, restore_by_hand};
use super::status::{wait_caught_up, wait_no_problem};
use super::world::{PATIENCE, Process, Setup, Site, World};

const DOCUMENTS: &str = "levee-files:shop/documents";

#[test]
fn protection_goes_on_while_the_server_is_away() {
    let mut world = World::protected_with(Setup { zero_loss: false, ..Setup::default() });
    let orders = Orders::start(world.databases());
    world.kill(Process::Server);
    // Agents that start meanwhile work by what they know.
    for site in [Site::East, Site::West] {
        world.kill(Process::Agent(site));
        world.start(Process::Agent(site));
        new_data_reach_the_other_site(&mut world, &orders, site.name());
    }
    world.start(Process::Server);
    wait_caught_up(&mut world);
    wait_no_problem(&world);
    drop(orders);
    let drill = world.expect(&["drill", "shop", "--to", "west"]);
    assert_eq!(drill["state"], "done", "{drill:#}");
    // What nobody expects is shown.
    let detail = drill["facts"]["probes"]["orders"]["detail"].as_str().unwrap();
    assert!(detail.contains("\"newest order "), "{detail}");
}

/// `name` is that of a restore point and of a file.
#[track_caller]
fn new_data_reach_the_other_site(world: &mut World, orders: &Orders, name: &str) {
    orders.wait_for_more_at(world.database(Site::East), PATIENCE);
    let copies = count(world, DOCUMENTS);
    fs::write(world.folder(Site::East).join("documents").join(name), name).unwrap();
    let cluster = world.cluster();
    let point = cluster.psql(&format!("select pg_create_restore_point('{name}')"));
    let flushed = format!("select coalesce(bool_or(flush_lsn >= '{point}'), false) from pg_stat_replication");
    wait_until("the log to be at west", PATIENCE, || cluster.psql(&flushed) == "t");
    wait_until("a copy of the documents", PATIENCE, || count(world, DOCUMENTS) > copies);
    // It is in the archive, and not only said to be.
    let target = world.folder(Site::West).join(format!("by-hand-{name}"));
    let restored = restore_by_hand(world, &target, &["--name", name]);
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
}
