//! Copies that wait for others: the status says behind what.

use std::fs;

use levee_testing::wait::poll;
use serde_json::Value;

use super::hooks::put;
use super::status::wait_no_problem;
use super::world::{PATIENCE, Setup, Site, World};

const FOLDERS: [&str; 3] = ["documents", "music", "pictures"];

/// What each asset waits behind, of those that wait.
fn waiting(world: &World) -> Option<Vec<(String, String)>> {
    let status = world.status()?;
    let assets = status["assets"].as_array()?;
    let text = |value: &Value| value.as_str().map(str::to_string);
    Some(assets.iter().filter_map(|asset| Some((text(&asset["asset"])?, text(&asset["waiting"])?))).collect())
}

#[test]
fn a_copy_that_waits_for_others_is_shown_with_what_it_waits_behind() {
    let world = World::set_up(Setup { zero_loss: false, ..Setup::default() });
    // Copies begin, and do not end for as long as this file is there. Two are made at once.
    let hold = world.root().join("client/hold");
    fs::write(&hold, "").unwrap();
    let script = format!("while [ -e '{}' ]; do sleep 0.1; done", hold.display());
    put(&world, Site::East, "before-copy", &script, 0o755);
    let mut file = world.protection_file();
    for name in &FOLDERS[1..] {
        file.push_str(&format!("[app.shop.files.{name}]\nevery = \"2s\"\n"));
        for site in [Site::East, Site::West] {
            file.push_str(&format!("at.{}.path = {:?}\n", site.name(), world.folder(site).join(name)));
        }
        fs::create_dir(world.folder(Site::East).join(name)).unwrap();
        fs::write(world.folder(Site::East).join(name).join("1.txt"), *name).unwrap();
    }
    world.apply(&file);

    let mut last = None;
    let shown = poll(PATIENCE, || {
        last = waiting(&world);
        let waiting = last.clone()?;
        // Two hold the line up; every folder of the three that is not one of them waits behind both.
        let (who, behind) = waiting.iter().find(|(who, _)| FOLDERS.contains(&who.as_str()))?;
        (behind.contains("shop/") && behind.contains(" and ") && !behind.contains(&format!("shop/{who}"))).then_some(())
    });
    assert!(shown.is_some(), "{last:?}\n{}", world.log_tails());

    fs::remove_file(&hold).unwrap();
    world.wait_protected(Site::East);
    let over = poll(PATIENCE, || {
        last = waiting(&world);
        last.as_ref()?.is_empty().then_some(())
    });
    assert!(over.is_some(), "{last:?} still\n{}", world.log_tails());
    wait_no_problem(&world);
}
