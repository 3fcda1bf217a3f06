//! A server that comes back from a backup which is older than the last change of site.

use std::fs;
use std::process::Command;

use levee_testing::process::{output, run};
use levee_testing::wait::wait_until;

use super::world::{PATIENCE, Process, Site, World};

#[test]
fn a_restored_server_takes_over_the_epoch_that_its_agents_know() {
    let mut world = World::protected();
    let client = world.root().join("client");
    let (identity, backup) = (client.join("backup-key"), client.join("server.age"));
    run(Command::new("age-keygen").arg("-o").arg(&identity));
    let public = output(Command::new("age-keygen").arg("-y").arg(&identity)).stdout;
    let recipient = String::from_utf8(public).unwrap();
    let backup_path = backup.to_string_lossy().into_owned();
    world.expect(&["server", "backup", "--recipient", recipient.trim(), "--output", &backup_path]);
    world.expect(&["switchover", "shop", "--yes", "--to", "west"]);
    world.wait_protected(Site::West);

    // The server is lost, and comes back as it was before.
    world.kill(Process::Server);
    let folder = world.server_place().folder.clone();
    fs::rename(&folder, world.root().join("lost-server")).unwrap();
    fs::create_dir(&folder).unwrap();
    let script = format!(
        "age -d -i '{}' '{backup_path}' | tar -x -C '{}' && chmod 700 '{1}'",
        identity.display(),
        folder.display()
    );
    run(Command::new("bash").args(["-o", "pipefail", "-c", &script]));
    // The operator's token is not in the backup's state in clear; the file is the operator's own.
    fs::copy(world.root().join("lost-server/admin-token"), folder.join("admin-token")).unwrap();
    world.start(Process::Server);

    let problem = "levee server adopt-epochs";
    wait_until("the newer epoch to be named", PATIENCE, || {
        world.status().is_some_and(|status| {
            status["writer"] == "east" && status["epoch"] == 1 && status["problems"].to_string().contains(problem)
        })
    });
    wait_until("both agents to be there", PATIENCE, || {
        let wanted = world.expect(&["server", "adopt-epochs", "--dry-run"]);
        wanted["apps"][0]["writer"] == "west"
    });
    assert_eq!(world.status().unwrap()["epoch"], 1, "a dry run changes nothing");
    let adopted = world.expect(&["server", "adopt-epochs", "--yes"]);
    assert_eq!((&adopted["apps"][0]["epoch"], &adopted["apps"][0]["epoch_before"]), (&2.into(), &1.into()));
    world.wait_protected(Site::West);
    let status = world.status().unwrap();
    assert_eq!((&status["adopted"]["by"], &status["problems"]), (&"admin".into(), &serde_json::json!([])));
    // Orders reach the agents again: the app can be moved.
    world.expect(&["switchover", "shop", "--yes", "--to", "east"]);
    world.wait_protected(Site::East);
}
