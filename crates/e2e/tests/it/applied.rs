//! A protection file that is applied again with a change.

use std::fs;
use std::time::{Duration, Instant};

use levee_testing::wait::wait_until;

use super::assets::without;
use super::runs::{Begun, Kind};
use super::status::{orders, problems, wait_caught_up, wait_no_problem, wait_problem};
use super::world::{PATIENCE, Site, World};

/// The archive begins anew then, and the source still knows the receiver of a moment ago.
#[test]
fn a_changed_file_is_taken_over_without_a_word_of_trouble() {
    let mut world = World::protected();
    let file = world.protection_file();
    for bound in ["900MiB", "800MiB", "700MiB"] {
        world.apply(&file.replace("1GiB", bound));
        let applied = Instant::now();
        let mut answers = 0;
        while applied.elapsed() < Duration::from_secs(3) {
            if let Some(said) = problems(&world) {
                assert_eq!(said, "[]", "after {:?}\n{}", applied.elapsed(), world.log_tails());
                answers += 1;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(answers > 5, "{answers}");
        world.wait_protected(Site::East);
        wait_caught_up(&mut world);
    }
}

#[test]
fn fewer_copies_than_the_file_asks_for_are_a_problem() {
    let world = World::protected();
    let with = |sites: &str| {
        let file = world.protection_file().replace("[app.shop]\n", "[app.shop]\ncopies = { disks = 2, regions = 2 }\n");
        world.apply(&format!("{file}{sites}"));
    };
    let places = |west: &str, disk: &str| {
        format!(
            "[site.east]\nregion = \"north\"\ndisk = \"san\"\n[site.west]\nregion = \"{west}\"\ndisk = \"{disk}\"\n"
        )
    };
    with(&places("north", "san"));
    wait_problem(&world, &["in 1 of 2 disks", "in 1 of 2 regions"]);
    with(&places("south", "disks of west"));
    wait_no_problem(&world);
    let copies = orders(&world).unwrap()["copies"].clone();
    assert_eq!((&copies["copies"], &copies["disks"], &copies["regions"]), (&2.into(), &2.into(), &2.into()));
}

/// A run that is begun in the very moment after goes by what it was planned from, and not by what was wanted before.
#[test]
fn a_run_waits_for_an_agent_that_has_not_taken_over_what_was_applied() {
    let world = World::protected();
    // No file takes the place of a folder: the agent cannot keep what it is told.
    let state = world.shop_folder(Site::West).join("state.json");
    fs::remove_file(&state).unwrap();
    fs::create_dir(&state).unwrap();
    world.apply(&without(&world.protection_file(), "[app.shop.files.documents"));
    let drill = Begun::new(&world, &Kind::Drill.command(Site::West));
    wait_until("the drill to be put off", PATIENCE, || {
        drill.state(&world)["steps"]["choose"].to_string().contains("has not taken it over yet")
    });
    fs::remove_dir(&state).unwrap();
    drill.wait_done(&world);
    let kept = fs::read_to_string(&state).unwrap();
    assert!(kept.contains("orders") && !kept.contains("documents"), "{kept}");
}
