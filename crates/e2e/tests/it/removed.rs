//! An app whose protection ends, and begins anew.

use std::time::Duration;

use levee_testing::postgres::Session;
use levee_testing::wait::wait_until;

use super::orders::Orders;
use super::world::{PATIENCE, Setup, Site, World};

#[test]
fn a_removed_app_goes_on_unprotected_and_leaves_no_slot_behind() {
    let mut world = World::set_up(Setup { zero_loss: false, ..Setup::default() });
    let file = world.protection_file();
    world.apply(&file);
    world.wait_protected(Site::East);
    let slots = |world: &mut World| world.cluster().psql("select count(*) from pg_replication_slots");
    assert_eq!(slots(&mut world), "1");
    let unconfirmed = world.operator(&["app", "remove", "shop"]);
    assert_eq!(unconfirmed.status.code(), Some(1), "nobody said yes");

    let orders = Orders::start(world.databases());
    orders.wait_for_more_at(world.database(Site::East), PATIENCE);
    let removal = world.expect(&["app", "remove", "shop", "--yes"]);
    println!("{removal}");
    assert_eq!((&removal["writer"], &removal["unconfirmed"]), (&"east".into(), &serde_json::json!([])));
    let kept = world.folder(Site::East).join("postgres");
    assert!(removal["remains"].to_string().contains(&*kept.to_string_lossy()));
    assert_eq!(slots(&mut world), "0");
    assert!(world.status().is_none(), "it is still shown");
    orders.wait_for_more_at(world.database(Site::East), PATIENCE);
    // The copies at west stay, and nobody takes them for new ones.
    let repository = world.shop_folder(Site::West).join("repository/config");
    assert!(repository.exists() && !world.shop_folder(Site::West).join("state.json").exists());

    // It is protected anew where it lives, above every epoch of before, into the same repository.
    world.apply(&file);
    world.wait_protected(Site::East);
    assert_eq!(world.status().unwrap()["epoch"], 3);
    wait_until("a slot", Duration::from_secs(30), || slots(&mut world) == "1");
    drop(orders);
    world.expect(&["switchover", "shop", "--yes", "--to", "west"]);
    assert!(Session::open(world.database(Site::West), "shop", "shop").is_ok());
}
