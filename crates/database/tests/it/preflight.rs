use levee_database::Error;
use levee_database::postgres::{Expect, Needs, Warning, preflight};
use levee_engine::postgres::{ConnectOptions, Host, Password};
use levee_model::postgres::SegmentSize;
use levee_testing::postgres::Cluster;

use crate::options;

fn needs() -> Needs {
    Needs {
        expect: Expect::Primary,
        zero_loss: false,
        application_name: "levee".into(),
        slot: Some("levee".into()),
        system_identifier: None,
    }
}

fn zero_loss() -> Needs {
    Needs { zero_loss: true, ..needs() }
}

/// By TCP, as a role with a password.
fn as_role(cluster: &Cluster, role: &str, password: &str) -> ConnectOptions {
    let mut options = ConnectOptions::new(Host::Tcp(cluster.address().to_string()), cluster.port(), role);
    options.password = Some(Password::new(password));
    options
}

#[test]
fn a_server_that_is_fit_is_described() {
    let cluster = Cluster::builder().start();
    let report = preflight(&options(&cluster), &needs()).unwrap();
    assert_eq!(report.version.major(), 15);
    assert_eq!(report.segment_size, SegmentSize::DEFAULT);
    assert!(report.data_checksums && !report.is_standby);
    // The question itself may take long on a machine that has much else to do.
    let uncertainty = jiff::SignedDuration::try_from(report.clock_skew_uncertainty).unwrap();
    assert!(report.clock_skew.abs() < jiff::SignedDuration::from_secs(1) + uncertainty, "{}", report.clock_skew);
    assert_eq!(report.warnings, [Warning::SlotUnbounded, Warning::NoFsync]);
    let another = Needs { system_identifier: Some(levee_model::postgres::SystemIdentifier(1)), ..needs() };
    assert!(matches!(preflight(&options(&cluster), &another), Err(Error::OtherCluster { .. })));
    let standby = Needs { expect: Expect::Standby, ..needs() };
    assert!(matches!(preflight(&options(&cluster), &standby), Err(Error::IsPrimary)));
}

#[test]
fn who_may_not_is_told_what_is_missing() {
    let cluster = Cluster::builder()
        .hba("host all levee all scram-sha-256\nhost replication levee all scram-sha-256")
        .hba("host all plain all scram-sha-256\nhost all blind all scram-sha-256")
        .hba("host all local_only all scram-sha-256\nhost replication local_only all reject")
        .start();
    cluster.psql("create role levee login replication password 'x' in role pg_monitor");
    cluster.psql("create role plain login password 'x' in role pg_monitor");
    cluster.psql("create role blind login replication password 'x'");
    cluster.psql("create role local_only login replication password 'x' in role pg_monitor");
    let check = |role: &str, password: &str| preflight(&as_role(&cluster, role, password), &needs());
    check("levee", "x").unwrap();
    let error = check("levee", "wrong").unwrap_err();
    assert!(matches!(error, Error::WrongPassword { .. }), "{error:?}");
    assert!(!error.with_causes().contains("wrong "), "{error}");
    assert!(matches!(check("plain", "x"), Err(Error::NoReplicationRight { .. })));
    let error = check("blind", "x").unwrap_err();
    assert!(matches!(error, Error::NoMonitorRight { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        "role \"blind\" can't read the server's settings and slots: run GRANT pg_monitor TO blind"
    );
    let error = check("local_only", "x").unwrap_err();
    assert!(matches!(error, Error::NotAdmitted { .. }), "{error:?}");
    let advice = format!(
        "PostgreSQL at {}:{} does not let role \"local_only\" connect: create it where it is not there (CREATE ROLE \
         local_only LOGIN REPLICATION), add a line for it (for a database and for `replication`) to pg_hba.conf and reload",
        cluster.address(),
        cluster.port()
    );
    assert_eq!(error.to_string(), advice);
    // What the server said about it, which names the line that is in the way.
    assert!(error.with_causes().contains("pg_hba.conf rejects replication connection"), "{}", error.with_causes());
    let mut nobody = as_role(&cluster, "levee", "x");
    nobody.password = None;
    assert!(matches!(preflight(&nobody, &needs()), Err(Error::NoPassword { .. })));
    nobody.port = 1;
    assert!(matches!(preflight(&nobody, &needs()), Err(Error::NotReachable { .. })));
}

#[test]
fn settings_that_do_not_do_are_told() {
    let minimal = Cluster::builder().setting("wal_level", "minimal").setting("max_wal_senders", "0").start();
    assert!(matches!(preflight(&options(&minimal), &needs()), Err(Error::WalLevelMinimal)));

    let crowded = Cluster::builder().setting("max_replication_slots", "1").start();
    crowded.psql("select pg_create_physical_replication_slot('other')");
    assert!(matches!(preflight(&options(&crowded), &needs()), Err(Error::NoFreeSlot { max: 1 })));
    let own = Needs { slot: Some("other".into()), ..needs() };
    preflight(&options(&crowded), &own).unwrap();
}

#[test]
fn zero_loss_is_believed_only_where_no_commit_gets_by() {
    let cluster = Cluster::builder().start();
    let options = options(&cluster);
    assert!(matches!(preflight(&options, &zero_loss()), Err(Error::NotInEveryQuorum { .. })));
    // Questions to a server that waits for nobody yet would hang on commits, but there are none.
    cluster.set("synchronous_standby_names", "ANY 1 (levee, other)");
    assert!(matches!(preflight(&options, &zero_loss()), Err(Error::NotInEveryQuorum { .. })));
    cluster.set("synchronous_standby_names", "FIRST 1 (levee)");
    preflight(&options, &zero_loss()).unwrap();
    cluster.set("synchronous_commit", "remote_apply");
    assert!(matches!(preflight(&options, &zero_loss()), Err(Error::RemoteApply { .. })));
    assert!(matches!(preflight(&options, &needs()), Err(Error::RemoteApply { .. })), "it would wait for us in vain");
    cluster.set("synchronous_commit", "local");
    assert!(matches!(preflight(&options, &zero_loss()), Err(Error::CommitsDoNotWait { .. })));
    preflight(&options, &needs()).unwrap();
    cluster.psql(
        "set synchronous_commit = local; create role app; alter role app set synchronous_commit = 'remote_apply'",
    );
    cluster.set("synchronous_commit", "on");
    let error = preflight(&options, &zero_loss()).unwrap_err();
    assert!(error.to_string().contains("for role \"app\""), "{error}");
}
