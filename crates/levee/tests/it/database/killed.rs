//! `levee database …` killed with SIGKILL at many moments: nothing acknowledged is lost, and nothing half-done counts.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use levee_journal::{JournalKeys, LogJournal, Pin};
use levee_model::postgres::{Lsn, TimelineId};
use levee_testing::postgres::Cluster;
use levee_testing::restic::Restic;
use levee_testing::rows::{Row, Rows, check_all_in};
use levee_testing::users::{User, is_root};
use levee_testing::wait::{wait_for, wait_until};
use levee_testing::{Child, free_port, process};
use serde_json::Value;

use super::{LONG, Machine, PASSWORD, archive_says, rows};

const ARCHIVE_KILLS: usize = 6;
/// At which share of its data a base backup is killed.
const BACKUP_KILLS_PERCENT: [i64; 5] = [0, 15, 30, 45, 60];
/// At which share of its files a restore is killed.
const RESTORE_KILLS_PERCENT: [u64; 5] = [0, 25, 50, 75, 95];
/// A restore is over in less than a second, so that a kill may come too late.
const RESTORE_TRIES: usize = 6;
/// Slow enough to be killed where it is meant to be: some 50 MB in all.
const RATE_KIB: &str = "10240";
const FILLER: &str =
    "create table filler as select n, repeat(md5(n::text), 8) as text from generate_series(1, 100000) n";

fn start_archive(machine: &Machine) -> Child {
    let archive = machine.archive();
    wait_until("the archive streams", LONG, || archive_says(machine, "\"connected\":true"));
    archive
}

/// What brings the newest state back into a folder.
fn restore_arguments(data: &Path, port: u16) -> Vec<String> {
    let fixed = ["database", "restore", "--asset", "shop/orders", "-D"].map(str::to_string);
    fixed.into_iter().chain([data.display().to_string(), "--port".into(), port.to_string()]).collect()
}

fn borrowed(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// Starts what was restored, waits until it is promoted, and checks that every acknowledged row is there.
#[track_caller]
fn check_restored(machine: &Machine, data: &Path, restored: &Value, port: u16, acknowledged: &[Row]) {
    let private = restored["private_directory"].as_str().unwrap();
    let mut pg_ctl = machine.cluster.binaries().command("pg_ctl");
    pg_ctl.args(["start", "-w", "-l", &format!("{private}/postgresql.log")]).arg("-D").arg(data);
    process::run(&mut pg_ctl);
    let query = |sql: &str| {
        let mut psql = machine.cluster.binaries().command("psql");
        psql.args(["-XqAt", "-U", "postgres", "-h", private, "-p", &port.to_string(), "-c", sql]);
        process::run(&mut psql).trim().to_string()
    };
    wait_until("it is promoted", LONG, || query("select pg_is_in_recovery()") == "f");
    check_all_in(acknowledged, query("select number from numbers").lines());
}

#[test]
fn a_killed_archive_and_then_its_killed_source_lose_no_acknowledged_row() {
    let cluster = Cluster::builder().setting("synchronous_standby_names", "levee_shop_orders").start();
    let mut machine = Machine::with(cluster);
    let mut archive = start_archive(&machine);
    machine.cluster.psql(rows::TABLE);
    machine.levee(&["database", "backup", "--asset", "shop/orders"]);
    let source = SocketAddr::new(machine.cluster.address(), machine.cluster.port());
    let mut rows = Rows::start(rows::LOAD, &[source]);
    for kill in 0..ARCHIVE_KILLS {
        rows.wait_for_more_at(source, 10 + 17 * kill, LONG);
        archive.kill();
        archive = machine.archive();
    }
    // The last one streams, and the source goes while it does.
    rows.wait_for_more_at(source, 50, LONG);
    machine.cluster.kill();
    let acknowledged = rows.stop();
    archive.kill();
    let aside = machine.cluster.site().path().join("put-aside");
    fs::rename(machine.cluster.data_directory(), aside).unwrap();

    let (data, port) = (machine.path("restored"), free_port());
    let restored = machine.json(&borrowed(&restore_arguments(&data, port)));
    check_restored(&machine, &data, &restored, port, &acknowledged);
}

/// How much of a base backup under way the source has sent; -1 when there is none.
fn percent_sent(machine: &Machine) -> i64 {
    let sql = "select coalesce(max(coalesce(100 * backup_streamed / nullif(backup_total, 0), 0)), -1) \
               from pg_stat_progress_basebackup";
    machine.cluster.psql(sql).parse().unwrap()
}

/// A base backup that has sent so much and still runs.
#[track_caller]
fn backup_at(machine: &Machine, percent: i64) -> Child {
    let mut command =
        machine.command(&["--json", "database", "backup", "--asset", "shop/orders", "--limit-rate", RATE_KIB]);
    let mut backup = Child::spawn("backup", &mut command, &machine.path("backup.log"));
    let is_there = || !backup.is_running() || percent_sent(machine) >= percent;
    wait_until(&format!("{percent} % of a base backup"), LONG, is_there);
    assert!(backup.is_running(), "it ended before {percent} %: {}", backup.log_tail(5));
    backup
}

fn pins(journal: &LogJournal) -> Vec<String> {
    journal.pins().unwrap().into_keys().collect()
}

#[test]
fn a_killed_base_backup_leaves_a_sound_vault_and_one_pin_that_the_next_one_takes_away() {
    let machine = Machine::new();
    let _archive = start_archive(&machine);
    machine.cluster.psql(FILLER);
    let journal = LogJournal::open_existing(&machine.path("journal"), JournalKeys::default()).unwrap();
    let slots = || machine.cluster.psql("select slot_name from pg_replication_slots");
    assert_eq!(slots(), "levee_shop_orders");
    for percent in BACKUP_KILLS_PERCENT {
        backup_at(&machine, percent).kill();
        // However many were killed.
        assert_eq!(pins(&journal), ["base backup of shop/orders under way, timeline 1"], "at {percent} %");
        let senders = "select count(*) from pg_stat_replication where application_name = 'levee_base'";
        wait_until("the source has noticed", LONG, || {
            machine.cluster.psql(senders) == "0" && percent_sent(&machine) == -1
        });
        assert_eq!(slots(), "levee_shop_orders");
        // The lock of a killed one keeps a check away until somebody says that its owner is gone.
        machine.levee(&["vault", "unlock"]);
        machine.levee(&["vault", "check", "--read-data"]);
        for list in [&["vault", "snapshots"][..], &["database", "list", "--asset", "shop/orders"]] {
            assert_eq!(machine.json(list), Value::Array(Vec::new()), "{list:?} at {percent} %");
        }
    }

    // A pin of a timeline that the journal has no more, and one of another asset.
    let system_identifier = journal.lineages().unwrap()[0].0;
    let pin = Pin { system_identifier, timeline: TimelineId(9), from: Lsn(0) };
    journal.pin("base backup of shop/orders under way, timeline 9", pin).unwrap();
    let of_another = "base backup of shop/orders-old under way, timeline 9";
    journal.pin(of_another, pin).unwrap();
    let backup = machine.json(&["database", "backup", "--asset", "shop/orders"]);
    assert_eq!(backup["log_is_there"], true, "{backup}");
    assert_eq!(pins(&journal), [of_another]);
    let listed = machine.json(&["database", "list", "--asset", "shop/orders"]);
    assert_eq!(listed[0]["snapshot_id"], backup["snapshot_id"], "{listed}");
    machine.levee(&["vault", "check", "--read-data"]);
    let mut check = Restic::distribution().command(machine.path("vault"), PASSWORD);
    process::run(check.args(["check", "--read-data"]));
}

#[test]
fn a_failed_or_stopped_base_backup_takes_its_pin_away() {
    let machine = Machine::new();
    let _archive = start_archive(&machine);
    machine.cluster.psql(FILLER);
    let journal = LogJournal::open_existing(&machine.path("journal"), JournalKeys::default()).unwrap();
    let nowhere = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", free_port());
    let message = machine.fails(&["database", "backup", "--asset", "shop/orders", "--connect", &nowhere], 1);
    assert!(message.contains("can't be reached"), "{message}");
    assert_eq!(pins(&journal), [""; 0]);

    let mut backup = backup_at(&machine, 20);
    assert_eq!(pins(&journal).len(), 1);
    let status = backup.terminate(LONG).expect("it ends when it is asked to");
    assert!(!status.success(), "{}", backup.log_tail(5));
    assert_eq!(pins(&journal), [""; 0]);
}

/// The files below a folder, as far as it can be looked into.
fn count_files(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let count = |entry: fs::DirEntry| match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
        true => count_files(&entry.path()),
        false => 1,
    };
    entries.flatten().map(count).sum()
}

/// Starts a restore and kills it once `is_due`. Looks all the time: it is over in less than a second.
fn kill_restore(machine: &Machine, arguments: &[String], is_due: impl Fn() -> bool) {
    let mut command = machine.command(&borrowed(arguments));
    let mut restore = Child::spawn("restore", &mut command, &machine.path("restore.log"));
    let begun = Instant::now();
    while restore.is_running() && !is_due() {
        assert!(begun.elapsed() < LONG, "the restore does nothing: {}", restore.log_tail(5));
        std::thread::yield_now();
    }
    restore.kill();
}

/// Whether PostgreSQL comes up in a folder. What its user or mode would keep from that is set right before.
fn starts(machine: &Machine, folder: &Path) -> bool {
    if is_root() {
        let user = User::for_database().expect("root has a user for databases");
        process::run(Command::new("chown").args(["-R", &user.name]).arg(folder));
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
    let sockets = machine.site.database_folder("s");
    let log = machine.path("attempt.log");
    let _ = fs::remove_file(&log);
    let mut command = machine.cluster.binaries().command("postgres");
    command.arg("-D").arg(folder).args(["-c", "listen_addresses=", "-c", &format!("port={}", free_port())]);
    command.args(["-c", &format!("unix_socket_directories={}", sockets.display())]);
    let mut server = Child::spawn("postgres", &mut command, &log);
    wait_for("PostgreSQL comes up or gives up", LONG, || {
        let is_ready = server.log_text().contains("database system is ready to accept");
        (is_ready || !server.is_running()).then_some(is_ready)
    })
}

#[test]
fn a_killed_restore_leaves_nothing_that_starts_and_the_next_one_goes_through() {
    let machine = Machine::new();
    let mut archive = start_archive(&machine);
    machine.cluster.psql(FILLER);
    machine.cluster.psql(rows::TABLE);
    let backup = machine.json(&["database", "backup", "--asset", "shop/orders"]);
    machine.cluster.psql("insert into numbers select generate_series(1, 100)");
    machine.wait_archived();
    assert_eq!(archive.terminate(LONG).and_then(|status| status.code()), Some(0), "{}", archive.log_tail(5));

    let (data, port) = (machine.path("restored"), free_port());
    let incoming = PathBuf::from(format!("{}.levee-restore", data.display()));
    let arguments = restore_arguments(&data, port);
    let files = backup["files"].as_u64().unwrap();
    let clear = || {
        for left in [&incoming, &data] {
            let _ = fs::remove_dir_all(left);
        }
    };
    // Whether the kill has come in time: from the signal on everything else is in place.
    let is_half_done = |moment: &str| {
        if incoming.join("recovery.signal").exists() || data.exists() {
            return false;
        }
        assert!(incoming.exists(), "{moment}: nothing was begun");
        assert!(!starts(&machine, &incoming), "{moment}: PostgreSQL starts in half a restore");
        true
    };
    let kill = |moment: &str, is_due: &dyn Fn() -> bool| {
        let in_time = (0..RESTORE_TRIES).any(|_| {
            clear();
            kill_restore(&machine, &arguments, is_due);
            is_half_done(moment)
        });
        assert!(in_time, "{moment}: each kill came too late");
    };
    for percent in RESTORE_KILLS_PERCENT {
        let is_due = || incoming.exists() && count_files(&incoming) * 100 >= files * percent;
        kill(&format!("at {percent} % of the files"), &is_due);
    }
    kill("with all files and settings", &|| {
        let settings = fs::read_to_string(incoming.join("postgresql.auto.conf"));
        settings.is_ok_and(|settings| settings.contains("Set by Levee"))
    });

    // Over what a killed one has left.
    kill("half-way", &|| count_files(&incoming) * 2 >= files);
    let restored = machine.json(&borrowed(&arguments));
    assert_eq!(restored["verified"], true, "{restored}");
    assert!(!incoming.exists());
    let at = SocketAddr::new(machine.cluster.address(), machine.cluster.port());
    let rows: Vec<Row> = (1..=100).map(|number| Row { number, at }).collect();
    check_restored(&machine, &data, &restored, port, &rows);
    let message = machine.fails(&borrowed(&arguments), 1);
    assert!(message.contains("is not empty"), "{message}");
}
