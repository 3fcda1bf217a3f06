//! A cluster under load, archived into a journal, and brought back to every kind of moment.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use levee_database::postgres::archive::{self, ArchiveOptions};
use levee_database::postgres::base::{self, BaseBackup, BaseOptions};
use levee_database::postgres::instance::{Instance, ServerState, StopMode};
use levee_database::postgres::restore::{
    self, Mode, Network, RecoveryTarget, RestorePlan, RestoreRequest, Stop, forget_identity, private_connect,
};
use levee_database::postgres::{JournalSink, marks};
use levee_database::{Error, StopSignal};
use levee_engine::postgres::Connection;
use levee_journal::{Identity, JournalKeys, LogJournal};
use levee_model::postgres::{Lsn, SystemIdentifier, TimelineId, wal_file_name};
use levee_model::{AssetId, Epoch};
use levee_store::LocalStore;
use levee_testing::postgres::{Cluster, Version};
use levee_testing::{Child, TempSite, free_port};
use levee_vault::{Password, Vault};

use crate::{options, wait_until};

const LONG: Duration = Duration::from_secs(60);

/// What the recovery side has: a vault, a journal, an identity.
pub struct RecoverySide {
    pub site: TempSite,
    pub vault: Vault,
    pub journal: LogJournal,
    pub identity_file: PathBuf,
    pub fetch_wal: PathBuf,
    /// Of another version than the machine's own.
    pub binaries: Option<PathBuf>,
}

pub fn asset() -> AssetId {
    "shop/orders".parse().unwrap()
}

impl RecoverySide {
    pub fn new() -> RecoverySide {
        let site = TempSite::new("rec");
        let store = Arc::new(LocalStore::new(site.path().join("vault")));
        let vault = Vault::init(store, &Password::new("secret")).unwrap();
        let identity = Identity::generate();
        let identity_file = site.path().join("identity.txt");
        fs::write(&identity_file, identity.to_file_text().as_bytes()).unwrap();
        fs::set_permissions(&identity_file, fs::Permissions::from_mode(0o600)).unwrap();
        let journal = LogJournal::open(&site.path().join("journal"), JournalKeys::of_identity(identity)).unwrap();
        let fetch_wal = fetch_wal_program(site.path());
        RecoverySide { site, vault, journal, identity_file, fetch_wal, binaries: None }
    }

    pub fn base(&self, cluster: &Cluster) -> BaseBackup {
        let stop = StopSignal::new().unwrap();
        base::take(&BaseOptions::new(options(cluster), asset(), Epoch(1)), &self.vault, &(), &stop).unwrap()
    }

    pub fn bases(&self) -> Vec<BaseBackup> {
        base::list(&self.vault, &asset()).unwrap()
    }

    pub fn plan(&self, target: &RecoveryTarget) -> Result<RestorePlan, Error> {
        restore::plan(&self.journal, &self.bases(), target, None)
    }

    /// Restores below `name` and starts the server.
    pub fn restore(&self, name: &str, plan: &RestorePlan, mode: Mode) -> Restored {
        self.restore_with(name, plan, mode, &BTreeMap::new())
    }

    pub fn restore_with(
        &self,
        name: &str,
        plan: &RestorePlan,
        mode: Mode,
        tablespaces: &BTreeMap<PathBuf, PathBuf>,
    ) -> Restored {
        self.restore_on(name, plan, mode, tablespaces, Network::Isolated)
    }

    pub fn restore_on(
        &self,
        name: &str,
        plan: &RestorePlan,
        mode: Mode,
        tablespaces: &BTreeMap<PathBuf, PathBuf>,
        network: Network,
    ) -> Restored {
        let (data_directory, private_directory) =
            (self.site.path().join(name), self.site.path().join(format!("{name}-p")));
        let port = free_port();
        let prepared = restore::prepare(
            &RestoreRequest {
                vault: &self.vault,
                plan,
                journal: &self.journal,
                identity_file: &self.identity_file,
                fetch_wal_program: &self.fetch_wal,
                data_directory: &data_directory,
                private_directory: &private_directory,
                tablespaces,
                os_user: "postgres",
                binaries: self.binaries.as_deref(),
                mode,
                network,
                port,
                verify: true,
            },
            &(),
        )
        .unwrap();
        let until = if mode == Mode::Promote { ServerState::Ready } else { ServerState::Standby };
        prepared.instance.start(until, LONG).unwrap();
        Restored { instance: prepared.instance, private_directory, port }
    }

    pub fn durable_end(&self, system: SystemIdentifier, timeline: TimelineId) -> Lsn {
        self.journal.extent(system, timeline).unwrap().map_or(Lsn(0), |extent| extent.durable_end)
    }

    pub fn wait_durable(&self, system: SystemIdentifier, timeline: TimelineId, lsn: Lsn) {
        wait_until("the journal is durable", || self.durable_end(system, timeline) >= lsn);
    }
}

/// A restored server. It is ended with its value.
pub struct Restored {
    pub instance: Instance,
    pub private_directory: PathBuf,
    pub port: u16,
}

impl Restored {
    pub fn query(&self, sql: &str) -> String {
        let connect = private_connect(&self.private_directory, self.port, "postgres");
        let mut connection = Connection::connect(&connect).unwrap();
        let rows = connection.simple_query(sql).unwrap();
        rows.first().and_then(|row| row.get(0)).unwrap_or_default().to_string()
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        let stopped = self.instance.stop(StopMode::Immediate, LONG);
        if !std::thread::panicking() {
            stopped.unwrap();
        }
    }
}

/// An archive that runs until its value is dropped.
pub struct Archiving {
    stop: StopSignal,
    thread: Option<JoinHandle<()>>,
}

impl Archiving {
    pub fn start(cluster: &Cluster, journal: &LogJournal) -> Archiving {
        Archiving::with(ArchiveOptions::new(options(cluster), "levee_shop_orders"), journal)
    }

    pub fn with(options: ArchiveOptions, journal: &LogJournal) -> Archiving {
        let stop = StopSignal::new().unwrap();
        let mut sink = JournalSink::new(journal.clone(), Epoch(1));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            archive::run(&options, &mut sink, &stopped, &mut |_| {}).unwrap();
        });
        Archiving { stop, thread: Some(thread) }
    }
}

impl Drop for Archiving {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.unwrap();
            }
        }
    }
}

/// `restore_command` runs this test program, as there is no other at hand that knows `fetch-wal`.
fn fetch_wal_program(folder: &Path) -> PathBuf {
    let path = folder.join("levee");
    let me = std::env::current_exe().unwrap();
    let script = format!(
        "#!/bin/sh\n# database fetch-wal --journal J --identity-file I --system-identifier S NAME DESTINATION\n\
         JOURNAL=\"$4\" IDENTITY=\"$6\" SYSTEM=\"$8\" NAME=\"$9\" DESTINATION=\"${{10}}\" \
         exec {} restoring::fetch_wal_as_a_program --exact --ignored --nocapture >/dev/null\n",
        me.display()
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
#[ignore = "run by PostgreSQL as restore_command"]
fn fetch_wal_as_a_program() {
    use levee_database::postgres::fetch_wal::{Fetched, fetch_wal};
    let get = |name: &str| std::env::var(name).unwrap();
    let run = || -> Result<Fetched, Box<dyn std::error::Error>> {
        let identity = Identity::read_file(Path::new(&get("IDENTITY")))?;
        let journal = LogJournal::open_existing(Path::new(&get("JOURNAL")), JournalKeys::of_identity(identity))?;
        Ok(fetch_wal(&journal, get("SYSTEM").parse()?, &get("NAME"), Path::new(&get("DESTINATION")))?)
    };
    match run() {
        Ok(Fetched::NotThere) => std::process::exit(1),
        Ok(_) => {}
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(254);
        }
    }
}

fn lsn(cluster: &Cluster) -> Lsn {
    cluster.psql("select pg_current_wal_insert_lsn()").parse().unwrap()
}

fn now(cluster: &Cluster) -> Timestamp {
    let micros: i64 = cluster.psql("select (extract(epoch from clock_timestamp())*1000000)::bigint").parse().unwrap();
    Timestamp::from_microsecond(micros).unwrap()
}

/// One transaction that adds a numbered row; its id.
fn add(cluster: &Cluster, number: u32) -> u32 {
    let sql = format!(
        "with i as (insert into moments values ({number})) select pg_current_xact_id()::text::bigint % 4294967296"
    );
    cluster.psql(&sql).parse().unwrap()
}

#[test]
fn every_kind_of_target_is_restored_and_verified() {
    let cluster = Cluster::builder().setting("min_wal_size", "32MB").start();
    let pgbench = cluster.pgbench();
    pgbench.initialize(2);
    cluster.psql("create table moments (n int)");
    let side = RecoverySide::new();
    let system: SystemIdentifier = cluster.psql("select system_identifier from pg_control_system()").parse().unwrap();
    let timeline = TimelineId(1);
    let archiving = Archiving::start(&cluster, &side.journal);
    let before_base = now(&cluster);
    add(&cluster, 0);
    let load = pgbench.command(&["-c", "2", "-T", "2"]).spawn();
    let base = side.base(&cluster);
    load.unwrap().wait().unwrap();

    // Marked moments, with load and whole segments between them.
    let xid_1 = add(&cluster, 1);
    let lsn_1 = lsn(&cluster);
    std::thread::sleep(Duration::from_millis(50));
    let time_1 = now(&cluster);
    cluster.switch_wal();
    pgbench.run(&["-c", "2", "-t", "300"]);
    add(&cluster, 2);
    cluster.psql("select pg_create_restore_point('before the change')");
    pgbench.run(&["-c", "2", "-t", "300"]);
    cluster.switch_wal();
    add(&cluster, 3);
    let branches = cluster.psql("select sum(bbalance) from pgbench_branches");
    let history = cluster.psql("select count(*) from pgbench_history");
    let end = lsn(&cluster);
    cluster.psql("select pg_switch_wal()");
    side.wait_durable(system, timeline, end);
    drop(archiving);

    // What the journal closed is the server's own segment.
    let size = base.facts.segment_size;
    let name = wal_file_name(timeline, lsn_1, size);
    let own = fs::read(cluster.data_directory().join("pg_wal").join(&name)).unwrap();
    let kept = side.journal.segment(system, timeline, lsn_1.segment_start(size)).unwrap().unwrap();
    assert!(kept.complete && kept.bytes == own, "segment {name}");

    let check = |label: &str, target: RecoveryTarget, rows: &str| {
        let plan = side.plan(&target).unwrap();
        let restored = side.restore(label, &plan, Mode::Promote);
        assert_eq!(restored.query("select string_agg(n::text, ',' order by n) from moments"), rows, "{label}");
        assert_eq!(restored.query("select pg_is_in_recovery()"), "f");
        assert_eq!(restored.instance.timeline().unwrap(), TimelineId(2));
        restored.query("insert into moments values (99)");
        restored
    };
    let newest = check("newest", RecoveryTarget::Newest, "0,1,2,3");
    assert_eq!(newest.query("select sum(bbalance) from pgbench_branches"), branches);
    assert_eq!(newest.query("select count(*) from pgbench_history"), history);
    assert_eq!(newest.query("select sum(tbalance) from pgbench_tellers"), branches);
    forget_identity(&newest.private_directory).unwrap();
    drop(newest);
    let log = marks::Log { journal: &side.journal, system_identifier: system, timeline, segment_size: size };
    // Half of the targets from marks that are decoded on the spot, half from marks that were kept.
    check("time", RecoveryTarget::Time(time_1), "0,1");
    check("lsn", RecoveryTarget::Lsn(lsn_1), "0,1");
    let missing = std::iter::repeat_with(|| log.index_one(Epoch(1)).unwrap()).take_while(|found| *found).count();
    assert!(missing >= 2, "{missing}");
    check("xid", RecoveryTarget::Xid { xid: xid_1, inclusive: true }, "0,1");
    check("before", RecoveryTarget::Xid { xid: xid_1, inclusive: false }, "0");
    check("name", RecoveryTarget::Name("before the change".into()), "0,1,2");

    // The very last record as a target: PostgreSQL would wait for one behind it.
    let plan = side.plan(&RecoveryTarget::Lsn(side.durable_end(system, timeline))).unwrap();
    assert_eq!(plan.stop, Stop::End);

    // Targets that can't be met are refused before anything is written.
    let refused = |target: RecoveryTarget| side.plan(&target).unwrap_err();
    assert!(matches!(refused(RecoveryTarget::Time(before_base)), Error::BeforeFirst { .. }));
    assert!(matches!(refused(RecoveryTarget::Lsn(Lsn(8))), Error::BeforeFirst { .. }));
    let far = Timestamp::from_second(now(&cluster).as_second() + 3600).unwrap();
    assert!(matches!(refused(RecoveryTarget::Time(far)), Error::AfterLast { .. }));
    assert!(matches!(refused(RecoveryTarget::Lsn(Lsn(u64::MAX))), Error::AfterLast { .. }));
    assert!(matches!(
        refused(RecoveryTarget::Xid { xid: 4_000_000_000, inclusive: true }),
        Error::UnknownTarget { .. }
    ));
    assert!(matches!(refused(RecoveryTarget::Name("never".into())), Error::UnknownTarget { .. }));
    let elsewhere = LogJournal::open(&side.site.path().join("empty"), JournalKeys::default()).unwrap();
    let error = restore::plan(&elsewhere, &side.bases(), &RecoveryTarget::Newest, None).unwrap_err();
    assert!(matches!(error, Error::OtherLineage { .. }), "{error}");
    assert!(matches!(restore::plan(&side.journal, &[], &RecoveryTarget::Newest, None), Err(Error::NoBase)));
    let error = restore::plan(&side.journal, &side.bases(), &RecoveryTarget::Newest, Some(TimelineId(7))).unwrap_err();
    assert!(matches!(error, Error::UnknownTimeline { .. }), "{error}");
}

#[test]
fn a_folder_that_is_not_empty_is_never_touched() {
    let cluster = Cluster::builder().start();
    let side = RecoverySide::new();
    let _archiving = Archiving::start(&cluster, &side.journal);
    let base = side.base(&cluster);
    side.wait_durable(base.facts.system_identifier, base.facts.timeline, base.facts.stop);
    let plan = side.plan(&RecoveryTarget::Newest).unwrap();
    let data_directory = side.site.folder("data");
    fs::write(data_directory.join("precious"), "mine").unwrap();
    let private_directory = side.site.path().join("p");
    let no_tablespaces = BTreeMap::new();
    let request = RestoreRequest {
        vault: &side.vault,
        plan: &plan,
        journal: &side.journal,
        identity_file: &side.identity_file,
        fetch_wal_program: &side.fetch_wal,
        data_directory: &data_directory,
        private_directory: &private_directory,
        tablespaces: &no_tablespaces,
        os_user: "postgres",
        binaries: None,
        mode: Mode::Promote,
        network: Network::Isolated,
        port: 1,
        verify: false,
    };
    assert!(matches!(restore::prepare(&request, &()), Err(Error::NotEmpty { .. })));
    assert_eq!(fs::read_to_string(data_directory.join("precious")).unwrap(), "mine");
    assert!(!private_directory.exists());
    // A journal that the server's user can't get at is found before anything is copied.
    fs::remove_file(data_directory.join("precious")).unwrap();
    fs::set_permissions(side.journal.dir(), fs::Permissions::from_mode(0o700)).unwrap();
    let error = restore::prepare(&request, &()).unwrap_err();
    assert!(matches!(error, Error::JournalClosedTo { .. }), "{error}");
    assert_eq!(fs::read_dir(&data_directory).unwrap().count(), 0);
    let unknown = RestoreRequest { os_user: "nobody-here", ..request };
    assert!(matches!(restore::prepare(&unknown, &()), Err(Error::NoSuchUser { .. })));
}

#[test]
fn tablespaces_are_put_where_they_are_mapped() {
    let cluster = Cluster::builder().start();
    let side = RecoverySide::new();
    let (one, two) = (cluster.site().database_folder("one"), cluster.site().database_folder("two"));
    for (name, place) in [("one", &one), ("two", &two)] {
        cluster.psql(&format!("create tablespace {name} location '{}'", place.display()));
        cluster.psql(&format!("create table in_{name} (n int) tablespace {name}"));
        cluster.psql(&format!("insert into in_{name} select generate_series(1, 1000)"));
    }
    let _archiving = Archiving::start(&cluster, &side.journal);
    let base = side.base(&cluster);
    cluster.psql("insert into in_one values (0)");
    let end = lsn(&cluster);
    side.wait_durable(base.facts.system_identifier, base.facts.timeline, end);
    let mapped = side.site.path().join("mapped one");
    let mapping = BTreeMap::from([(one.clone(), mapped.clone())]);
    let plan = side.plan(&RecoveryTarget::Newest).unwrap();
    let restored = side.restore_with("data", &plan, Mode::Promote, &mapping);
    assert_eq!(restored.query("select count(*) from in_one"), "1001");
    assert_eq!(restored.query("select count(*) from in_two"), "1000");
    let location = |name| {
        restored.query(&format!("select pg_tablespace_location(oid) from pg_tablespace where spcname = '{name}'"))
    };
    assert_eq!(location("one"), mapped.to_string_lossy());
    assert!(location("two").starts_with(&*side.site.path().join("data.tablespaces").to_string_lossy()));
    assert_eq!(cluster.psql("select count(*) from in_one"), "1001", "the source is untouched");
}

/// What `query` of a promoted copy must say, for a cluster with one table.
fn check_newest(side: &RecoverySide, cluster: &Cluster, name: &str) -> Restored {
    cluster.psql("create table moments as select generate_series(1, 1000) n");
    let base = side.base(cluster);
    cluster.psql("insert into moments values (0)");
    side.wait_durable(base.facts.system_identifier, base.facts.timeline, lsn(cluster));
    let restored = side.restore(name, &side.plan(&RecoveryTarget::Newest).unwrap(), Mode::Promote);
    assert_eq!(restored.query("select count(*), current_setting('port') from moments"), "1001");
    assert_eq!(restored.query("select pg_is_in_recovery()"), "f");
    restored
}

/// From a base backup and the archive to a moment, promoted. The form of the base, that of the log and the settings of
/// a recovery differ between the versions.
fn check_version(version: Version) {
    if !Version::available().contains(&version) {
        levee_testing::leave_out(&format!("there is no network to get PostgreSQL {} from", version.major()));
        return;
    }
    let cluster = Cluster::builder().version(version).start();
    let side = RecoverySide { binaries: Some(cluster.binaries().folder().to_path_buf()), ..RecoverySide::new() };
    let _archiving = Archiving::start(&cluster, &side.journal);
    let space = cluster.site().database_folder("space");
    cluster.psql(&format!("create tablespace space location '{}'", space.display()));
    cluster.psql("create table moments (n int) tablespace space");
    add(&cluster, 1);
    let base = side.base(&cluster);
    assert_eq!(base.facts.server_version / 10_000, version.major());
    add(&cluster, 2);
    let moment = now(&cluster);
    let after = add(&cluster, 3);
    cluster.psql("select pg_create_restore_point('before the last')");
    add(&cluster, 4);
    side.wait_durable(base.facts.system_identifier, base.facts.timeline, lsn(&cluster));
    let position = |target: RecoveryTarget| match side.plan(&target).unwrap().stop {
        Stop::Before(position) => position,
        other => panic!("{target:?} became {other:?}"),
    };
    let by_xid = position(RecoveryTarget::Xid { xid: after, inclusive: true });
    assert!(by_xid <= position(RecoveryTarget::Name("before the last".into())));

    let restored = side.restore("data", &side.plan(&RecoveryTarget::Time(moment)).unwrap(), Mode::Promote);
    assert_eq!(restored.query("select string_agg(n::text, ',' order by n) from moments"), "1,2");
    assert_eq!(restored.query("select pg_is_in_recovery()"), "f");
    assert_eq!(restored.instance.timeline().unwrap(), TimelineId(2));
    assert_eq!(
        restored.query("show external_pid_file"),
        restored.private_directory.join("server.pid").to_string_lossy()
    );
    restored.query("insert into moments values (5)");
    let log = fs::read_to_string(restored.instance.log()).unwrap();
    assert!(!log.contains("could not write external PID file"), "{log}");
}

#[test]
fn postgresql_13_is_restored() {
    check_version(Version::V13);
}

#[test]
fn postgresql_14_is_restored() {
    check_version(Version::V14);
}

#[test]
fn postgresql_15_is_restored() {
    check_version(Version::V15);
}

#[test]
fn postgresql_16_is_restored() {
    check_version(Version::V16);
}

#[test]
fn postgresql_17_is_restored() {
    check_version(Version::V17);
}

/// As Debian has it: the configuration lies in /etc, and names places that are not those of the copy.
#[test]
fn configuration_from_outside_the_data_directory_comes_inside() {
    let cluster = Cluster::builder().create();
    let site = TempSite::new("etc");
    let outside = site.database_folder("main");
    // Under names of their own, and the rules inside.
    let (main, ident) = (outside.join("main.settings"), outside.join("names.map"));
    fs::rename(cluster.data_directory().join("postgresql.conf"), &main).unwrap();
    fs::rename(cluster.data_directory().join("pg_ident.conf"), &ident).unwrap();
    let rules = cluster.data_directory().join("own_rules.conf");
    fs::rename(cluster.data_directory().join("pg_hba.conf"), &rules).unwrap();
    for path in [&rules, &ident] {
        fs::write(path, fs::read_to_string(path).unwrap() + "\n# of the source\n").unwrap();
    }
    let mut text = fs::read_to_string(&main).unwrap();
    for (name, value) in [
        ("data_directory", cluster.data_directory().to_path_buf()),
        ("hba_file", rules),
        ("ident_file", ident.clone()),
        ("external_pid_file", outside.join("pid")),
    ] {
        text.push_str(&format!("{name} = '{}'\n", value.display()));
    }
    fs::create_dir(outside.join("conf.d")).unwrap();
    fs::write(outside.join("conf.d/own.conf"), "work_mem = '12345kB'\n").unwrap();
    text.push_str("include_dir = 'conf.d'\n");
    // What several servers have in common lies elsewhere, and includes more.
    let shared = site.database_folder("shared");
    fs::create_dir(shared.join("more.d")).unwrap();
    fs::create_dir(shared.join("empty.d")).unwrap();
    fs::write(shared.join("more.d/delay.conf"), "bgwriter_delay = 321ms\n").unwrap();
    fs::write(
        shared.join("common.conf"),
        format!(
            "maintenance_work_mem = 54321kB\ninclude_dir 'more.d'\ninclude_dir 'empty.d'\ninclude_if_exists 'absent.conf'\n\
             ident_file = '{}'\n",
            ident.display()
        ),
    )
    .unwrap();
    text.push_str(&format!("Include = '{}' # of all servers\n", shared.join("common.conf").display()));
    fs::write(&main, text).unwrap();
    let mut command = cluster.binaries().command("postgres");
    command.arg("-D").arg(cluster.data_directory()).arg("-c").arg(format!("config_file={}", main.display()));
    let _server = Child::spawn("postgres", &mut command, &cluster.log());
    wait_until("the server answers", || cluster.try_psql("select 1").is_ok());

    let side = RecoverySide::new();
    let _archiving = Archiving::start(&cluster, &side.journal);
    // An earlier restore that was cut off has left this.
    fs::create_dir_all(side.site.path().join("data.levee-restore/base")).unwrap();
    let restored = check_newest(&side, &cluster, "data");
    assert_eq!(restored.query("show work_mem"), "12345kB");
    let data = side.site.path().join("data");
    for (name, value) in [("maintenance_work_mem", "54321kB"), ("bgwriter_delay", "321ms")] {
        assert_eq!(restored.query(&format!("show {name}")), value);
        let file = restored.query(&format!("select sourcefile from pg_settings where name = '{name}'"));
        assert!(Path::new(&file).starts_with(&data), "{name} comes from the source's own {file}");
    }
    assert_eq!(restored.query("select count(*) from pg_file_settings where error is not null"), "0");
    assert_eq!(restored.query("show ident_file"), data.join("pg_ident.conf").to_string_lossy());
    for name in ["pg_hba.conf", "pg_ident.conf"] {
        let text = fs::read_to_string(data.join(name)).unwrap();
        assert!(text.contains("# of the source"), "{name}: {text}");
    }
    assert_eq!(restored.query("show data_directory"), data.to_string_lossy());
    assert_eq!(restored.query("show config_file"), data.join("postgresql.conf").to_string_lossy());
    assert_eq!(
        restored.query("show external_pid_file"),
        restored.private_directory.join("server.pid").to_string_lossy()
    );
    assert!(!side.site.path().join("data.levee-restore").exists());
}
