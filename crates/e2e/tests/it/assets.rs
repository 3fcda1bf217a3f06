//! Assets that come into a protection file, or go out of it, while the app is protected.

use std::fs;

use levee_testing::wait::wait_until;

use super::queue::folder;
use super::runs::{Begun, Kind};
use super::status::wait_no_problem;
use super::upkeep::asset;
use super::world::{PATIENCE, Setup, Site, World};

#[test]
fn an_asset_that_comes_later_is_protected_and_moves_along_and_one_that_goes_holds_no_move_up() {
    let world = World::protected_with(Setup { zero_loss: false, ..Setup::default() });
    let plain = world.protection_file();
    let music = folder(&world, "shop", "music", "2s", b"a song");
    let with_music = format!("{plain}{music}");
    world.apply(&with_music);
    wait_until("the new folder to be protected", PATIENCE, || {
        asset(&world, "music").is_some_and(|asset| asset["protected"] == true)
    });

    Begun::new(&world, &Kind::Switchover.command(Site::West)).wait_done(&world);
    let song = |world: &World, site: Site| fs::read(world.folder(site).join("music/1.txt")).ok();
    assert_eq!(song(&world, Site::West).as_deref(), Some(&b"a song"[..]));
    world.wait_protected(Site::West);

    // Named no more, it stays where it is, and nothing waits for it.
    world.apply(&plain);
    wait_until("the folder to be given up", PATIENCE, || asset(&world, "music").is_none());
    Begun::new(&world, &Kind::Switchover.command(Site::East)).wait_done(&world);
    world.wait_protected(Site::East);
    assert_eq!(song(&world, Site::West).as_deref(), Some(&b"a song"[..]), "what is no asset any more was touched");
    wait_no_problem(&world);

    // And named again, where its newest data were left out of two moves: the one at home is what is protected now.
    let home = world.folder(Site::East).join("music");
    fs::create_dir_all(&home).unwrap();
    fs::write(home.join("1.txt"), b"another song").unwrap();
    world.apply(&with_music);
    wait_until("the folder to be protected again", PATIENCE, || {
        asset(&world, "music").is_some_and(|asset| asset["protected"] == true)
    });
}
