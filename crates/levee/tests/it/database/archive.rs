//! What `levee database archive` tells a person about a server that does not do, or not quite.

use levee_testing::Child;
use levee_testing::postgres::Cluster;
use levee_testing::wait::wait_until;

use super::{LONG, Machine};

const REMOTE_APPLY: &str = "synchronous_commit is `remote_apply`, but Levee stores the log and applies nothing, so \
                            commits would wait for ever: set it to `on`";

/// The archive as a person runs it, without JSON. Another one on the same machine goes on in the same file.
fn start(machine: &Machine, arguments: &[&str]) -> Child {
    let mut command = machine.command(&["database", "archive", "--asset", "shop/orders"]);
    Child::spawn("archive", command.args(arguments), &machine.path("archive.log"))
}

#[track_caller]
fn wait_printed(archive: &Child, text: &str) {
    wait_until(text, LONG, || archive.log_text().contains(text));
}

#[track_caller]
fn stop(mut archive: Child) {
    assert_eq!(archive.terminate(LONG).and_then(|status| status.code()), Some(0), "{}", archive.log_tail(5));
}

#[track_caller]
fn ends_by_itself(mut archive: Child) {
    assert_eq!(archive.wait(LONG).and_then(|status| status.code()), Some(1), "{}", archive.log_tail(5));
}

#[test]
fn a_log_that_holds_too_little_is_refused_before_anything_is_made() {
    let cluster = Cluster::builder().setting("wal_level", "minimal").setting("max_wal_senders", "0").start();
    let machine = Machine::with(cluster);
    let check = |message: &str| {
        let told = "wal_level is `minimal`, which keeps too little in the log: set wal_level = replica and restart";
        assert!(message.contains(told), "{message}");
        // With more senders PostgreSQL would not start any more.
        assert!(!message.contains("max_wal_senders"), "{message}");
    };
    ends_by_itself(start(&machine, &[]));
    check(&std::fs::read_to_string(machine.path("archive.log")).unwrap());
    assert!(!machine.path("journal").exists());

    let mut backup = machine.command(&["database", "backup", "--asset", "shop/orders"]);
    let output = backup.env_remove("LEVEE_JOURNAL").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    check(&String::from_utf8(output.stderr).unwrap());
}

#[test]
fn a_role_that_may_not_is_told_at_once() {
    let cluster = Cluster::builder().start();
    cluster.psql("create role blind login replication");
    let machine = Machine::with(cluster);
    let dsn = machine.cluster.dsn("postgres").replace("user=postgres", "user=blind");
    let archive = start(&machine, &["--connect", &dsn]);
    ends_by_itself(archive);
    let message = std::fs::read_to_string(machine.path("archive.log")).unwrap();
    assert!(message.contains("run GRANT pg_monitor TO blind"), "{message}");
}

#[test]
fn what_is_wrong_with_zero_loss_is_said_once_whenever_it_changes() {
    let machine = Machine::new();
    let archive = start(&machine, &["--zero-loss"]);
    let for_nobody = "warning: zero loss is asked for, but synchronous_standby_names is \"\": it is empty, so commits \
                      wait for nobody";
    wait_printed(&archive, for_nobody);
    machine.cluster.set("synchronous_standby_names", "levee_shop_orders");
    wait_printed(&archive, "commits are in order again");
    machine.cluster.set("synchronous_standby_names", "levee_shop_orders, other");
    wait_printed(&archive, "so others can stand in for Levee");
    let printed = archive.log_text();
    assert_eq!(printed.matches(for_nobody).count(), 1, "{printed}");
    assert_eq!(printed.matches("commits are in order again").count(), 1, "{printed}");
    stop(archive);
}

#[test]
fn commits_that_would_wait_for_ever_are_told_without_zero_loss_too() {
    let machine = Machine::new();
    let archive = start(&machine, &[]);
    wait_until("it archives", LONG, || archive.log_text().lines().any(|line| line == "archiving"));
    machine.cluster.set("synchronous_standby_names", "levee_shop_orders");
    machine.cluster.set("synchronous_commit", "remote_apply");
    wait_printed(&archive, &format!("warning: {REMOTE_APPLY}"));
    stop(archive);

    let archive = start(&machine, &[]);
    ends_by_itself(archive);
    let printed = std::fs::read_to_string(machine.path("archive.log")).unwrap();
    assert!(printed.contains(&format!("levee: {REMOTE_APPLY}")), "{printed}");
}

/// As where both start with the machine, and the archive comes first.
#[test]
fn a_server_that_is_not_there_yet_is_waited_for() {
    let mut machine = Machine::with(Cluster::builder().create());
    let archive = start(&machine, &[]);
    wait_printed(&archive, "can't be reached");
    machine.cluster.start();
    wait_until("it archives", LONG, || archive.log_text().lines().any(|line| line == "archiving"));
    stop(archive);
}
