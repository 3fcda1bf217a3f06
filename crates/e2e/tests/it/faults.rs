//! Bad input and faults: each is named, says what to do, leaves nothing half-done and shows no secret.
//!
//! Clocks, disks and certificates have files of their own here; what can go wrong with a vault alone is with the
//! command line (`levee`, `vault::exit_codes`).

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use levee_testing::postgres::Stop;
use levee_testing::process::output;
use levee_testing::wait::wait_until;
use rustix::process::Signal;
use serde_json::Value;

use super::damaged::a_damaged_base_is_passed_over;
use super::repository::{flip_a_bit, largest, packs, restore_by_hand};
use super::status::{orders, wait_no_problem, wait_problem};
use super::traces::Traces;
use super::world::{PATIENCE, Process, Setup, Site, World};

const NOBODY: u32 = 65534;
const PASSWORD: &str = "sesame-7d1f00c4";

pub fn said_by(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[track_caller]
pub fn check_failed(output: &Output, words: &[&str], secrets: &[&str]) {
    let said = said_by(output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
    for secret in secrets {
        assert!(!said.contains(secret), "a secret is shown: {said}");
    }
}

fn set_password(world: &World, site: Site, password: &str) {
    let mut command = world.command_at(site);
    command.args(["agent", "secret", "set", "orders-password", "--folder"]).arg(&world.agent_place(site).folder);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

/// A join token.
#[track_caller]
pub fn create_token(world: &World, arguments: &[&str]) -> String {
    let output = world.operator(&[&["token", "create", "--quiet"], arguments].concat());
    assert!(output.status.success(), "{}", said_by(&output));
    String::from_utf8(output.stdout).unwrap().trim().to_string()
}

/// The files below these folders that contain a text.
pub fn files_with(text: &str, folders: &[&Path]) -> String {
    let mut grep = Command::new("grep");
    grep.args(["-r", "-l", "-a", "-F", "-e", text]).args(folders);
    String::from_utf8_lossy(&output(&mut grep).stdout).into_owned()
}

#[test]
fn a_source_that_is_not_fit_is_named_until_it_is() {
    let setup = Setup {
        password: Some(PASSWORD),
        settings: vec![
            ("wal_level", "minimal"),
            ("max_wal_senders", "0"),
            ("min_wal_size", "32MB"),
            ("max_wal_size", "32MB"),
        ],
        ..Setup::default()
    };
    let mut world = World::set_up(setup);
    let file = world.protection_file();
    check_bad_files(&world, &file);
    // What is at the other site's place is somebody's.
    let place = world.folder(Site::West).join("postgres");
    fs::create_dir_all(&place).unwrap();
    fs::write(place.join("precious"), "nobody else has this").unwrap();
    world.apply(&file);

    wait_problem(&world, &["orders-password", "secret set"]);
    set_password(&world, Site::East, "guess-0badc0de");
    wait_problem(&world, &["refused the password", "levee"]);
    set_password(&world, Site::East, PASSWORD);
    set_password(&world, Site::West, PASSWORD);
    let cluster = world.cluster();
    cluster.psql("set synchronous_commit = local; alter role levee noreplication");
    wait_problem(&world, &["REPLICATION", "ALTER ROLE levee REPLICATION"]);
    world.cluster().psql("set synchronous_commit = local; alter role levee replication");
    wait_problem(&world, &["wal_level", "minimal", "replica", "restart"]);
    // The files are protected all the time: one asset's fault is not another's.
    wait_until("protected files", PATIENCE, || {
        world.status().is_some_and(|status| {
            let assets: Vec<Value> = status["assets"].as_array().cloned().unwrap_or_default();
            assets.iter().any(|asset| asset["asset"] == "documents" && asset["protected"] == true)
        })
    });
    let cluster = world.cluster();
    for (name, value) in [("wal_level", "replica"), ("max_wal_senders", "10"), ("synchronous_commit", "remote_apply")] {
        cluster.psql(&format!("alter system set {name} = '{value}'"));
    }
    cluster.restart(Stop::Fast);
    wait_problem(&world, &["remote_apply", "`on`"]);
    assert_eq!(world.cluster().psql("select count(*) from pg_replication_slots"), "0", "nothing is half-done");
    world.cluster().set("synchronous_commit", "on");
    world.wait_protected(Site::East);

    check_dropped_slot(&mut world);
    check_restore_targets(&world);

    // A failover to the place that is not empty sets aside what is there.
    world.expect(&["failover", "shop", "--yes", "--to", "west"]);
    let aside = fs::read_dir(world.folder(Site::West))
        .unwrap()
        .flatten()
        .find(|entry| entry.file_name() != "postgres" && fs::read_to_string(entry.path().join("precious")).is_ok());
    assert!(aside.is_some(), "what was at the place is gone\n{}", world.log_tails());
    let shown = ["client", "server", "west/agent/apps", "east/agent/apps"].map(|name| world.root().join(name));
    for secret in [PASSWORD, "guess-0badc0de"] {
        assert_eq!(files_with(secret, &shown.each_ref().map(|path| path.as_path())), "");
    }
}

fn check_bad_files(world: &World, file: &str) {
    let check = |from: &str, to: &str, words: &[&str]| {
        assert!(file.contains(from), "{from:?} is not in {file}");
        check_failed(&world.try_apply(&file.replace(from, to)), words, &[]);
        assert!(world.status().is_none(), "nothing was applied");
    };
    check("west", "north", &["north", "no agent has joined"]);
    check("recovery = ", "recovry = ", &["shop.toml:3:1", "recovry"]);
    check("every = \"2s\"", "every = \"2 parsecs\"", &["shop.toml:"]);
}

/// The slot is dropped behind Levee's back, and the log that was not archived yet is gone with it.
fn check_dropped_slot(world: &mut World) {
    world.cluster().set("synchronous_standby_names", "");
    world.running(Process::Agent(Site::East)).signal(Signal::STOP);
    let cluster = world.cluster();
    cluster.psql("select pg_terminate_backend(active_pid) from pg_replication_slots where active");
    wait_until("the slot to be free", PATIENCE, || {
        cluster.try_psql("select pg_drop_replication_slot(slot_name) from pg_replication_slots").is_ok()
    });
    for number in 0..8 {
        cluster.psql_in("shop", &format!("insert into orders values ({number})"));
        cluster.switch_wal();
        cluster.psql("checkpoint");
    }
    cluster.set("synchronous_standby_names", "FIRST 1 (levee_shop_orders)");
    world.running(Process::Agent(Site::East)).signal(Signal::CONT);
    wait_problem(world, &["gap", "removed"]);
    wait_no_problem(world);
    world.wait_protected(Site::East);
    // It was a problem until a base backup lay behind it, and is remembered.
    let mut status = world.command_at(Site::East);
    status.args(["agent", "status", "--json", "--folder"]).arg(&world.agent_place(Site::East).folder);
    let status: Value = serde_json::from_slice(&output(&mut status).stdout).unwrap();
    let [gap] = &status["gaps"].as_array().unwrap()[..] else { panic!("{status:#}") };
    assert!(gap["gap"]["message"].as_str().unwrap().contains("gap"), "{gap}");
    assert!(gap["gap"]["closed_at"].is_string() && gap["gap"]["base"].is_string(), "{gap}");
    // The server goes on telling of it, also when the site is lost.
    let shown = orders(world).map(|asset| asset["gaps"].clone()).unwrap_or_default();
    assert_eq!((&shown[0]["site"], &shown[0]["base"]), (&"east".into(), &gap["gap"]["base"]), "{shown}");
    let text = world.operator(&["status"]);
    let text = String::from_utf8_lossy(&text.stdout);
    assert!(text.contains("gap in the log from east") && text.contains("points within it can't be restored"), "{text}");
}

fn check_restore_targets(world: &World) {
    let target = world.folder(Site::West).join("by-hand");
    let secret = fs::read_to_string(world.shop_folder(Site::West).join("repository-password")).unwrap();
    let check = |to: &[&str], words: &[&str]| {
        check_failed(&restore_by_hand(world, &target, to), words, &[secret.trim(), "AGE-SECRET-KEY"]);
        assert!(!target.exists(), "nothing is half-done");
    };
    check(&["--time", "2001-01-01T00:00:00Z"], &["before the first base backup", "earliest moment"]);
    check(&["--time", "2101-01-01T00:00:00Z"], &["behind the last record", "ends at"]);
    check(&["--lsn", "FFFF/0"], &["behind the last record", "ends at"]);
    check(&["--name", "no_such_point"], &["no_such_point"]);
}

#[test]
fn who_is_not_let_in_is_told_why_and_keeps_no_half_joined_folder() {
    let mut world = World::set_up(Setup::default());
    let folder = world.root().join("late");
    let join = |token: &str| {
        let file = world.root().join("client/late.token");
        fs::write(&file, token).unwrap();
        let mut command = world.command_at(Site::West);
        command.args(["agent", "join", "--name", "late-1", "--folder"]).arg(&folder).arg("--token-file").arg(file);
        output(&mut command)
    };
    let brief = create_token(&world, &["--site", "west", "--expires", "1s"]);
    let good = create_token(&world, &["--site", "west"]);
    std::thread::sleep(Duration::from_millis(1500));
    check_failed(&join(&brief), &["expired", "ask for a new one"], &[&brief]);
    // Not copied whole: what there is of it is still a secret.
    let part = &good[..good.len() - 7];
    check_failed(&join(part), &["token", "copy"], &[part, &part[20..]]);
    let first = join(&good);
    assert!(first.status.success(), "{}", said_by(&first));
    fs::remove_dir_all(&folder).unwrap();
    check_failed(&join(&good), &["used already", "late-1", "ask for a new one"], &[&good]);
    assert!(!folder.join("agent.json").exists() && !folder.join("identity").exists());

    // Another Levee's operator and another Levee's agent.
    let other = World::set_up(Setup::default());
    let mut operator = world.command_at(Site::West);
    operator
        .arg("status")
        .env("LEVEE_SERVER", format!("https://{}", world.server_place().api))
        .env("LEVEE_TOKEN_FILE", world.server_place().folder.join("admin-token"))
        .env("LEVEE_CA_FILE", other.server_place().folder.join("ca/ca.pem"));
    check_failed(&output(&mut operator), &["certificate"], &[]);
    world.kill(Process::Server);
    let place = levee_testing::levee::ServerPlace { wire: world.server_place().wire, ..other.server_place().clone() };
    drop(other);
    let log = world.root().join("client/other.log");
    let impostor = levee_testing::levee::Binary::find().start_server(&place, &log);
    let agent_log = world.log(Process::Agent(Site::East));
    wait_until("the agent to name the wrong authority", PATIENCE, || {
        fs::read_to_string(&agent_log).is_ok_and(|log| log.contains("another certificate authority"))
    });
    // The agents go on with their own server when it is back.
    drop(impostor);
    world.start(Process::Server);
    world.wait_connected(Site::East, true);
    for secret in [&good, &brief] {
        let shown = [world.log(Process::Server), agent_log.clone(), world.root().join("server")];
        assert_eq!(files_with(secret, &shown.each_ref().map(|path| path.as_path())), "");
    }
}

#[test]
fn what_cannot_be_read_is_named_at_either_site() {
    let mut world = World::set_up(Setup::default());
    // The agent of a file server without the right to read what is not its own.
    world.run_behind(Site::East, &["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]);
    world.kill(Process::Agent(Site::East));
    world.start(Process::Agent(Site::East));
    let closed = world.folder(Site::East).join("documents/closed.txt");
    fs::write(&closed, "nobody may read this").unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    std::os::unix::fs::chown(&closed, Some(NOBODY), Some(NOBODY)).unwrap();
    world.apply(&world.protection_file());
    world.wait_protected(Site::East);
    let documents = |world: &World| {
        let status = world.status()?;
        let assets = status["assets"].as_array()?;
        assets.iter().find(|asset| asset["asset"] == "documents").cloned()
    };
    let mut said = String::new();
    wait_until("the closed file to be named", PATIENCE, || {
        said = documents(&world).map(|asset| asset["problems"].to_string()).unwrap_or_default();
        said.contains("closed.txt") && said.contains("not protected")
    });
    assert_eq!(world.operator(&["status"]).status.code(), Some(2), "{said}");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o644)).unwrap();
    wait_until("no problem any more", PATIENCE, || {
        documents(&world).is_some_and(|asset| asset["problems"].as_array().is_some_and(Vec::is_empty))
    });

    // One bit of the repository is wrong: a drill says so, makes nothing of it and leaves nothing.
    world.expect(&["drill", "shop", "--to", "west"]);
    let before = Traces::of(&world, Site::West);
    let pack = largest(packs(&world));
    let whole = fs::read(&pack).unwrap();
    flip_a_bit(&pack);
    let drill = world.operator(&["drill", "shop", "--to", "west"]);
    let name = pack.file_name().unwrap().to_string_lossy().into_owned();
    check_failed(&drill, &[&name[..8], "check --read-data", "base backup"], &[]);
    wait_problem(&world, &["west: ", "base backup", "is damaged", &name[..8]]);
    let proof = world.status().unwrap()["last_proof"].clone();
    assert_ne!(proof["passed"], true, "{proof}");
    // What is remembered of it is all that stays.
    let remembered = "agent/apps/shop/damaged-orders.json";
    Traces::check_nothing_left(&world, Site::West, &before, &[remembered]);
    assert!(world.folder(Site::West).join(remembered).exists());
    let repository = world.shop_folder(Site::West).join("repository");
    let password_file = world.shop_folder(Site::West).join("repository-password");
    let check = |password_file: &Path| {
        let mut command = world.command_at(Site::West);
        command.args(["vault", "check", "--read-data", "--vault"]).arg(&repository);
        output(command.arg("--password-file").arg(password_file))
    };
    check_failed(&check(&password_file), &[&name[..8]], &[]);
    fs::write(&pack, whole).unwrap();
    // The only base there is is tried all the same, and was mended.
    world.expect(&["drill", "shop", "--to", "west"]);
    wait_no_problem(&world);

    // Somebody else's password.
    let wrong = world.root().join("client/wrong-password");
    fs::write(&wrong, PASSWORD).unwrap();
    let refused = check(&wrong);
    assert_eq!(refused.status.code(), Some(12), "{}", said_by(&refused));
    assert!(said_by(&refused).contains("wrong password") && !said_by(&refused).contains(PASSWORD));
    a_damaged_base_is_passed_over(&mut world);
}
