//! The page docs/operating/without-levee.md, carried out word for word on what the demo's west holds.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use levee_testing::levee::Binary;
use levee_testing::postgres::Version;
use levee_testing::process::run;
use levee_testing::tools;
use levee_testing::wait::wait_until;

use super::documents;
use super::ledger::Entry;
use super::scenario::{Clients, prepare, protect};
use super::terminal::Terminal;
use super::world::World;
use super::{QUICK, orders};
use levee_testing::postgres::Session;
use crate::workspace::root;

/// The commands of the page, but for its first block, which says where things are.
fn commands(page: &str) -> String {
    page.split("```sh\n").skip(2).filter_map(|rest| rest.split("```").next()).collect()
}

#[test]
fn stock_tools_restore_the_shop_by_the_page() {
    for tool in ["restic", "age", "zstd"] {
        tools::required(tool);
    }
    let example = fs::read_to_string(root().join("examples/shop.toml")).unwrap();
    let postgres = Version::V15.binaries();
    let mut world = World::new(Binary::find(), Some(postgres.clone()), QUICK, &example).unwrap();
    let terminal = Terminal::new(true, true);
    let mut clients = prepare(&mut world, &terminal).unwrap();
    protect(&mut world, &mut clients, &terminal, &example).unwrap();

    let acknowledged = closed_orders(&mut world, &mut clients);
    let (changes, stopped) = (clients.document_ledgers.read().unwrap(), Instant::now());
    wait_until("a snapshot of the last changes", Duration::from_secs(60), || {
        let age_s = |status: super::control::ShopStatus| {
            status.assets.iter().find(|asset| asset.name == "documents").and_then(|asset| asset.age_s)
        };
        world.operator.status().ok().and_then(age_s).is_some_and(|age_s| age_s < stopped.elapsed().as_secs_f64() - 0.5)
    });
    world.lose_levee();

    let site = world.root().join("stock");
    fs::create_dir(&site).unwrap();
    fs::set_permissions(&site, fs::Permissions::from_mode(0o755)).unwrap();
    let page = fs::read_to_string(root().join("docs/operating/without-levee.md")).unwrap();
    let places = format!(
        "set -eux\nSHOP={shop}\nDATABASE=orders\nFOLDER=documents\nKIT={site}/kit\nRESTORE={site}/restore\nPGBIN={programs}\nmkdir $RESTORE\n",
        shop = world.west().folder.join("agent/apps/shop").display(),
        site = site.display(),
        programs = postgres.folder().display(),
    );
    run(Command::new("bash").arg("-c").arg(places + &commands(&page)).current_dir(&site));

    let port = u32::from(world.ports.database);
    let mut psql = postgres.command("psql");
    psql.args(["-XqAt", "-U", "shop", "-d", "shop", "-c", "select number from orders", "-p", &port.to_string()]);
    let rows = run(psql.arg("-h").arg(site.join("restore")));
    let present = rows.lines().filter_map(|line| line.parse().ok()).collect();
    assert!(acknowledged.len() > 20, "only {} orders were acknowledged", acknowledged.len());
    assert_eq!(orders::loss(&acknowledged, &present).lost, Vec::<u64>::new());

    let folder = world.east().documents();
    let restored = site.join("restore/files").join(folder.strip_prefix("/").unwrap());
    let loss = documents::compare(&changes, &clients.document_ledgers, &restored).unwrap();
    assert_eq!(loss.lost, []);
    stop(&postgres.folder().join("pg_ctl"), &site.join("restore/base/data"));
}

/// Ends the shop's writing and returns the orders that are in closed segments at west: stock tools
/// open no others.
fn closed_orders(world: &mut World, clients: &mut Clients) -> Vec<Entry> {
    clients.documents = None;
    let acknowledged = clients.acknowledged_orders().unwrap();
    clients.orders = None;
    world.stop_load();
    let address = SocketAddr::new(world.east().address, world.ports.database);
    let mut session = Session::open(address, "postgres", "postgres").unwrap();
    let name = session.query("select pg_walfile_name(pg_switch_wal())").unwrap().values.remove(0);
    let journal = world.west().folder.join("agent/apps/shop/journal/orders");
    wait_until("the closed segment", Duration::from_secs(60), || holds_closed(&journal, &name));
    acknowledged
}

fn holds_closed(folder: &Path, segment: &str) -> bool {
    fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_closed = name.starts_with(segment) && name.ends_with(".zst.age");
        is_closed || (entry.path().is_dir() && holds_closed(&entry.path(), segment))
    })
}

fn stop(pg_ctl: &Path, data_directory: &Path) {
    let mut command = Command::new("runuser");
    run(command
        .args(["-u", "postgres", "--"])
        .arg(pg_ctl)
        .args(["-m", "fast", "-w", "stop", "-D"])
        .arg(data_directory));
}
