//! With zero loss, no order that was acknowledged is ever missing.

use std::time::{Duration, Instant};

use super::orders::Orders;
use super::seed::Moments;
use super::world::{PATIENCE, Process, Site, World};
use super::writers::WriterWatch;

/// How often a site is lost when `LEVEE_E2E_KILLS` says nothing.
const KILLS: usize = 2;
/// The longest that orders are taken before the kill.
const LOAD_MS_MAX: u64 = 1500;

/// Everything at the writing site is killed in the middle of the load, the shop is brought back at the
/// other, the lost site returns as its recovery, and so on, to and fro.
#[test]
fn no_acknowledged_order_is_lost_with_a_site() {
    let kills = std::env::var("LEVEE_E2E_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS);
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
