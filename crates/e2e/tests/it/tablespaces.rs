//! A database with a tablespace, which lies at another path at each site.

use std::fs;
use std::path::{Path, PathBuf};

use levee_testing::postgres::{Cluster, Session};

use super::orders::Orders;
use super::world::{PATIENCE, Process, Setup, Site, World};

/// So many rows lie in the tablespace at first.
pub const ROWS: u32 = 1000;

/// Where the tablespace lies at a site.
pub fn space(world: &World, site: Site) -> PathBuf {
    world.folder(site).join("spaces/archive")
}

/// The world's protection file with the tablespace's place at each site.
pub fn protection_file(world: &World) -> String {
    let (east, west) = (space(world, Site::East), space(world, Site::West));
    let mut file = world.protection_file();
    for (site, there, here) in [(Site::East, &west, &east), (Site::West, &east, &west)] {
        let next = format!("[app.shop.files.documents.at.{}]", site.name());
        assert!(file.contains(&next), "{file}");
        file = file.replace(&next, &format!("tablespaces = {{ {there:?} = {here:?} }}\n{next}"));
    }
    file
}

/// Makes the tablespace at a place, with a table of the shop in it.
#[track_caller]
pub fn create(cluster: &Cluster, place: &Path) {
    fs::create_dir_all(place).unwrap();
    if let Some(user) = cluster.binaries().user() {
        user.own(place);
    }
    cluster.psql(&format!("create tablespace archive location '{}'", place.display()));
    cluster.psql("grant create on tablespace archive to shop");
    let rows = format!("create table archived tablespace archive as select generate_series(1, {ROWS}) n");
    cluster.psql_in("shop", &format!("set role shop; {rows}"));
}

#[track_caller]
fn check_at(world: &World, site: Site, rows: u32) {
    let mut session = Session::open(world.database(site), "shop", "shop").expect("the shop is written here");
    let mut ask = |sql: &str| session.query(sql).unwrap().values;
    assert_eq!(ask("select count(*) from archived"), [rows.to_string()]);
    let place = ask("select pg_tablespace_location(oid) from pg_tablespace where spcname = 'archive'");
    assert_eq!(place.iter().map(Path::new).collect::<Vec<_>>(), [space(world, site)]);
}

#[test]
fn a_tablespace_moves_with_its_database_and_home_again() {
    let mut world = World::set_up(Setup::default());
    let east = space(&world, Site::East);
    // Nothing takes the log away yet that a commit could wait for.
    world.cluster().set("synchronous_commit", "local");
    create(world.cluster(), &east);
    world.apply(&protection_file(&world));
    world.wait_protected(Site::East);
    world.cluster().set("synchronous_commit", "on");
    let orders = Orders::start(world.databases());
    orders.wait_for_more_at(world.database(Site::East), PATIENCE);
    world.expect(&["drill", "shop", "--to", "west"]);
    assert!(!space(&world, Site::West).exists(), "a drill has put something where the app will be");
    // Of this only the log tells.
    world.cluster().psql_in("shop", "set role shop; insert into archived values (0)");

    world.lose(Site::East, true);
    world.expect(&["failover", "shop", "--to", "west", "--old-site-is-down"]);
    orders.wait_for_more_at(world.database(Site::West), PATIENCE);
    check_at(&world, Site::West, ROWS + 1);

    world.start(Process::Agent(Site::East));
    world.wait_protected(Site::West);
    let old: Vec<PathBuf> = fs::read_dir(east.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(
        matches!(&old[..], [one] if one.file_name().unwrap().to_string_lossy().contains("set-aside")),
        "what lay at east is set aside: {old:?}"
    );
    world.expect(&["switchover", "shop", "--yes", "--to", "east"]);
    orders.wait_for_more_at(world.database(Site::East), PATIENCE);
    check_at(&world, Site::East, ROWS + 1);
    assert!(orders.check_all_in(world.database(Site::East)) > 40);
}
