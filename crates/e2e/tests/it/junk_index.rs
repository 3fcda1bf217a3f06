//! A file among the index of west's repository that can't be read: the writer can add none, and one that is there all the
//! same is named and keeps nothing from being recovered.

use std::fs;
use std::process::Command;

use levee_store::content_name;
use levee_testing::process::output;
use levee_testing::tools;
use levee_testing::wait::wait_until;

use super::orders::Orders;
use super::status::wait_problem;
use super::world::{PATIENCE, Site, World};

const JUNK: &[u8] = b"junk: it has the hash that is its name, and opens with no key";

#[test]
fn junk_in_the_index_is_refused_at_the_door_and_stops_no_failover() {
    let mut world = World::protected();
    let (repository, name) = (world.shop_folder(Site::West).join("repository"), content_name(JUNK));
    for folder in ["index", "snapshots", "locks"] {
        assert_eq!(send(&world, &format!("/shop/{folder}/{name}")), "403", "{folder}");
        assert!(!repository.join(folder).join(&name).exists(), "{folder}");
    }

    // As an earlier version would have taken it in, or as a disk has let it rot.
    fs::write(repository.join("index").join(&name), JUNK).unwrap();
    wait_problem(&world, &["west: ", "index files can't be read", &name, "repair index --apply"]);
    fs::write(world.folder(Site::East).join("documents/late.txt"), "later than the junk").unwrap();
    wait_until("a copy with what came later", PATIENCE, || lists_of_newest_copy(&world).contains("late.txt"));
    world.wait_protected(Site::East);
    let orders = Orders::start(world.databases());
    orders.wait_for_more_at(world.database(Site::East), PATIENCE);
    let acknowledged = orders.check_all_in(world.database(Site::East));

    world.lose(Site::East, true);
    world.expect(&["failover", "shop", "--to", "west", "--old-site-is-down"]);
    assert!(orders.check_all_in(world.database(Site::West)) >= acknowledged);
    let restored = fs::read_to_string(world.folder(Site::West).join("documents/late.txt"));
    assert_eq!(restored.unwrap(), "later than the junk");
}

/// Adds the junk to west's repository as its writer's agent would, and gives the status of the answer.
fn send(world: &World, path: &str) -> String {
    let (place, writer) = (world.agent_place(Site::West), world.agent_place(Site::East));
    let junk = world.root().join("client/junk");
    fs::write(&junk, JUNK).unwrap();
    let mut curl = Command::new(tools::required("curl"));
    curl.args(["-sS", "--insecure", "--max-time", "30", "-o", "/dev/null", "-w", "%{http_code}", "--data-binary"]);
    curl.arg(format!("@{}", junk.display())).arg("--cert").arg(writer.folder.join("identity.pem"));
    let answer = output(curl.arg(format!("https://{}:{}{path}", place.address, place.store_port)));
    String::from_utf8_lossy(&answer.stdout).into_owned()
}

/// What stands in the folder's newest copy, as Levee reads it without an agent.
fn lists_of_newest_copy(world: &World) -> String {
    let west = world.shop_folder(Site::West);
    let mut command = world.command_at(Site::West);
    command.args(["vault", "ls", "latest", "--tag", "levee-files:shop/documents", "--vault"]);
    command.arg(west.join("repository")).arg("--password-file").arg(west.join("repository-password"));
    String::from_utf8_lossy(&output(&mut command).stdout).into_owned()
}
