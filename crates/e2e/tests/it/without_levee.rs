//! The recovery kit, the recovery site's folder and stock tools are enough, by the page
//! docs/operating/without-levee.md word for word.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use levee_testing::postgres::Version;
use levee_testing::process::{processes_under, run};
use levee_testing::wait::wait_until;
use levee_testing::{TempSite, tools};

use super::orders::{Order, Orders};
use super::world::{PATIENCE, Process, Site, World};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operating/without-levee.md");

/// The commands of the page, but for its first block, which says where things are.
fn commands(page: &str) -> String {
    page.split("```sh\n").skip(2).filter_map(|rest| rest.split("```").next()).collect()
}

#[test]
fn stock_tools_restore_the_shop_with_the_recovery_kit_alone() {
    for tool in ["restic", "age", "zstd"] {
        tools::required(tool);
    }
    let mut world = World::protected();
    let orders = Orders::start(world.databases());
    orders.wait_for_more_at(world.database(Site::East), PATIENCE);
    let acknowledged = orders.acknowledged();
    drop(orders);
    close_segment(&mut world);
    // A change of the files, and a snapshot with it.
    let documents = world.folder(Site::East).join("documents");
    fs::write(documents.join("last.txt"), "the last document").unwrap();
    wait_until("a snapshot of the last document", PATIENCE, || snapshot_has_last_document(&world));

    // East is gone, Levee is gone, and so are the keys that west's agent keeps for itself.
    world.lose(Site::East, true);
    world.kill(Process::Agent(Site::West));
    world.kill(Process::Server);
    assert_eq!(processes_under(world.root()), []);
    let stock = TempSite::new("stock");
    let kit = stock.path().join("recovery-kit.txt");
    fs::copy(world.shop_folder(Site::West).join("recovery-kit.txt"), &kit).unwrap();
    for key in ["recovery-kit.txt", "repository-password", "journal-identity"] {
        fs::remove_file(world.shop_folder(Site::West).join(key)).unwrap();
    }
    carry_out_page(&world, &stock, &kit);
    check_orders(&stock, world.database(Site::East).port(), &acknowledged);
    let restored = stock.path().join("restore/files").join(documents.strip_prefix("/").unwrap());
    run(Command::new("diff").arg("-r").arg(&documents).arg(&restored));
}

/// Ends the source's log segment and waits until west holds it as a closed file: stock tools open no other.
fn close_segment(world: &mut World) {
    let segment = world.cluster().psql("select pg_walfile_name(pg_switch_wal())");
    let journal = world.shop_folder(Site::West).join("journal/orders");
    wait_until("the closed segment", PATIENCE, || holds_closed(&journal, &segment));
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

fn carry_out_page(world: &World, stock: &TempSite, kit: &Path) {
    let page = fs::read_to_string(PAGE).unwrap();
    let programs = Version::V15.binaries();
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

fn check_orders(stock: &TempSite, port: u16, acknowledged: &[Order]) {
    let socket: PathBuf = stock.path().join("restore");
    let mut psql = Version::V15.binaries().command("psql");
    psql.args(["-XqAt", "-U", "shop", "-d", "shop", "-c", "select number from orders", "-p", &port.to_string(), "-h"]);
    let rows = run(psql.arg(&socket));
    let present: HashSet<u64> = rows.lines().filter_map(|line| line.parse().ok()).collect();
    let lost: Vec<&Order> = acknowledged.iter().filter(|order| !present.contains(&order.number)).collect();
    assert!(acknowledged.len() >= 20 && lost.is_empty(), "{} of {} are lost", lost.len(), acknowledged.len());
}
