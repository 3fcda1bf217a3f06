//! A copy that an aborted switchover has staged, and a failover whose plan knows nothing of it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use levee_testing::wait::wait_until;

use super::orders::Orders;
use super::runs::{Begun, Kind};
use super::status::wait_caught_up;
use super::world::{PATIENCE, Process, Site, World};

/// A file that is all hole, and what of it may be on the disk.
const SPARSE_BYTES: u64 = 64 << 20;
const SPARSE_STORED_BYTES_MAX: u64 = 1 << 20;
/// Neither what a new file has nor what one has while it is restored.
const EARLY_MODE: u32 = 0o640;
/// More than what a switchover still calls close.
const TOO_OLD: Duration = Duration::from_secs(6);

#[test]
fn a_rebuild_that_finds_a_staged_copy_takes_in_what_came_since() {
    let mut world = World::protected();
    let documents = world.folder(Site::East).join("documents");
    fs::write(documents.join("cut.txt"), "written whole").expect("our own folder");
    // The staging has most likely restored this one by the time of the failover, which takes in another.
    make_sparse(&documents.join("early.img"));
    let plan = world.expect(&["failover", "shop", "--yes", "--to", "west", "--dry-run"]);
    assert!(plan.to_string().contains("rebuild-documents"), "{plan}");
    let id = plan["id"].as_str().expect("a plan has an id");

    let switchover = Begun::new(&world, &Kind::Switchover.command(Site::West));
    switchover.wait_begun(&world, "close");
    world.expect(&["run", "abort", &switchover.id]);
    wait_until("the switchover to be aborted", PATIENCE, || switchover.state(&world)["state"] == "aborted");
    world.wait_protected(Site::East);

    // As a power cut leaves a file: its size and time are those of the copy that was being taken in, and its content is not.
    world.kill(Process::Agent(Site::West));
    let cut = world.folder(Site::West).join("documents/cut.txt");
    let changed = fs::metadata(&cut).and_then(|metadata| metadata.modified()).expect("it was staged");
    fs::write(&cut, [0; "written whole".len()]).expect("our own file");
    fs::File::options().write(true).open(&cut).and_then(|file| file.set_modified(changed)).expect("our own file");
    fs::write(world.agent_place(Site::West).folder.join("apps/shop/unsettled-documents"), "another boot\n").unwrap();
    world.start(Process::Agent(Site::West));
    world.wait_protected(Site::East);

    // Only the last copy, which the stop makes, has it.
    fs::write(documents.join("late.txt"), "late").expect("our own folder");
    make_sparse(&documents.join("late.img"));
    // It changes neither the size nor the time by which files are known to be alike.
    fs::set_permissions(documents.join("early.img"), fs::Permissions::from_mode(EARLY_MODE)).expect("our own file");
    Begun::new(&world, &["failover", "shop", "--yes", "--to", "west", "--plan", id]).wait_done(&world);
    let late = fs::read_to_string(world.folder(Site::West).join("documents/late.txt"));
    assert_eq!(late.ok().as_deref(), Some("late"), "what was staged before the run is all that is there");
    let early = fs::metadata(world.folder(Site::West).join("documents/early.img")).unwrap();
    assert_eq!(early.mode() & 0o7777, EARLY_MODE, "whom a file is closed to, it is closed to there as well");
    assert_eq!(fs::read_to_string(&cut).unwrap(), "written whole", "size and time were trusted after a restart");
    for name in ["early.img", "late.img"] {
        let restored = fs::metadata(world.folder(Site::West).join("documents").join(name)).unwrap();
        assert_eq!(restored.len(), SPARSE_BYTES, "{name}");
        // `blocks` counts 512 bytes each on any file system.
        let stored_bytes = restored.blocks() * 512;
        assert!(stored_bytes <= SPARSE_STORED_BYTES_MAX, "{name}: {stored_bytes} bytes, so that the hole was filled");
    }
}

fn make_sparse(path: &Path) {
    fs::File::create(path).unwrap().set_len(SPARSE_BYTES).unwrap();
}

/// A standby that has been staged and does not start any more: nobody is left to go back to.
#[test]
fn a_failover_rebuilds_a_staged_copy_that_is_broken() {
    let mut world = World::protected();
    let (east, west) = (world.database(Site::East), world.database(Site::West));
    let orders = Orders::start(world.databases());
    orders.wait_for_more_at(east, PATIENCE);
    // Without its source the copy never comes close, so that the run stays before its stop.
    world.kill_databases(Site::East);
    std::thread::sleep(TOO_OLD);
    let switchover = Begun::new(&world, &Kind::Switchover.command(Site::West));
    switchover.wait_begun(&world, "close");
    world.expect(&["run", "abort", &switchover.id]);
    wait_until("the switchover to be aborted", PATIENCE, || switchover.state(&world)["state"] == "aborted");
    assert!(world.start_database(Site::East).status.success());
    orders.wait_for_more_at(east, PATIENCE);
    wait_caught_up(&mut world);

    world.lose(Site::East, true);
    world.kill_databases(Site::West);
    let copy = world.folder(Site::West).join("postgres");
    fs::remove_file(copy.join("global/pg_control")).expect("a standby was staged");
    let failover = Begun::new(&world, &["failover", "shop", "--to", "west", "--old-site-is-down"]);
    let ended = failover.wait_done(&world);
    assert_eq!(ended.retries, 0);
    let run = failover.state(&world);
    assert!(run["steps"]["rebuild-orders"]["outcome"]["done"]["bytes"].as_u64() > Some(0), "{run:#}");
    orders.wait_for_more_at(west, PATIENCE);
    assert!(orders.check_all_in(west) > 40);
    // What was of no use is out of the way, and nothing of it is lost.
    let names = fs::read_dir(world.folder(Site::West)).unwrap().map(|entry| entry.unwrap().file_name());
    let names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    assert!(names.iter().any(|name| name.starts_with("postgres.") && name.contains("aside")), "{names:?}");
    let log = fs::read_to_string(world.log(Process::Agent(Site::West))).unwrap();
    assert!(log.contains("the staged copy is rebuilt"), "{log}");
}
