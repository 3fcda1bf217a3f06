//! Access rules that lie in several files.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use levee_database::postgres::restore::{Mode, Network, RecoveryTarget};
use levee_testing::postgres::{Cluster, Version};
use levee_testing::process::try_run;

use crate::restoring::{Archiving, RecoverySide, Restored};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Whether a role is let in over TCP.
fn lets_in(restored: &Restored, role: &str) -> Result<String, String> {
    let mut psql = Command::new("psql");
    let port = restored.port.to_string();
    psql.args(["-XqAtw", "-h", &HERE.to_string(), "-p", &port, "-U", role, "-d", "postgres", "-c", "select 1"]);
    try_run(psql.env("PGCONNECT_TIMEOUT", "5"))
}

#[test]
fn the_files_that_access_rules_name_come_along() {
    let mut cluster = Cluster::builder().version(Version::V17).create();
    let main = cluster.site().database_folder("etc");
    let shared = cluster.site().database_folder("shared");
    let write = |folder: &std::path::Path, name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    fs::create_dir(main.join("rules.d")).unwrap();
    write(
        &main,
        "pg_hba.conf",
        &format!(
            "local all all trust\nlocal replication all trust\ninclude_dir rules.d\ninclude_if_exists absent.conf\n\
         include \"{}\"\n",
            shared.join("last.conf").display()
        ),
    );
    write(&main.join("rules.d"), "10-admins.conf", "host all @../admins 127.0.0.1/32 trust\n");
    write(&main.join("rules.d"), "ignored.txt", "this is no rule\n");
    write(&main, "admins", "ada, grace\n");
    write(&shared, "last.conf", "host all linus 127.0.0.1/32 trust\n");
    fs::remove_file(cluster.data_directory().join("pg_hba.conf")).unwrap();
    let conf = cluster.data_directory().join("postgresql.conf");
    let text = fs::read_to_string(&conf).unwrap();
    fs::write(&conf, format!("{text}\nhba_file = '{}'\n", main.join("pg_hba.conf").display())).unwrap();
    cluster.start();
    for role in ["ada", "grace", "linus", "mallory"] {
        cluster.psql(&format!("create role {role} login"));
    }

    let side = RecoverySide { binaries: Some(cluster.binaries().folder().to_path_buf()), ..RecoverySide::new() };
    let archiving = Archiving::start(&cluster, &side.journal);
    let base = side.base(&cluster);
    side.wait_durable(base.facts.system_identifier, base.facts.timeline, cluster.flush_lsn().parse().unwrap());
    drop(archiving);
    drop(cluster);
    assert!(!shared.exists(), "the files of the source are gone");
    let plan = side.plan(&RecoveryTarget::Newest).unwrap();
    let restored = side.restore_on("data", &plan, Mode::Promote, &BTreeMap::new(), Network::At(HERE));
    for role in ["ada", "grace", "linus"] {
        lets_in(&restored, role).unwrap();
    }
    let refused = lets_in(&restored, "mallory").unwrap_err();
    assert!(refused.contains("no pg_hba.conf entry"), "{refused}");
    assert_eq!(restored.query("select count(*) from pg_hba_file_rules where error is not null"), "0");
}
