//! With zero loss, no order that was acknowledged is ever missing.

use std::time::{Duration, Instant};

use levee_testing::netns::Net;
use levee_testing::wait::wait_until;

use super::orders::Orders;
use super::seed::Moments;
use super::world::{PATIENCE, Process, Setup, Site, World};
use super::writers::WriterWatch;

/// How often a site is lost when `LEVEE_E2E_KILLS` says nothing.
const KILLS: usize = 2;
/// The longest that orders are taken before the kill.
const LOAD_MS_MAX: u64 = 1500;
/// The same for the link between the sites, which is cut.
const CUTS: usize = 3;
/// A cut lasts for so long, and for at most `CUT_MORE_MS_MAX` more. Clients take an outcome for unknown after 5 s.
const CUT_MIN: Duration = Duration::from_millis(500);
const CUT_MORE_MS_MAX: u64 = 2500;
/// What the other site had stored when the link was cut is acknowledged within this time, also on a busy machine.
const UNDER_WAY: Duration = Duration::from_millis(500);
/// As many as there are clients, each with one order under way.
const UNDER_WAY_MAX: usize = 4;

/// How often something fails, where the environment says it.
fn given() -> Option<usize> {
    std::env::var("LEVEE_E2E_KILLS").ok().and_then(|text| text.parse().ok())
}

/// Everything at the writing site is killed in the middle of the load, the shop is brought back at the
/// other, the lost site returns as its recovery, and so on, to and fro.
#[test]
fn no_acknowledged_order_is_lost_with_a_site() {
    let kills = given().unwrap_or(KILLS);
    let mut moments = Moments::new();
    let mut world = World::protected();
    let watch = WriterWatch::start(world.databases());
    let orders = Orders::start(world.databases());
    let (started, mut longest) = (Instant::now(), Duration::ZERO);
    let mut writer = Site::East;
    for kill in 1..=kills {
        let (from, to) = (world.database(writer), world.database(writer.other()));
        orders.wait_for_more_at(from, PATIENCE);
        std::thread::sleep(moments.up_to(LOAD_MS_MAX));
        world.lose(writer, moments.coin());
        let killed = Instant::now();
        let before = orders.acknowledged().len();
        let to_name = writer.other().name();
        world.expect(&["failover", "shop", "--to", to_name, "--old-site-is-down"]);
        let took = killed.elapsed();
        longest = longest.max(took);
        orders.check_all_in(to);
        // The lost site returns: its agent alone, for its database must not start.
        remove_set_aside(&world, writer);
        world.start(Process::Agent(writer));
        writer = writer.other();
        world.wait_protected(writer);
        let acknowledged = orders.check_all_in(to);
        println!("kill {kill}: {before} orders acknowledged before it, back after {:.1} s", took.as_secs_f64());
        assert!(acknowledged >= before);
    }
    orders.wait_for_more_at(world.database(writer), PATIENCE);
    let acknowledged = orders.check_all_in(world.database(writer));
    watch.check();
    println!(
        "{kills} kills in {:.0} s: {acknowledged} orders acknowledged, 0 lost; the longest failover took {:.1} s",
        started.elapsed().as_secs_f64(),
        longest.as_secs_f64()
    );
}

/// The link between the sites is cut and healed in the middle of the load, again and again, and then the site is lost.
/// What commits while the link is cut waits for it.
#[test]
fn no_acknowledged_order_is_lost_with_a_site_whose_link_had_failed() {
    if !Net::is_possible() {
        return;
    }
    let cuts = given().unwrap_or(CUTS);
    let mut moments = Moments::new();
    let net = Some(Net::new(&["east", "west"]));
    let mut world = World::protected_with(Setup { net, ..Setup::default() });
    let (east, west) = (world.database(Site::East), world.database(Site::West));
    let watch = WriterWatch::start(world.databases());
    let orders = Orders::start(world.databases());
    for cut in 1..=cuts {
        orders.wait_for_more_at(east, PATIENCE);
        std::thread::sleep(moments.up_to(LOAD_MS_MAX));
        world.net().cut_between("east", "west");
        let at_cut = orders.count_at(east);
        let waiting = "select count(*) > 0 from pg_stat_activity where wait_event = 'SyncRep'";
        wait_until("commits to wait", PATIENCE, || world.cluster().psql(waiting) == "t");
        // What was acknowledged before the cut is counted once its client comes to it.
        let mut before = orders.count_at(east);
        wait_until("the last orders to be counted", PATIENCE, || {
            std::thread::sleep(UNDER_WAY);
            std::mem::replace(&mut before, orders.count_at(east)) == before
        });
        assert!(before - at_cut <= UNDER_WAY_MAX, "{} orders were acknowledged over a cut link", before - at_cut);
        let lasts = CUT_MIN + moments.up_to(CUT_MORE_MS_MAX);
        std::thread::sleep(lasts);
        assert_eq!(orders.count_at(east), before, "orders were acknowledged in {lasts:?} of a cut link");
        assert_eq!(world.cluster().psql(waiting), "t", "commits gave up waiting");

        world.net().restore_between("east", "west");
        let healed = Instant::now();
        orders.wait_for_more_at(east, PATIENCE);
        let waited = healed.elapsed().as_secs_f64();
        println!("cut {cut}: {before} orders acknowledged before it, none in {lasts:?}, on again after {waited:.1} s");
    }
    std::thread::sleep(moments.up_to(LOAD_MS_MAX));
    world.lose(Site::East, moments.coin());
    world.expect(&["failover", "shop", "--to", "west", "--old-site-is-down"]);
    orders.check_all_in(west);
    orders.wait_for_more_at(west, PATIENCE);
    let acknowledged = orders.check_all_in(west);
    watch.check();
    println!("{cuts} cuts and a kill: {acknowledged} orders acknowledged, 0 lost");
}

/// Frees the disk of what earlier returns have set aside, as an operator would in the end.
fn remove_set_aside(world: &World, site: Site) {
    let entries = std::fs::read_dir(world.folder(site)).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        if ["postgres.", "documents."].iter().any(|prefix| name.starts_with(prefix)) {
            std::fs::remove_dir_all(entry.path()).expect("nobody uses what was set aside");
        }
    }
}
