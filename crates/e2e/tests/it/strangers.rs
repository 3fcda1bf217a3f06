//! Who shows a certificate that this Levee has not signed, or one that it trusts no more.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use levee_testing::process::output;
use levee_testing::tools;
use levee_testing::wait::wait_until;

use super::faults::files_with;
use super::world::{PATIENCE, Process, Setup, Site, World};

/// One request to a port of west's agent, behind whatever certificate is in a file.
fn ask(world: &World, port: u16, path: &str, identity: Option<&Path>) -> Output {
    let place = world.agent_place(Site::West);
    let mut curl = Command::new(tools::required("curl"));
    // The agent's certificate names the agent and no address; it is the client's that is in question here.
    curl.args(["-sS", "--insecure", "--max-time", "10", "-o", "/dev/null", "-w", "%{http_code}"]);
    if let Some(identity) = identity {
        curl.arg("--cert").arg(identity);
    }
    output(curl.arg(format!("https://{}:{port}{path}", place.address)))
}

/// The ports at which data arrive, with a request that either serves.
fn doors(world: &World) -> [(u16, &'static str); 2] {
    let place = world.agent_place(Site::West);
    [(place.wire_port, "/levee.wire.Agent/AppendLog"), (place.store_port, "/shop/config")]
}

/// What a client is told that shakes hands and says nothing more: an answer in the form of TLS alone. A client that goes
/// on talking may find the connection gone before it has read why.
fn handshake(world: &World, port: u16, identity: Option<&Path>) -> String {
    let place = world.agent_place(Site::West);
    let mut client = Command::new("timeout");
    client.args(["5", "openssl", "s_client", "-quiet", "-connect", &format!("{}:{port}", place.address)]);
    if let Some(identity) = identity {
        client.arg("-cert").arg(identity).arg("-key").arg(identity);
    }
    String::from_utf8_lossy(&output(&mut client).stderr).into_owned()
}

#[track_caller]
fn check_refused(world: &World, identity: Option<&Path>, alert: &str) {
    for (port, path) in doors(world) {
        let output = ask(world, port, path, identity);
        assert!(!output.status.success() && output.stdout == b"000", "{port}: {output:?}");
        let said = handshake(world, port, identity);
        assert!(said.contains(alert), "{port}: {alert:?} is not in: {said}");
    }
}

#[test]
fn a_stranger_gets_at_neither_the_log_nor_the_repository() {
    let mut world = World::protected();
    let other = World::set_up(Setup::default());
    let identity = |world: &World, site: Site| world.agent_place(site).folder.join("identity.pem");
    let (own, foreign) = (identity(&world, Site::East), identity(&other, Site::East));

    for (port, path) in doors(&world) {
        let output = ask(&world, port, path, Some(&own));
        assert!(output.status.success() && output.stdout != b"000", "{port}: {output:?}");
    }
    check_refused(&world, None, "certificate required");
    check_refused(&world, Some(&foreign), "unknown ca");

    // An agent with another Levee's certificate comes up, says what is wrong and what to do, and sends nothing.
    world.kill(Process::Agent(Site::East));
    let kept = fs::read(&own).unwrap();
    fs::copy(&foreign, &own).unwrap();
    drop(other);
    let log = world.log(Process::Agent(Site::East));
    let before = fs::read_to_string(&log).unwrap_or_default().len();
    world.try_start(Site::East);
    wait_until("the agent to name its certificate", PATIENCE, || {
        let said = fs::read_to_string(&log).unwrap_or_default();
        said[before..].contains("another certificate authority") || said[before..].contains("join again")
    });
    world.wait_connected(Site::East, false);
    world.kill(Process::Agent(Site::East));

    // With its own it goes on; once that is revoked, no door is open to it.
    fs::write(&own, kept).unwrap();
    world.start(Process::Agent(Site::East));
    world.wait_protected(Site::East);
    world.expect(&["agent", "revoke", "east-1"]);
    wait_until("both doors to be shut", PATIENCE, || {
        doors(&world).iter().all(|(port, path)| ask(&world, *port, path, Some(&own)).stdout == b"000")
    });
    check_refused(&world, Some(&own), "revoked");
    // No private key shows anywhere.
    let shown = [world.log(Process::Server), log, world.log(Process::Agent(Site::West))];
    assert_eq!(files_with("PRIVATE KEY", &shown.each_ref().map(|path| path.as_path())), "");
}
