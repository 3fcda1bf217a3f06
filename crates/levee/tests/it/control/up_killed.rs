//! `levee up` that is killed with SIGKILL: started again with the same folder it goes on.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use levee_testing::restic::Restic;
use levee_testing::wait::wait_until;
use levee_testing::{Child, free_port};
use serde_json::Value;

use super::up::wait_until_connected;
use super::{Ended, Home, Service};
use crate::vault::tree::noise;

/// How many moments of the first start it is killed at, spread evenly over the time that one takes.
const MOMENTS: u32 = 6;
/// How long after the start of `levee apply` the server is killed.
const AFTER_APPLY_MS: [u64; 4] = [5, 20, 50, 120];
const LONG: Duration = Duration::from_secs(90);
/// Some stages are over within milliseconds.
const LOOK_EVERY: Duration = Duration::from_millis(1);

const FILES: usize = 16;
const FILE_BYTES: usize = 1 << 20;

#[test]
fn a_first_start_that_is_killed_is_taken_up_by_the_next() {
    let whole = Home::new();
    let begun = Instant::now();
    let up = whole.up("east");
    let took = begun.elapsed();
    up.stop();
    for moment in 1..=MOMENTS {
        let home = Home::new();
        let after = took * moment / MOMENTS;
        let log = home.path("killed.log");
        let mut child = Child::spawn("up", &mut up_command(&home, [0, 0]), &log);
        std::thread::sleep(after);
        child.kill();
        let authority = home.path("levee/server/ca/ca.pem");
        let authority_before = std::fs::read(&authority).ok();
        let had_joined = home.path("levee/agent/agent.json").exists();

        let up = home.up("east");
        wait_until_connected(&home, &["east-1"]);
        assert_eq!(home.json(&["site", "list"])[0]["site"], "east");
        // The first token is one that works, and the only one.
        let tokens = home.json(&["token", "list"]);
        assert_eq!(tokens["tokens"].as_array().map(Vec::len), Some(1), "{tokens}");
        if let Some(before) = authority_before {
            assert!(std::fs::read(&authority).unwrap() == before, "there is another authority");
        }
        println!("killed after {:.0} ms: had joined {had_joined}", after.as_secs_f64() * 1e3);
        up.stop();
    }
}

/// What can be seen on the disks when a stage of the first copy has begun.
type Stage = (&'static str, fn(&Path) -> bool);

/// What west has of the shop, in about this order.
const STAGES: [Stage; 5] = [
    ("the app at west", |shop| shop.join("state.json").exists()),
    ("the recovery kit", |shop| shop.join("recovery-kit.txt").exists()),
    ("the repository", |shop| shop.join("repository/config").exists()),
    ("the first of the data", |shop| has_files(&shop.join("repository/data"))),
    ("the first snapshot", |shop| has_files(&shop.join("repository/snapshots"))),
];

#[test]
fn an_app_is_protected_by_itself_although_server_and_writer_are_killed_in_its_first_copy() {
    let home = Home::new();
    let ports = [free_port(), free_port()];
    let mut up = start_up(&home, ports);
    let token = home.json(&["token", "create", "--name", "ops"])["token"].as_str().unwrap().to_string();
    let west = start_west(&home);
    wait_until_connected(&home, &["east-1", "west-1"]);
    let file = protection_file(&home);
    let file = file.to_str().unwrap();

    for after_ms in AFTER_APPLY_MS {
        let log = home.path(&format!("apply-{after_ms}.log"));
        let mut apply = Child::spawn("apply", &mut home.command(&["apply", "-f", file]), &log);
        std::thread::sleep(Duration::from_millis(after_ms));
        up.child.kill();
        let ended = apply.wait(LONG).expect("a command ends when its server is gone");
        up = start_up(&home, ports);
        let is_there = home.json(&["app", "list"]).as_array().is_some_and(|apps| !apps.is_empty());
        assert!(is_there || !ended.success(), "what was applied is gone: {}", apply.log_text());
        println!("killed {after_ms} ms after the apply: it ended with {:?}, applied {is_there}", ended.code());
    }
    home.levee(&["apply", "-f", file]);
    let shop = home.path("west/apps/shop");
    let mut kit: Option<String> = None;
    for (what, has_begun) in STAGES {
        wait_closely(what, || has_begun(&shop));
        up.child.kill();
        let now = std::fs::read_to_string(shop.join("recovery-kit.txt")).ok();
        // The kit is a secret: it is not shown.
        assert!(kit.is_none() || kit == now, "the recovery kit is another one, or gone");
        kit = now;
        up = start_up(&home, ports);
    }

    wait_until("documents are protected", LONG, || is_protected(&home));
    assert_eq!(home.levee(&["apply", "-f", file]), "shop: unchanged\n");
    Ended::check(0, home.command(&["token", "list"]).env("LEVEE_TOKEN", &token));
    // What changes from now on arrives as well.
    std::fs::write(home.path("documents/last"), "the last document").unwrap();
    let own = std::fs::read_to_string(shop.join("repository-password")).unwrap();
    let restic = Restic::distribution();
    let has_last = || {
        let listed = restic.output(&shop.join("repository"), own.trim(), &["ls", "latest", "--no-lock"]);
        String::from_utf8_lossy(&listed.stdout).lines().any(|line| line.ends_with("/documents/last"))
    };
    wait_until("a copy of the last document", LONG, has_last);
    let drill = home.ends(0, &["drill", "shop", "--json"]);
    let last: Value = serde_json::from_str(drill.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(last["state"], "done", "{last}");

    let log = up.stop();
    assert!(!log.contains(&token), "a token was logged");
    // Nobody writes any more.
    let said = restic.run(&shop.join("repository"), own.trim(), &["check", "--read-data", "--no-lock"]);
    assert!(said.contains("no errors were found"), "{said}");
    let now = std::fs::read_to_string(shop.join("recovery-kit.txt")).ok();
    assert!(kit.is_some() && kit == now, "the recovery kit is another one, or gone");
    west.stop();
}

/// `levee up` at these ports of the API and for agents.
fn up_command(home: &Home, [api, server]: [u16; 2]) -> Command {
    let mut command = home.command(&["up", "--json", "--site", "east"]);
    command.arg("--folder").arg(home.path("levee"));
    command.args(["--api-port", &api.to_string(), "--server-port", &server.to_string()]);
    command.args(["--wire-port", "0", "--store-port", "0", "--dns-port", "0"]);
    command
}

#[track_caller]
fn start_up(home: &Home, ports: [u16; 2]) -> Service {
    Service::start("up", &mut up_command(home, ports), &home.path("up.log"))
}

/// Joins the other site's agent and starts it.
#[track_caller]
fn start_west(home: &Home) -> Service {
    let (folder, token) = (home.path("west"), home.path("west.token"));
    std::fs::write(&token, home.levee(&["token", "create", "--site", "west"])).unwrap();
    let mut join = home.command(&["agent", "join", "--name", "west-1"]);
    Ended::check(0, join.arg("--folder").arg(&folder).arg("--token-file").arg(&token));
    let mut run = home.command(&["agent", "run", "--json", "--listen", "127.0.0.1"]);
    run.args(["--wire-port", "0", "--store-port", "0", "--dns-port", "0", "--folder"]).arg(&folder);
    Service::start("west", &mut run, &home.path("west.log"))
}

/// Makes the documents and the file that protects them.
fn protection_file(home: &Home) -> PathBuf {
    let documents = home.path("documents");
    std::fs::create_dir(&documents).unwrap();
    for number in 0..FILES {
        std::fs::write(documents.join(number.to_string()), noise(number as u64, FILE_BYTES)).unwrap();
    }
    let file = home.path("shop.toml");
    let spec = format!(
        "[app.shop]\nhome = \"east\"\nrecovery = \"west\"\n[app.shop.files.documents]\nevery = \"2s\"\n\
         at.east.path = {documents:?}\nat.west.path = {:?}\n",
        home.path("documents-west")
    );
    std::fs::write(&file, spec).unwrap();
    file
}

fn is_protected(home: &Home) -> bool {
    // The exit code says whether all is well; here only the asset is asked for.
    let printed = home.command(&["status", "shop", "--json"]).output().unwrap();
    let status: Value = serde_json::from_slice(&printed.stdout).unwrap_or_default();
    status["apps"][0]["assets"][0]["protected"] == true
}

/// Whether there is any file below a folder, at any depth.
fn has_files(folder: &Path) -> bool {
    std::fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        !is_folder || has_files(&entry.path())
    })
}

#[track_caller]
fn wait_closely(what: &str, has_begun: impl Fn() -> bool) {
    let deadline = Instant::now() + LONG;
    while !has_begun() {
        assert!(Instant::now() < deadline, "{what} never came");
        std::thread::sleep(LOOK_EVERY);
    }
}
