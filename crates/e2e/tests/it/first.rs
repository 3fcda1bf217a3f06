//! Processes of Levee that are killed while an app is protected for the first time: the app becomes protected by itself all
//! the same, and there is one recovery kit from the first moment on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use levee_testing::process::run;
use levee_testing::restic;

use super::orders::Orders;
use super::seed::Moments;
use super::upkeep::{names, noise};
use super::world::{PATIENCE, Process, Setup, Site, World};

/// So much more than the small documents that the first copy takes a while.
const LARGE_FILES: usize = 12;
const LARGE_FILE_BYTES: usize = 2 << 20;

/// A kill comes so long after the stage is seen, at most. The stages follow each other closely.
const DELAY_MS_MAX: u64 = 120;
/// Some stages are over within milliseconds.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// What can be seen on the disks when a stage has begun.
type Stage = (&'static str, fn(&World) -> bool);

/// The stages of a first protection, in about this order.
const STAGES: [Stage; 7] = [
    ("the app at the recovery site", |world| west(world, "state.json").exists()),
    ("the writer's key", |world| world.shop_folder(Site::East).join("writer-key-west-1.json").exists()),
    ("the recovery kit", |world| kit(world).is_some()),
    ("the repository", |world| west(world, "repository/config").exists()),
    ("the first of the data", |world| has_files(&west(world, "repository/data"))),
    ("the first of the log", |world| has_files(&west(world, "journal/orders"))),
    ("the first snapshot", |world| has_files(&west(world, "repository/snapshots"))),
];

#[test]
fn the_server_can_be_killed_during_an_apps_first_protection() {
    protect_for_the_first_time(Process::Server);
}

#[test]
fn the_writers_agent_can_be_killed_during_an_apps_first_protection() {
    protect_for_the_first_time(Process::Agent(Site::East));
}

#[test]
fn the_recovery_sites_agent_can_be_killed_during_an_apps_first_protection() {
    protect_for_the_first_time(Process::Agent(Site::West));
}

/// Kills one process at each stage. What is acknowledged meanwhile is safe, although no base backup may be whole yet.
#[track_caller]
fn protect_for_the_first_time(victim: Process) {
    let mut world = World::set_up(Setup::default());
    let mut moments = Moments::new();
    let documents = world.folder(Site::East).join("documents");
    let content = noise(LARGE_FILES * LARGE_FILE_BYTES);
    for (number, part) in content.chunks(LARGE_FILE_BYTES).enumerate() {
        fs::write(documents.join(format!("large-{number}")), part).unwrap();
    }
    world.apply(&world.protection_file());
    // With zero loss none is acknowledged before its log is durable at west.
    let orders = Orders::start(world.databases());
    let mut first_kit: Option<String> = None;
    for (what, has_begun) in STAGES {
        wait_closely(&world, what, has_begun);
        std::thread::sleep(moments.up_to(DELAY_MS_MAX));
        world.kill(victim);
        let kit = kit(&world);
        println!("{victim:?} killed after {what}: kit {}, snapshots {}", kit.is_some(), snapshots(&world));
        check_same_kit(&mut first_kit, kit);
        world.start(victim);
    }
    world.wait_protected(Site::East);
    orders.wait_for_more_at(world.database(Site::East), PATIENCE);
    check_same_kit(&mut first_kit, kit(&world));
    let kit = first_kit.expect("a protected app has a recovery kit");
    check_kits(&world, &kit);

    let acknowledged = orders.check_all_in(world.database(Site::East));
    world.lose(Site::East, true);
    world.expect(&["failover", "shop", "--to", "west", "--old-site-is-down"]);
    assert!(orders.check_all_in(world.database(Site::West)) >= acknowledged);
    for (number, part) in content.chunks(LARGE_FILE_BYTES).enumerate() {
        let restored = world.folder(Site::West).join(format!("documents/large-{number}"));
        assert!(fs::read(&restored).is_ok_and(|content| content == part), "{} is not as it was", restored.display());
    }
    drop(orders);
    // Nobody writes into the repository any more.
    check_repository(&world, &kit);
    println!("{acknowledged} orders acknowledged, 0 lost");
}

/// A file or folder of the shop at west.
fn west(world: &World, name: &str) -> PathBuf {
    world.shop_folder(Site::West).join(name)
}

fn kit(world: &World) -> Option<String> {
    fs::read_to_string(west(world, "recovery-kit.txt")).ok()
}

fn snapshots(world: &World) -> usize {
    names(&west(world, "repository/snapshots")).len()
}

/// Whether there is any file below a folder, at any depth.
fn has_files(folder: &Path) -> bool {
    fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        !is_folder || has_files(&entry.path())
    })
}

#[track_caller]
fn wait_closely(world: &World, what: &str, has_begun: fn(&World) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !has_begun(world) {
        assert!(Instant::now() < deadline, "{what} never came\n{}", world.log_tails());
        std::thread::sleep(LOOK_EVERY);
    }
}

/// An operator may have printed the kit as soon as it was there.
#[track_caller]
fn check_same_kit(first: &mut Option<String>, now: Option<String>) {
    match first {
        // The kit is a secret: it is not shown.
        Some(first) => assert!(now.as_deref() == Some(first.as_str()), "the recovery kit is another one, or gone"),
        None => *first = now,
    }
}

/// There is one kit, at west, and the log is sealed for its identity.
#[track_caller]
fn check_kits(world: &World, kit: &str) {
    let of_kits = |site: Site| {
        let mut names = names(&world.shop_folder(site));
        names.retain(|name| name.contains("recovery-kit"));
        names
    };
    assert_eq!(of_kits(Site::West), ["recovery-kit-recipient", "recovery-kit.txt"], "the identity is in the kit alone");
    assert_eq!(of_kits(Site::East), [""; 0], "the writer has no kit");
    let identity = world.root().join("client/kit-identity");
    fs::write(&identity, of_kit(kit, "age identity")).unwrap();
    let public = run(Command::new("age-keygen").arg("-y").arg(&identity));
    let recipient = fs::read_to_string(west(world, "recovery-kit-recipient")).unwrap();
    assert_eq!(public.trim(), recipient.trim());
}

/// Stock restic opens the repository with the kit's password and with the site's own, and reads all of it.
#[track_caller]
fn check_repository(world: &World, kit: &str) {
    let repository = west(world, "repository");
    let own = fs::read_to_string(west(world, "repository-password")).unwrap();
    for restic in restic::versions() {
        for password in [of_kit(kit, "restic password"), own.trim()] {
            let said = restic.run(&repository, password, &["check", "--read-data", "--no-lock"]);
            assert!(said.contains("no errors were found"), "restic {}: {said}", restic.version());
        }
    }
}

/// What a line of the kit has behind its name.
#[track_caller]
fn of_kit<'a>(kit: &'a str, name: &str) -> &'a str {
    let value = kit.lines().find_map(|line| line.trim().strip_prefix(name));
    value.unwrap_or_else(|| panic!("the kit says nothing of its {name}")).trim()
}
