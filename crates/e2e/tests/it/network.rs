//! The sites in networks of their own, cut off from each other and from the server.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use levee_testing::netns::Net;
use levee_testing::process::output;
use levee_testing::wait::wait_until;

use super::orders::Orders;
use super::repository::{BASES, count};
use super::status::{self, wait_caught_up, wait_problem};
use super::world::{PATIENCE, Process, Setup, Site, World};

/// A world in which the sites can be cut off; `None` where the machine gives no such networks.
fn networked(slot_bound: &'static str) -> Option<World> {
    if !Net::is_possible() {
        return None;
    }
    let world = World::set_up(Setup {
        zero_loss: false,
        slot_bound,
        // So that the log that nobody holds back is soon gone.
        settings: vec![("min_wal_size", "32MB"), ("max_wal_size", "32MB")],
        net: Some(Net::new(&["east", "west"])),
        ..Setup::default()
    });
    world.apply(&format!(
        "{}\n[app.shop.objective]\nrecovery_point = \"3s\"\nrecovery_time = \"15m\"\n",
        world.protection_file()
    ));
    world.wait_protected(Site::East);
    Some(world)
}

#[test]
fn the_archive_catches_up_after_a_cut_and_keeps_its_bound_in_a_long_one() {
    let Some(mut world) = networked("48MiB") else { return };
    let east = world.database(Site::East);
    let orders = Orders::start(world.databases());
    orders.wait_for_more_at(east, PATIENCE);

    // A short cut: orders go on, the age is told and grows, and nothing has to be done afterwards.
    world.net().cut_between("east", "west");
    let said = wait_problem(&world, &["east"]);
    println!("said while the link is cut: {said}");
    let aged =
        |age_s: f64| move |world: &World| status::orders(world).is_some_and(|a| a["age_s"].as_f64() > Some(age_s));
    wait_until("an age above the objective", PATIENCE, || aged(4.0)(&world));
    let text = world.operator(&["status"]);
    assert_eq!(text.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&text.stdout).contains("MISSED"), "{}", String::from_utf8_lossy(&text.stdout));
    wait_until("an age that grows", PATIENCE, || aged(7.0)(&world));
    orders.wait_for_more_at(east, PATIENCE);
    world.net().restore_between("east", "west");
    wait_caught_up(&mut world);
    assert_eq!(world.cluster().psql("select count(*) from pg_replication_slots where not active"), "0");

    // A long cut: the slot holds back no more than its bound, and orders never stop.
    world.net().cut_between("east", "west");
    wait_problem(&world, &["east"]);
    for _ in 0..6 {
        world.cluster().switch_wal();
        orders.wait_for_more_at(east, PATIENCE);
    }
    wait_until("the slot to be dropped", PATIENCE, || {
        world.cluster().psql("select count(*) from pg_replication_slots") == "0"
    });
    for _ in 0..3 {
        world.cluster().switch_wal();
        orders.wait_for_more_at(east, PATIENCE);
        world.cluster().psql("checkpoint");
    }
    let kept = world.cluster().psql("select sum(size) from pg_ls_waldir()");
    assert!(kept.parse::<u64>().unwrap() <= 80 << 20, "the source keeps {kept} bytes of log");
    let said = wait_problem(&world, &["bound"]);
    println!("said when the slot was dropped: {said}");
    let bases = count(&world, BASES);
    world.net().restore_between("east", "west");
    let said = wait_problem(&world, &["gap", "removed"]);
    println!("said about the gap: {said}");
    wait_until("a new base", PATIENCE, || count(&world, BASES) > bases);
    wait_caught_up(&mut world);
    orders.wait_for_more_at(east, PATIENCE);

    // No order is missing at the other site.
    let (acknowledged, _) = (orders.acknowledged().len(), drop(orders));
    wait_caught_up(&mut world);
    world.expect(&["drill", "shop", "--to", "west"]);
    world.expect(&["switchover", "shop", "--yes", "--to", "west"]);
    let present = levee_testing::postgres::Session::open(world.database(Site::West), "shop", "shop")
        .and_then(|mut session| session.query("select count(*) from orders"))
        .unwrap();
    assert!(present.values[0].parse::<usize>().unwrap() >= acknowledged, "{:?} of {acknowledged}", present.values);
}

/// The address that a site's own node gives for the shop's name to a client at that site.
fn ask_node(world: &World, site: Site) -> Option<Ipv4Addr> {
    let place = world.agent_place(site);
    let name: String =
        ["shop", "example", "test"].iter().map(|label| format!("\\x{:02x}{label}", label.len())).collect();
    let question =
        format!("\\x12\\x67\\x00\\x00\\x00\\x01\\x00\\x00\\x00\\x00\\x00\\x00{name}\\x00\\x00\\x01\\x00\\x01");
    let script = format!(
        "exec 3<>/dev/udp/{}/{}; printf '{question}' >&3; timeout 2 dd bs=512 count=1 <&3 2>/dev/null",
        place.address, place.dns_port
    );
    let packet = output(world.net().command(site.name(), "bash").args(["-c", &script])).stdout;
    // One answer of an address record without EDNS is the end of the packet.
    let has_answer = packet.len() > 16 && packet[..2] == [0x12, 0x67] && packet[6..8] == [0, 1];
    has_answer.then(|| <[u8; 4]>::try_from(&packet[packet.len() - 4..]).unwrap().into())
}

#[test]
fn a_node_that_is_cut_off_never_sends_clients_to_a_second_writer() {
    let Some(mut world) = networked("1GiB") else { return };
    let address = |site: Site| match world.database(site) {
        SocketAddr::V4(address) => Some(*address.ip()),
        SocketAddr::V6(_) => None,
    };
    let (east, west) = (address(Site::East), address(Site::West));
    for site in [Site::East, Site::West] {
        wait_until("both nodes to answer east", PATIENCE, || ask_node(&world, site) == east);
    }
    let orders = Orders::start(world.databases());
    orders.wait_for_more_at(world.database(Site::East), PATIENCE);
    drop(orders);
    wait_caught_up(&mut world);

    // East may still write, also where nobody else can see it.
    world.net().cut("east");
    world.wait_connected(Site::East, false);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(ask_node(&world, Site::East), east, "loss of the control plane withdraws no answer");
    let refused = world.operator(&["failover", "shop", "--yes", "--to", "west"]);
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(ask_node(&world, Site::West), east);

    // Its database is stopped for good; its agent goes on and has not heard of it.
    world.stop_source();
    world.expect(&["failover", "shop", "--to", "west", "--old-site-is-down"]);
    assert_eq!(ask_node(&world, Site::West), west);
    let status = world.status().unwrap();
    assert_eq!(status["writer"], "west");
    assert!(status["entries"].to_string().contains("east-1"), "the node that has not confirmed is named: {status:#}");
    assert_eq!(ask_node(&world, Site::East), east, "it knows nothing better, and nobody writes there");

    // From when it has learned, never again: not cut off, and not started anew while cut off.
    world.net().restore("east");
    wait_until("east's node to learn", PATIENCE, || ask_node(&world, Site::East) == west);
    world.net().cut("east");
    world.kill(Process::Agent(Site::East));
    world.start(Process::Agent(Site::East));
    for _ in 0..20 {
        assert_eq!(ask_node(&world, Site::East), west);
        std::thread::sleep(Duration::from_millis(100));
    }
    world.net().restore("east");
    world.wait_protected(Site::West);
    assert_eq!((ask_node(&world, Site::East), ask_node(&world, Site::West)), (west, west));
}
