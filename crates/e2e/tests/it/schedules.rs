//! Copies by a schedule, across processes: one at once, none before its time or in a blackout, and a missed one caught
//! up once.

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
    // Only the clock that is put forward comes past any of it.
    let minutes = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() / 60;
    // The folder half an hour from now: clocks in India are half an hour off, so it is this minute there.
    let hours: Vec<String> = (0..24).map(|hour| hour.to_string()).collect();
    let (all_hours, minute) = (hours.join(","), minutes % 60);
    let of_folder = format!("schedule = {{ hours = [{all_hours}], minute = {minute}, time_zone = \"Asia/Kolkata\" }}");
    // The database ten minutes from now, which is in a blackout that ends a quarter of an hour later.
    let time = |minutes: u64| format!("{:02}:{:02}", minutes / 60 % 24, minutes % 60);
    let (minute, begin, end) = ((minutes + 10) % 60, time(minutes + 5), time(minutes + 25));
    let of_base = format!("base_schedule = {{ cron = \"{minute} * * * *\", blackout = [\"{begin}-{end}\"] }}");
    let file = world
        .protection_file()
        .replace("every = \"2s\"", &of_folder)
        .replace("slot_bound", &format!("{of_base}\nslot_bound"));
    world.apply(&file);
    // What has no copy yet does not wait for its hour.
    world.wait_protected(Site::East);
    std::thread::sleep(SETTLED);
    assert_eq!(copies(&world), [1, 1], "{}", world.log_tails());

    // In the blackout nothing is begun, and by India's clocks it is not time yet.
    world.kill(Process::Agent(Site::East));
    world.set_clock(Site::East, "+900s");
    world.start(Process::Agent(Site::East));
    std::thread::sleep(SETTLED);
    assert_eq!(copies(&world), [1, 1], "{}", world.log_tails());

    // The machine slept over both. The database's own clock is not the agent's, and must not make it two.
    world.kill(Process::Agent(Site::East));
    world.set_clock(Site::East, "+2700s");
    world.start(Process::Agent(Site::East));
    wait_until("the missed copies", PATIENCE, || copies(&world) == [2, 2]);
    std::thread::sleep(SETTLED);
    assert_eq!(copies(&world), [2, 2], "{}", world.log_tails());
}
