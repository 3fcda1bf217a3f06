//! The recovery kit, the recovery site's folder and stock tools are enough, by the page
//! docs/operating/without-levee.md word for word.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use levee_testing::postgres::{Cluster, Version};
use levee_testing::process::{processes_under, run};
use levee_testing::rows::check_all_in;
use levee_testing::wait::wait_until;
use levee_testing::{Child, TempSite, tools};

use super::orders::{Order, Orders};
use super::tablespaces::{self, ROWS};
use super::world::{PATIENCE, Process, Setup, Site, World};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operating/without-levee.md");

/// The commands of the page, but for its first block, which says where things are.
fn commands(page: &str) -> String {
    page.split("```sh\n").skip(2).filter_map(|rest| rest.split("```").next()).collect()
}

#[test]
fn stock_tools_restore_the_shop_with_the_recovery_kit_alone() {
    let mut world = World::protected();
    let restored = follow_page(&mut world, None);
    assert_eq!(restored.ask("show config_file"), restored.data().join("postgresql.conf").to_string_lossy());
}

#[test]
fn stock_tools_restore_a_source_as_debian_has_it_with_a_tablespace() {
    let mut world = World::set_up(Setup { zero_loss: false, ..Setup::default() });
    let source = DebianSource::start(&mut world);
    world.apply(&source.protection_file(&world));
    world.wait_protected(Site::East);
    let restored = follow_page(&mut world, Some(source));

    assert_eq!(restored.ask("select count(*) from archived"), (ROWS + 1).to_string());
    let spaces = restored.stock.path().join("restore/base/tablespaces");
    let place = restored.ask("select pg_tablespace_location(oid) from pg_tablespace where spcname = 'archive'");
    assert!(Path::new(&place).starts_with(&spaces), "the tablespace is read from {place}");
    // All of the configuration is the copy's own.
    let data = restored.data();
    assert_eq!(restored.ask("show work_mem"), "12345kB");
    let file = restored.ask("select sourcefile from pg_settings where name = 'work_mem'");
    assert_eq!(Path::new(&file), data.join("conf.d/own.conf"));
    for (name, file) in [("hba_file", "pg_hba.conf"), ("ident_file", "pg_ident.conf"), ("data_directory", "")] {
        assert_eq!(Path::new(&restored.ask(&format!("show {name}"))), data.join(file), "{name}");
    }
    for file in ["pg_hba.conf", "pg_ident.conf"] {
        assert!(fs::read_to_string(data.join(file)).unwrap().contains(OF_THE_SOURCE), "{file}");
    }
}

/// In the source's rules, so that they are known again.
const OF_THE_SOURCE: &str = "# of the source";

/// A source as Debian lays it out, with the newest PostgreSQL: its configuration lies beside the data and not in it. The
/// database has a tablespace.
struct DebianSource {
    // Ended before its folder goes.
    _server: Child,
    cluster: Cluster,
}

impl DebianSource {
    /// Starts it in the place of the world's own source.
    #[track_caller]
    fn start(world: &mut World) -> DebianSource {
        world.stop_source();
        let east = world.folder(Site::East);
        let cluster = Cluster::builder()
            .version(Version::V17)
            .below(&east)
            .data_directory(east.join("lib/17/main"))
            .address(world.database(Site::East).ip())
            .port(world.database(Site::East).port())
            .setting("shared_buffers", "16MB")
            .create();
        let main = move_configuration(&cluster, &east.join("etc/17/main"));
        let mut command = cluster.binaries().command("postgres");
        command.arg("-D").arg(cluster.data_directory()).arg("-c").arg(format!("config_file={}", main.display()));
        let server = Child::spawn("postgres", &mut command, &cluster.log());
        wait_until("the source", PATIENCE, || cluster.try_psql("select 1").is_ok());
        assert_eq!(cluster.psql("show work_mem"), "12345kB");
        cluster.psql("create role levee login replication");
        cluster.psql("grant pg_monitor, pg_read_all_data to levee");
        cluster.psql("create role shop login");
        cluster.psql("create database shop owner shop");
        cluster.psql_in("shop", "set role shop; create table orders (number bigint primary key)");
        tablespaces::create(&cluster, &tablespaces::space(world, Site::East));
        DebianSource { _server: server, cluster }
    }

    fn protection_file(&self, world: &World) -> String {
        let file = tablespaces::protection_file(world);
        let place = |path: &Path| format!("data_directory = {path:?}");
        let usual = place(&world.folder(Site::East).join("postgres"));
        assert!(file.contains(&usual) && file.contains("os_user = "), "{file}");
        let binaries = self.cluster.binaries().folder();
        file.replace(&usual, &place(self.cluster.data_directory()))
            .replace("os_user = ", &format!("binaries = {binaries:?}\nos_user = "))
    }
}

/// Moves a cluster's configuration to a folder of its own, and says there where everything is. Returns the main file.
fn move_configuration(cluster: &Cluster, folder: &Path) -> PathBuf {
    fs::create_dir_all(folder.join("conf.d")).unwrap();
    for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        let text = fs::read_to_string(cluster.data_directory().join(name)).unwrap();
        fs::remove_file(cluster.data_directory().join(name)).unwrap();
        fs::write(folder.join(name), format!("{text}\n{OF_THE_SOURCE}\n")).unwrap();
    }
    let main = folder.join("postgresql.conf");
    let mut text = fs::read_to_string(&main).unwrap();
    for (name, path) in [
        ("data_directory", cluster.data_directory().to_path_buf()),
        ("hba_file", folder.join("pg_hba.conf")),
        ("ident_file", folder.join("pg_ident.conf")),
        ("external_pid_file", cluster.socket_directory().join("main.pid")),
    ] {
        text.push_str(&format!("{name} = '{}'\n", path.display()));
    }
    text.push_str("include_dir = 'conf.d'\n");
    fs::write(&main, text).unwrap();
    fs::write(folder.join("conf.d/own.conf"), "work_mem = '12345kB'\n").unwrap();
    main
}

/// What has come of following the page: a server that runs in `restore/base/data`.
struct Restored {
    stock: TempSite,
    version: Version,
    port: u16,
}

impl Restored {
    fn data(&self) -> PathBuf {
        self.stock.path().join("restore/base/data")
    }

    /// Asks the shop's database, as its superuser.
    #[track_caller]
    fn ask(&self, sql: &str) -> String {
        let mut psql = self.version.binaries().command("psql");
        psql.args(["-XqAt", "-U", "postgres", "-d", "shop", "-c", sql, "-p", &self.port.to_string(), "-h"]);
        run(psql.arg(self.stock.path().join("restore"))).trim_end().to_string()
    }

    #[track_caller]
    fn check_orders(&self, acknowledged: &[Order]) {
        // It can be asked before everything is replayed.
        wait_until("the end of the replay", PATIENCE, || self.ask("select pg_is_in_recovery()") == "f");
        check_all_in(acknowledged, self.ask("select number from orders").lines());
        assert!(acknowledged.len() >= 20, "only {} orders were acknowledged", acknowledged.len());
    }
}

/// The story: the shop is protected and takes orders, then the site and Levee are gone, and the page brings it back.
#[track_caller]
fn follow_page(world: &mut World, source: Option<DebianSource>) -> Restored {
    for tool in ["restic", "age", "zstd"] {
        tools::required(tool);
    }
    let orders = Orders::start(world.databases());
    orders.wait_for_more_at(world.database(Site::East), PATIENCE);
    let acknowledged = orders.acknowledged();
    drop(orders);
    let journal = world.shop_folder(Site::West).join("journal/orders");
    match &source {
        None => close_segment(world.cluster(), &journal),
        Some(source) => {
            // Of this only the log tells.
            source.cluster.psql_in("shop", "set role shop; insert into archived values (0)");
            close_segment(&source.cluster, &journal);
        }
    }
    // A change of the files, and a snapshot with it.
    let documents = world.folder(Site::East).join("documents");
    fs::write(documents.join("last.txt"), "the last document").unwrap();
    wait_until("a snapshot of the last document", PATIENCE, || snapshot_has_last_document(world));

    // East is gone, Levee is gone, and so are the keys that west's agent keeps for itself.
    world.lose(Site::East, true);
    world.kill(Process::Agent(Site::West));
    world.kill(Process::Server);
    assert_eq!(processes_under(world.root()), []);
    if source.is_some() {
        for name in ["lib", "etc", "spaces"] {
            fs::remove_dir_all(world.folder(Site::East).join(name)).unwrap();
        }
    }
    let version = if source.is_some() { Version::V17 } else { Version::V15 };
    let stock = TempSite::new("stock");
    let kit = stock.path().join("recovery-kit.txt");
    fs::copy(world.shop_folder(Site::West).join("recovery-kit.txt"), &kit).unwrap();
    for key in ["recovery-kit.txt", "repository-password", "journal-identity"] {
        fs::remove_file(world.shop_folder(Site::West).join(key)).unwrap();
    }
    carry_out_page(world, &stock, &kit, version);
    let restored = Restored { stock, version, port: world.database(Site::East).port() };
    restored.check_orders(&acknowledged);
    let files = restored.stock.path().join("restore/files").join(documents.strip_prefix("/").unwrap());
    run(Command::new("diff").arg("-r").arg(&documents).arg(&files));
    restored
}

/// Ends the source's log segment and waits until west holds it as a closed file: stock tools open no other.
#[track_caller]
fn close_segment(source: &Cluster, journal: &Path) {
    let segment = source.psql("select pg_walfile_name(pg_switch_wal())");
    wait_until("the closed segment", PATIENCE, || holds_closed(journal, &segment));
}

fn holds_closed(folder: &Path, segment: &str) -> bool {
    fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_closed = name.starts_with(segment) && name.ends_with(".zst.age");
        is_closed || (entry.path().is_dir() && holds_closed(&entry.path(), segment))
    })
}

fn snapshot_has_last_document(world: &World) -> bool {
    let west = world.shop_folder(Site::West);
    let mut restic = Command::new("restic");
    restic.args(["ls", "latest", "--no-lock", "--no-cache", "--tag", "levee-files:shop/documents", "-r"]);
    restic.arg(west.join("repository")).arg("--password-file").arg(west.join("repository-password"));
    run(&mut restic).contains("last.txt")
}

#[track_caller]
fn carry_out_page(world: &World, stock: &TempSite, kit: &Path, version: Version) {
    let page = fs::read_to_string(PAGE).unwrap();
    let programs = version.binaries();
    let places = format!(
        "set -eux\nSHOP={shop}\nDATABASE=orders\nFOLDER=documents\nKIT_TEXT={kit}\nKIT={site}/kit\nRESTORE={site}/restore\n\
         PGBIN={programs}\nmkdir $RESTORE\n",
        shop = world.shop_folder(Site::West).display(),
        kit = kit.display(),
        site = stock.path().display(),
        programs = programs.folder().display(),
    );
    let said = run(Command::new("bash").arg("-c").arg(places + &commands(&page) + "\n").current_dir(stock.path()));
    assert!(said.contains("server started"), "{said}");
}
