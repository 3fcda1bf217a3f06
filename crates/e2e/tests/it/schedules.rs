//! Copies by the hour, across processes: one at once, none before its time, and a missed one caught up once.

use std::time::{Duration, SystemTime};

use levee_testing::wait::wait_until;

use super::repository::{BASES, count};
use super::world::{PATIENCE, Process, Setup, Site, World};

/// Longer than either side waits until it looks again whether something is due.
const SETTLED: Duration = Duration::from_secs(7);

/// How many copies west has of the folder and of the database.
fn copies(world: &World) -> [usize; 2] {
    ["levee-files:shop/documents", BASES].map(|tag| count(world, tag))
}

#[test]
fn scheduled_copies_come_once_and_a_missed_one_is_caught_up_once() {
    let mut world = World::set_up(Setup { zero_loss: false, ..Setup::default() });
    // Half an hour from now, so that only the clock that is put forward comes past it.
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let minute = (seconds / 60 + 30) % 60;
    let hours: Vec<String> = (0..24).map(|hour| hour.to_string()).collect();
    let schedule = format!("schedule = {{ hours = [{}], minute = {minute} }}", hours.join(","));
    let file = world
        .protection_file()
        .replace("every = \"2s\"", &schedule)
        .replace("slot_bound", &format!("base_{schedule}\nslot_bound"));
    world.apply(&file);
    // What has no copy yet does not wait for its hour.
    world.wait_protected(Site::East);
    std::thread::sleep(SETTLED);
    assert_eq!(copies(&world), [1, 1], "{}", world.log_tails());

    // The machine slept over the hour. The database's own clock is not the agent's, and must not make it two.
    world.kill(Process::Agent(Site::East));
    world.set_clock(Site::East, "+3600s");
    world.start(Process::Agent(Site::East));
    wait_until("the missed copies", PATIENCE, || copies(&world) == [2, 2]);
    std::thread::sleep(SETTLED);
    assert_eq!(copies(&world), [2, 2], "{}", world.log_tails());
}
