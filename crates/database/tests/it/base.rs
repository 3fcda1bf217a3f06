use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use levee_database::postgres::archive::{ArchiveOptions, run};
use levee_database::postgres::base::{self, BaseBackup, BaseOptions, PageChecks};
use levee_database::{Error, StopSignal};
use levee_model::postgres::{SegmentSize, wal_file_name};
use levee_model::{AssetId, Epoch};
use levee_store::LocalStore;
use levee_testing::postgres::{Cluster, Version};
use levee_testing::users::User;
use levee_vault::{Password, RestoreOptions, Vault, restore};

use crate::memory_sink::MemorySink;
use crate::{ROLE_HBA, options, role_options, wait_until};

fn asset() -> AssetId {
    "shop/orders".parse().unwrap()
}

fn vault(folder: &Path) -> Vault {
    Vault::init(Arc::new(LocalStore::new(folder)), &Password::new("a password")).unwrap()
}

fn base_options(cluster: &Cluster) -> BaseOptions {
    BaseOptions::new(options(cluster), asset(), Epoch(3))
}

/// A running cluster with more settings, whose rules of access lie outside its data directory, and where.
fn with_rules_outside(settings: &str) -> (Cluster, PathBuf) {
    let mut cluster = Cluster::builder().hba(ROLE_HBA).create();
    let hba = cluster.site().database_folder("etc").join("pg_hba.conf");
    fs::rename(cluster.data_directory().join("pg_hba.conf"), &hba).unwrap();
    let conf = cluster.data_directory().join("postgresql.conf");
    let text = fs::read_to_string(&conf).unwrap();
    fs::write(&conf, format!("{text}\nhba_file = '{}'\n{settings}", hba.display())).unwrap();
    cluster.start();
    (cluster, hba)
}

fn take(options: &BaseOptions, vault: &Vault) -> levee_database::Result<BaseBackup> {
    base::take(options, vault, &(), &StopSignal::new().unwrap())
}

/// Puts a base where another cluster can run from it, as an operator would by hand.
fn restore_into(vault: &Vault, base: &BaseBackup, target: &Cluster) {
    let user = User::for_database();
    let part = |subfolder: String, target: &Path| {
        let options = RestoreOptions {
            target: target.into(),
            subfolder: Some(subfolder.into()),
            owner: user.as_ref().map(|user| (user.uid, user.gid)),
            ..RestoreOptions::default()
        };
        let summary = restore(vault, &base.snapshot, &options, &()).unwrap();
        assert!(summary.errors.is_empty(), "{:?}", summary.errors);
    };
    fs::remove_dir_all(target.data_directory()).unwrap();
    let data = vault.find_node(&base.snapshot, Path::new(base::DATA_PATH)).unwrap().unwrap();
    assert_eq!(data.mode, 0o700);
    part(base::DATA_PATH.into(), target.data_directory());
    fs::set_permissions(target.data_directory(), fs::Permissions::from_mode(data.mode)).unwrap();
    for space in &base.facts.tablespaces {
        let here = target.site().database_folder(&format!("space-{}", space.oid));
        part(format!("{}/{}", base::TABLESPACES_PATH, space.oid), &here);
        let link = target.data_directory().join("pg_tblspc").join(space.oid.to_string());
        assert_eq!(fs::read_link(&link).unwrap(), Path::new(&space.location));
        fs::remove_file(&link).unwrap();
        symlink(&here, &link).unwrap();
    }
}

#[test]
fn a_base_that_was_taken_under_load_becomes_a_server_with_all_that_was_archived() {
    for version in Version::MAIN {
        let cluster = Cluster::builder().version(version).start();
        cluster.pgbench().initialize(5);
        let space = cluster.site().database_folder("space");
        cluster.psql(&format!("create tablespace extra location '{}'", space.display()));
        cluster.psql("create table elsewhere tablespace extra as select generate_series(1, 1000) a");
        let sink = MemorySink::new();
        let stop = StopSignal::new().unwrap();
        let archive = {
            let (mut sink, stop) = (sink.clone(), stop.clone());
            let options = ArchiveOptions::new(options(&cluster), "levee_test");
            std::thread::spawn(move || run(&options, &mut sink, &stop, &mut |_| {}))
        };
        let folder = cluster.site().folder("vault");
        let vault = vault(&folder);
        let mut load = cluster
            .pgbench()
            .command(&["-c", "2", "-T", "4"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(500));
        let base = take(&base_options(&cluster), &vault).unwrap();
        load.wait().unwrap();
        cluster.psql("create table after_all as select 42 a");
        let question = "select (select count(*) from pgbench_history), (select sum(abalance) from pgbench_accounts), \
                        (select sum(bbalance) from pgbench_branches), (select count(*) from elsewhere), (select a from after_all)";
        let expected = cluster.psql(question);
        let end = cluster.flush_lsn().parse().unwrap();
        wait_until("the log is archived", || sink.end(1) >= end);
        stop.stop();
        archive.join().unwrap().unwrap();
        assert!(base.facts.stop > base.facts.start && base.facts.bytes > 80 << 20, "{:?}", base.facts);

        let mut copy = Cluster::builder().version(version).create();
        restore_into(&vault, &base, &copy);
        let answer = copy.binaries().verify_backup(copy.data_directory(), &["-n"]);
        assert!(answer.contains("successfully verified"), "{answer}");

        let wal = copy.site().database_folder("wal");
        sink.with(|shared| {
            let log = &shared.logs[&base.facts.timeline];
            let size = SegmentSize::DEFAULT;
            for (number, segment) in log.bytes.chunks(size.bytes() as usize).enumerate() {
                let start = levee_model::postgres::Lsn(log.start.0 + number as u64 * size.bytes());
                let mut padded = segment.to_vec();
                padded.resize(size.bytes() as usize, 0);
                fs::write(wal.join(wal_file_name(base.facts.timeline, start, size)), padded).unwrap();
            }
        });
        let conf = copy.data_directory().join("postgresql.auto.conf");
        let own = format!(
            "port = {}\nunix_socket_directories = '{}'\nrestore_command = 'cp {}/%f %p'\n",
            copy.port(),
            copy.socket_directory().display(),
            wal.display()
        );
        fs::write(&conf, fs::read_to_string(&conf).unwrap() + &own).unwrap();
        fs::write(copy.data_directory().join("recovery.signal"), "").unwrap();
        copy.start();
        wait_until("it is promoted", || copy.psql("select pg_is_in_recovery()") == "f");
        assert_eq!(copy.psql(question), expected);
    }
}

#[test]
fn a_base_tells_what_it_is_and_what_it_needs() {
    let (cluster, hba) = with_rules_outside("max_connections = 77\n");
    let conf = cluster.data_directory().join("postgresql.conf");
    cluster.psql("create database shop");
    cluster.psql("create database closed allow_connections false");
    let vault = vault(&cluster.site().folder("vault"));
    let options = BaseOptions::new(role_options(&cluster), asset(), Epoch(3));
    let taken = take(&options, &vault).unwrap();
    let second = take(&options, &vault).unwrap();

    assert_eq!(base::list(&vault, &asset()).unwrap(), [taken.clone(), second.clone()]);
    assert_eq!(base::list(&vault, &"shop/other".parse().unwrap()).unwrap(), []);
    let loaded = base::load(&vault, &taken.snapshot).unwrap();
    assert_eq!(loaded, taken);
    let facts = loaded.facts;
    assert_eq!((facts.epoch, facts.server_version / 10_000, facts.data_checksums), (Epoch(3), 15, true));
    assert_eq!(facts.settings["max_connections"], "77");
    assert_eq!(Path::new(&facts.data_directory), cluster.data_directory());
    assert!(facts.started_at < facts.ended_at && facts.ended_at < second.facts.started_at);
    let database = |name: &str| facts.databases.iter().find(|database| database.name == name).unwrap().clone();
    let shop = database("shop");
    assert_eq!(
        (shop.encoding.as_str(), shop.collate.as_str(), shop.locale_provider.as_deref()),
        ("UTF8", "C", Some("c"))
    );
    assert_eq!(shop.extensions.unwrap()[0].name, "plpgsql");
    assert_eq!(database("closed").extensions, None);
    let stored = |path: &Path| {
        let file = facts.configuration.iter().find(|file| Path::new(&file.path) == path).unwrap();
        let stored = file.stored.clone().unwrap();
        (stored.clone(), vault.read_file(&taken.snapshot, Path::new(&stored)).unwrap())
    };
    let (path, content) = stored(&hba);
    assert!(path.starts_with(base::CONFIGURATION_PATH), "{path}");
    assert_eq!(content, fs::read(&hba).unwrap());
    let (path, content) = stored(&conf);
    assert_eq!((path.as_str(), content), ("data/postgresql.conf", fs::read(&conf).unwrap()));

    let snapshots = vault.snapshots().unwrap();
    assert_eq!(snapshots[0].1.tags, ["levee-base", "asset:shop/orders", "epoch:3"]);
    assert!(matches!(
        base::load(&vault, &levee_vault::SnapshotId(levee_vault::Id::of(b"none"))),
        Err(Error::Vault { .. })
    ));
}

/// Without its configuration a base could not be brought back: it is refused, with what helps.
#[test]
fn a_base_whose_configuration_cannot_be_read_is_refused() {
    let (cluster, hba) = with_rules_outside("");
    let aside = hba.with_extension("aside");
    let vault = vault(&cluster.site().folder("vault"));
    let options = BaseOptions::new(role_options(&cluster), asset(), Epoch(3));
    fs::rename(&hba, &aside).unwrap();
    let error = take(&options, &vault).unwrap_err();
    assert!(matches!(&error, Error::ConfigurationUnreadable { path, .. } if *path == hba), "{error:?}");
    assert_eq!(base::list(&vault, &asset()).unwrap(), []);
    fs::rename(&aside, &hba).unwrap();
    take(&options, &vault).unwrap();

    // What it says to grant is what reading by the server takes.
    let said = error.to_string();
    let advice = &said[said.find("GRANT").unwrap()..];
    let by_server = format!("set role levee; select pg_read_binary_file('{}') is null", hba.display());
    assert!(cluster.try_psql(&by_server).unwrap_err().contains("permission denied"));
    cluster.psql(advice);
    assert_eq!(cluster.psql(&by_server).lines().last(), Some("f"));
}

#[test]
fn damaged_pages_fail_a_base_or_are_counted() {
    let cluster = Cluster::builder().start();
    cluster.psql("create table t as select generate_series(1, 5000) a; checkpoint");
    let path = cluster.data_directory().join(cluster.psql("select pg_relation_filepath('t')"));
    let mut content = fs::read(&path).unwrap();
    content[8192 + 5000] ^= 0xFF;
    fs::write(&path, content).unwrap();
    let vault = vault(&cluster.site().folder("vault"));
    let refuse = base_options(&cluster);
    let error = take(&refuse, &vault).unwrap_err();
    assert!(matches!(error, Error::DamagedPages { .. }), "{error:?}");
    assert_eq!(vault.snapshots().unwrap().len(), 0);
    let count = BaseOptions { page_checks: PageChecks::Count, ..refuse };
    assert_eq!(take(&count, &vault).unwrap().facts.damaged_pages, 1);
}

#[test]
fn a_base_that_is_stopped_or_loses_its_server_leaves_no_snapshot() {
    let mut cluster = Cluster::builder().start();
    cluster.pgbench().initialize(5);
    let vault = vault(&cluster.site().folder("vault"));
    let slow = BaseOptions { rate_kib_max: Some(1000), ..base_options(&cluster) };
    let attempt = |stop: &StopSignal| {
        let (slow, vault, stop) = (slow.clone(), vault.clone(), stop.clone());
        let attempt = std::thread::spawn(move || base::take(&slow, &vault, &(), &stop));
        std::thread::sleep(Duration::from_secs(2));
        assert!(!attempt.is_finished());
        attempt
    };
    let stop = StopSignal::new().unwrap();
    let attempted = attempt(&stop);
    stop.stop();
    assert!(matches!(attempted.join().unwrap(), Err(Error::Stopped)));
    let attempted = attempt(&StopSignal::new().unwrap());
    cluster.kill();
    let error = attempted.join().unwrap().unwrap_err();
    assert!(matches!(error, Error::Engine { .. }), "{error:?}");
    assert_eq!(vault.snapshots().unwrap().len(), 0);
    cluster.start();
    take(&base_options(&cluster), &vault).unwrap();
}
