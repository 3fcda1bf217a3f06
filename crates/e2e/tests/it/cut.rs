//! Runs while the link between the sites is cut, and the server reaches both.

use std::fs;
use std::time::{Duration, Instant};

use levee_testing::netns::Net;
use levee_testing::postgres::Session;

use super::orders::Orders;
use super::runs::Begun;
use super::world::{PATIENCE, Setup, Site, World};
use super::writers::WriterWatch;

/// A failover must not wait for a link that is cut; on a busy machine everything takes its time.
const FAILOVER_MAX: Duration = Duration::from_secs(90);

#[test]
fn a_failover_over_a_cut_link_names_what_it_leaves_and_goes_on() {
    if !Net::is_possible() {
        return;
    }
    let net = Some(Net::new(&["east", "west"]));
    let world = World::protected_with(Setup { zero_loss: false, net, ..Setup::default() });
    let (east, west) = (world.database(Site::East), world.database(Site::West));
    let watch = WriterWatch::start(world.databases());
    let orders = Orders::start(world.databases());
    orders.wait_for_more_at(east, PATIENCE);
    world.net().cut_between("east", "west");
    orders.wait_for_more_at(east, PATIENCE);

    // The plan says it beforehand.
    let plan = world.expect(&["failover", "shop", "--yes", "--to", "west", "--dry-run"]);
    let warnings = plan["warnings"].to_string();
    assert!(warnings.contains("stays there and is lost here"), "{warnings}");
    let id = plan["id"].as_str().unwrap();
    let begun = Instant::now();
    let run = Begun::new(&world, &["failover", "shop", "--yes", "--to", "west", "--plan", &id[..12]]);
    let ended = run.wait_done(&world);
    assert_eq!(ended.retries, 0);
    assert!(begun.elapsed() < FAILOVER_MAX, "it took {:?}", begun.elapsed());
    let state = run.state(&world);
    let note = state["steps"]["stop"]["outcome"]["note"].as_str().unwrap_or_default();
    println!("after {:.1} s: {note}", begun.elapsed().as_secs_f64());
    for words in ["not everything was sent from east", "bytes of log", "west-1", "documents"] {
        assert!(note.contains(words), "{words:?} is not in {note}");
    }
    let left = &state["facts"]["left"]["orders"];
    let kept_in = world.folder(Site::East).join("postgres");
    assert_eq!(left["kept_in"].as_str(), kept_in.to_str());
    assert!(left["ends_at"]["lsn"].is_string(), "{left:#}");
    for (step, record) in state["steps"].as_object().unwrap() {
        println!("  {step}: {} s", record["seconds"]);
    }
    // What was acknowledged at east after the cut is the loss, and nothing from before it.
    orders.wait_for_more_at(west, PATIENCE);
    assert!(Session::open(east, "shop", "shop").is_err(), "the old database runs");

    // The old site comes back into reach: its log is set aside as it is, and the app is protected there.
    world.net().restore_between("east", "west");
    world.wait_protected(Site::West);
    let entries = fs::read_dir(world.folder(Site::East)).unwrap().flatten().map(|entry| entry.path());
    let aside: Vec<_> =
        entries.filter(|path| path.to_string_lossy().contains("postgres.set-aside-") && path.is_dir()).collect();
    assert_eq!(aside.len(), 1, "{aside:?}\n{}", world.log_tails());
    assert!(aside[0].join("pg_wal").is_dir() && !aside[0].join("postmaster.pid").exists());
    let status = world.operator(&["status"]).stdout;
    let status = String::from_utf8_lossy(&status);
    let told = format!("old data at east, which may hold what was never sent: {}", aside[0].display());
    assert!(status.contains(&told), "{told:?} is not in {status}");
    orders.wait_for_more_at(west, PATIENCE);
    watch.check();
}
