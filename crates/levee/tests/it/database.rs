//! `levee database …` as a user runs it on one machine: a vault folder, a journal folder, no server.

mod archive;
mod durability;
mod exit_codes;
mod killed;
mod rows;
mod trace;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use levee_testing::levee::Binary;
use levee_testing::postgres::Cluster;
use levee_testing::wait::wait_until;
use levee_testing::{Child, TempSite, free_port};
use serde_json::Value;

const PASSWORD: &str = "correct horse";
const LONG: Duration = Duration::from_secs(60);

/// A machine with a running cluster, a vault, a journal and the key to both.
struct Machine {
    cluster: Cluster,
    site: TempSite,
    binary: Binary,
}

impl Machine {
    fn new() -> Machine {
        Machine::with(Cluster::builder().start())
    }

    fn with(cluster: Cluster) -> Machine {
        let machine = Machine { cluster, site: TempSite::new("one"), binary: binary() };
        fs::write(machine.path("password"), PASSWORD).unwrap();
        machine.levee(&["vault", "init"]);
        let made = Command::new("age-keygen").arg("-o").arg(machine.path("identity")).output().unwrap();
        assert!(made.status.success(), "stock age is needed: apt-get install age");
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.site.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.binary.command();
        command
            .args(arguments)
            .env("LEVEE_VAULT", self.path("vault"))
            .env("LEVEE_PASSWORD_FILE", self.path("password"))
            .env("LEVEE_DATABASE", self.cluster.dsn("postgres"))
            .env("LEVEE_JOURNAL", self.path("journal"))
            .env("LEVEE_IDENTITY_FILE", self.path("identity"));
        command
    }

    #[track_caller]
    fn levee(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        let text = self.levee(&[&["--json"], arguments].concat());
        serde_json::from_str(text.lines().last().unwrap()).unwrap()
    }

    #[track_caller]
    fn fails(&self, arguments: &[&str], code: i32) -> String {
        let output: Output = self.command(arguments).output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
        message
    }

    fn archive(&self) -> Child {
        let mut command = self.command(&["--json", "database", "archive", "--asset", "shop/orders"]);
        Child::spawn("archive", &mut command, &self.path("archive.log"))
    }

    /// Waits until everything that was written so far is in the journal.
    fn wait_archived(&self) {
        let end = self.cluster.psql("select pg_current_wal_insert_lsn()");
        let is_there = || {
            let bases = self.json(&["database", "list", "--asset", "shop/orders"]);
            let newest = bases.as_array().and_then(|bases| bases.last()?.get("restorable_to")?.as_str()).map(position);
            newest.is_some_and(|newest| newest >= position(&end))
        };
        wait_until("the log is in the journal", LONG, is_there);
    }
}

fn position(lsn: &str) -> u64 {
    let (high, low) = lsn.split_once('/').unwrap();
    u64::from_str_radix(high, 16).unwrap() << 32 | u64::from_str_radix(low, 16).unwrap()
}

fn binary() -> Binary {
    Binary::at(env!("CARGO_BIN_EXE_levee"))
}

#[test]
fn one_machine_is_backed_up_archived_and_brought_back_without_a_server() {
    let machine = Machine::new();
    let report = machine.json(&["database", "preflight"]);
    assert!(report["version"].as_str().unwrap().starts_with("15"), "{report}");
    let mut archive = machine.archive();
    let is_archiving = || archive_says(&machine, "\"connected\":true");
    wait_until("the archive streams", LONG, is_archiving);

    machine.cluster.psql("create table moments (n int)");
    let backup = machine.json(&["database", "backup", "--asset", "shop/orders"]);
    assert_eq!(backup["log_is_there"], true, "{backup}");
    machine.cluster.psql("insert into moments values (1)");
    std::thread::sleep(Duration::from_millis(20));
    let time = machine
        .cluster
        .psql("select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')");
    machine.cluster.psql("insert into moments values (2)");
    machine.wait_archived();
    assert_eq!(archive.terminate(LONG).and_then(|status| status.code()), Some(0), "{}", archive.log_tail(5));

    // What would be done, and nothing else.
    let data = machine.path("restored");
    let to = |target: &[&str], more: &[&str]| {
        let port = free_port().to_string();
        let place = ["database", "restore", "--asset", "shop/orders", "-D", data.to_str().unwrap(), "--port"];
        let arguments = [&place[..], &[port.as_str()], target, more].concat();
        (arguments.into_iter().map(str::to_string).collect::<Vec<_>>(), port)
    };
    fn borrowed(arguments: &[String]) -> Vec<&str> {
        arguments.iter().map(String::as_str).collect()
    }
    let plan = machine.json(&borrowed(&to(&["--time", &time], &["--dry-run"]).0));
    assert_eq!(plan["base"], backup["snapshot_id"]);
    assert!(!data.exists());

    // Bad input, before anything is written.
    let message = machine.fails(&borrowed(&to(&["--time", "2001-01-01T00:00:00Z"], &[]).0), 1);
    assert!(message.contains("before the first base backup"), "{message}");
    let message = machine.fails(&borrowed(&to(&["--name", "never"], &[]).0), 1);
    assert!(message.contains("is not in the log"), "{message}");
    machine.fails(&borrowed(&to(&["--lsn", "0/0", "--xid", "5"], &[]).0), 1);
    assert!(!data.exists());

    for (target, rows) in [(vec!["--time", time.as_str()], "1"), (vec!["--to", "newest"], "1,2")] {
        let (arguments, port) = to(&target, &[]);
        let restored = machine.json(&borrowed(&arguments));
        assert_eq!(restored["verified"], true);
        let private = restored["private_directory"].as_str().unwrap().to_string();
        let pg_ctl = |arguments: &[&str]| {
            let mut command = machine.cluster.binaries().command("pg_ctl");
            command.args(arguments).arg("-D").arg(&data).arg("-w");
            levee_testing::process::run(&mut command)
        };
        let log = format!("{private}/postgresql.log");
        pg_ctl(&["start", "-l", &log]);
        let query = |sql: &str| {
            let mut psql = machine.cluster.binaries().command("psql");
            psql.args(["-XqAt", "-U", "postgres", "-h", &private, "-p", &port, "-c", sql]);
            levee_testing::process::run(&mut psql).trim().to_string()
        };
        wait_until("it is promoted", LONG, || query("select pg_is_in_recovery()") == "f");
        assert_eq!(query("select string_agg(n::text, ',' order by n) from moments"), rows);
        // The folder is in use now.
        let message = machine.fails(&borrowed(&arguments), 1);
        assert!(message.contains("is not empty"), "{message}");
        pg_ctl(&["stop", "-m", "immediate"]);
        fs::remove_dir_all(&data).unwrap();
    }
}

fn archive_says(machine: &Machine, text: &str) -> bool {
    fs::read_to_string(machine.path("archive.log")).is_ok_and(|log| log.contains(text))
}

/// PostgreSQL takes up to 125 for the end of the log: whatever else is wrong must not look like it.
#[test]
fn fetch_wal_tells_what_is_not_there_from_what_is_wrong() {
    let machine = Machine::new();
    let mut archive = machine.archive();
    wait_until("the archive streams", LONG, || archive_says(&machine, "\"connected\":true"));
    machine.cluster.psql("create table t as select 1");
    let backup = machine.json(&["database", "backup", "--asset", "shop/orders"]);
    archive.terminate(LONG);
    let system = backup["system_identifier"].as_str().unwrap();
    let name = machine.cluster.psql(&format!("select pg_walfile_name('{}')", backup["start"].as_str().unwrap()));
    let destination = machine.path("wal");
    let fetch = |name: &str| {
        let arguments = ["database", "fetch-wal", "--system-identifier", system, name, destination.to_str().unwrap()];
        machine.command(&arguments).output().unwrap().status.code().unwrap()
    };
    assert_eq!(fetch(&name), 0);
    let own = fs::read(machine.cluster.data_directory().join("pg_wal").join(&name)).unwrap();
    assert_eq!(fs::metadata(&destination).unwrap().len() as usize, own.len());
    assert_eq!(fs::metadata(&destination).unwrap().permissions().mode() & 0o777, 0o600);
    for missing in ["0000000100000000000000FF", "00000002.history", "nonsense", "0000000F0000000000000001"] {
        assert_eq!(fetch(missing), 1, "{missing}");
    }
    let keygen = Command::new("age-keygen").output().unwrap();
    fs::write(machine.path("identity"), keygen.stdout).unwrap();
    assert_eq!(fetch(&name), 254, "another key");
    fs::remove_file(machine.path("identity")).unwrap();
    assert_eq!(fetch(&name), 254, "no key");
    let unknown = machine.command(&["database", "fetch-wal", "--of-another-version", &name]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(254), "used wrongly");
}

#[test]
fn a_password_in_an_argument_is_refused() {
    let machine = Machine::new();
    let message = machine.fails(&["database", "preflight", "--connect", "postgresql://levee:hunter2@127.0.0.1/x"], 1);
    assert!(message.contains("leave the password out"), "{message}");
    assert!(!message.contains("hunter2"), "{message}");
}
