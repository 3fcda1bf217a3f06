//! A server in a process of its own, killed with SIGKILL again and again while a run is under way.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use levee_api::RunOrder;
use levee_model::control::Action;
use levee_plan::{PlanKind, Run, RunState};
use levee_server::{Control, Server};

use crate::fixture::{PATIENCE, TestServer, eventually, options, shop};
use crate::protect::two_sites;

const FOLDER: &str = "LEVEE_TEST_SERVER_FOLDER";
const WIRE: &str = "LEVEE_TEST_SERVER_WIRE";
/// What the process has to begin: `switchover`, or nothing.
const BEGIN: &str = "LEVEE_TEST_SERVER_BEGIN";

/// Not a test by itself: the body of the server's process.
#[tokio::test(flavor = "multi_thread")]
async fn server_process() {
    let (Ok(folder), Ok(wire)) = (std::env::var(FOLDER), std::env::var(WIRE)) else { return };
    let mut options = options(Path::new(&folder));
    options.wire_listen = wire.parse().unwrap();
    // The port of the one that was killed may need a moment.
    let server = loop {
        match Server::start(options.clone()).await {
            Ok(server) => break server,
            Err(error) => {
                eprintln!("the server does not start: {}", levee_wire::chain(&error));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    let control = server.control();
    if std::env::var(BEGIN).is_ok() {
        tokio::spawn(begin(control.clone()));
    }
    server.serve(std::future::pending()).await.unwrap();
}

async fn begin(control: Control) {
    let request = levee_api::PlanRequest {
        kind: PlanKind::Switchover,
        app: "shop".parse().unwrap(),
        to: Some("west".parse().unwrap()),
        old_site_is_down: false,
    };
    while control.create_run(&control.local_caller(), RunOrder::New(request.clone())).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn spawn(folder: &Path, wire: &str, begins: bool) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "kills::server_process", "--nocapture"]).env(FOLDER, folder).env(WIRE, wire);
    if begins {
        command.env(BEGIN, "1");
    }
    // What it says belongs to what the test says.
    command.stdout(Stdio::null()).spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_outlives_a_server_that_is_killed_at_every_turn() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(options(folder.path())).await;
    let (east, west) = two_sites(&server).await;
    server.control.apply(&server.caller, shop(), false).await.unwrap();
    let wire = server.listening.wire.to_string();
    server.stop().await;
    let _sessions = [east.run(), west.run()];

    let mut process = spawn(folder.path(), &wire, true);
    eventually("the run has begun", || async { !west.asked().is_empty() }).await;
    for kill in 0..12 {
        tokio::time::sleep(Duration::from_millis(15 + 37 * kill % 190)).await;
        process.kill().unwrap();
        process.wait().unwrap();
        process = spawn(folder.path(), &wire, false);
    }
    // The nodes are given two seconds to take the name over, and an agent that was sent away so often may need longer to come
    // back: what is asked of it until it is done is the start.
    let started = || async { west.asked().iter().any(|asked| asked.starts_with("start")) };
    eventually("the app is started at the other site", started).await;
    process.kill().unwrap();
    process.wait().unwrap();

    let mut again = options(folder.path());
    again.wire_listen = wire.parse().unwrap();
    let server = TestServer::start(again).await;
    let run = {
        let listed = server.control.runs(Default::default()).await.unwrap();
        assert_eq!(listed.len(), 1, "{listed:?}");
        server.control.run(&listed[0].id).await.unwrap()
    };
    let run: Run = tokio::time::timeout(PATIENCE, server.ended(&run)).await.unwrap();
    assert_eq!(run.state, RunState::Done, "{:#?}", run.steps);
    let app = server.control.app(&"shop".parse().unwrap()).await.unwrap();
    assert_eq!((app.writer.as_str(), app.epoch.0), ("west", 2));

    // Whatever was repeated, the old site was stopped before the new one was started.
    let first = |agent: &crate::agent::Agent, wanted: fn(&Action) -> bool| {
        agent.memory.lock().unwrap().commands.iter().position(|command| wanted(&command.action))
    };
    assert!(first(&east, |action| matches!(action, Action::Stop { .. })).is_some());
    let starts_before_seal = {
        let seal = first(&west, |action| *action == Action::Seal).unwrap();
        first(&west, |action| matches!(action, Action::Start { .. })).unwrap() < seal
    };
    assert!(!starts_before_seal);
    server.stop().await;
}
