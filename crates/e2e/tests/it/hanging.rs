//! A further vault that takes connections and never answers.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use levee_testing::wait::wait_until;

use super::further::{Served, copied, of_kit, wait_newer, with_vaults};
use super::runs::{Begun, Kind};
use super::status::wait_caught_up;
use super::upkeep::names;
use super::world::{PATIENCE, Setup, Site, World};

/// The name of a snapshot has so many hexadecimal digits.
const ID_LENGTH: usize = 64;

/// The ids of the snapshots that lie in a repository.
fn ids(repository: &Path) -> Vec<String> {
    let mut ids = names(&repository.join("snapshots"));
    // One that is being written has another name.
    ids.retain(|id| id.len() == ID_LENGTH);
    ids
}

#[test]
fn a_vault_that_hangs_holds_nothing_else_up_and_is_caught_up_with_once() {
    let mut world = World::set_up(Setup { zero_loss: false, ..Setup::default() });
    let near = world.root().join("near");
    fs::create_dir(&near).unwrap();
    let far = Served::start(&world);
    far.set_secrets(&world);
    let in_folder = format!("address = {near:?}");
    world.apply(&with_vaults(&world, &[("near", in_folder.as_str()), ("far", far.spec().as_str())]));
    world.wait_protected(Site::East);
    for vault in ["near", "far"] {
        wait_newer(&world, "orders", vault);
        wait_newer(&world, "documents", vault);
    }

    // The protection itself and the other vault go on, with the database's log and with new snapshots.
    far.hang();
    let there = ids(&far.repository());
    let here = world.shop_folder(Site::West).join("repository");
    let before = ids(&here);
    for number in 1..=3 {
        fs::write(world.folder(Site::East).join(format!("documents/new-{number}.txt")), "new").unwrap();
        world.cluster().psql_in("shop", &format!("insert into orders values ({number})"));
        wait_caught_up(&mut world);
        wait_newer(&world, "documents", "near");
        wait_newer(&world, "orders", "near");
    }
    assert_eq!(ids(&far.repository()), there, "it hangs");
    assert!(ids(&here).len() >= before.len() + 3, "{}", world.log_tails());

    // What was missed comes once it answers again, and nothing a second time.
    far.go_on();
    let (here, password) = (ids(&here), of_kit(&world, "restic password"));
    wait_until("what the vault has missed", PATIENCE, || {
        let there = copied(&far.repository(), &password);
        here.iter().all(|id| there.contains(id))
    });
    let there = copied(&far.repository(), &password);
    assert_eq!(there.iter().collect::<BTreeSet<_>>().len(), there.len(), "{there:?}");
    wait_newer(&world, "orders", "far");
    wait_newer(&world, "documents", "far");

    // A run does not wait for it either.
    far.hang();
    let ended = Begun::new(&world, &Kind::Switchover.command(Site::West)).wait_done(&world);
    assert_eq!(ended.retries, 0);
    world.wait_protected(Site::West);
}
