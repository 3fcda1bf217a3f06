//! `levee database restore` by hand at the recovery site: tablespaces that are put elsewhere, disks that are full.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use levee_testing::disk::SmallDisk;
use levee_testing::postgres::Version;
use levee_testing::process::{output, run};
use levee_testing::wait::wait_until;
use serde_json::Value;

use super::faults::{check_failed, said_by};
use super::orders::Orders;
use super::repository::restore_by_hand;
use super::status::wait_caught_up;
use super::tablespaces::{self, ROWS, space};
use super::world::{PATIENCE, Setup, Site, World};

/// Room for a restored cluster.
const DISK_MIB: u32 = 160;
/// Too little for it, and enough for what is written before.
const TOO_LITTLE_MIB: u32 = 8;

/// A restored cluster, started.
struct Restored {
    data: PathBuf,
    private: PathBuf,
}

impl Restored {
    /// Starts what a restore has made, and waits until it has replayed everything.
    #[track_caller]
    fn start(data: &Path, restore: &Output) -> Restored {
        assert!(restore.status.success(), "{}", said_by(restore));
        let text = String::from_utf8_lossy(&restore.stdout);
        let said: Value = serde_json::from_str(text.lines().last().unwrap_or_default()).unwrap();
        let private = PathBuf::from(said["private_directory"].as_str().unwrap());
        let restored = Restored { data: data.into(), private };
        run(restored.pg_ctl("start").arg("-l").arg(restored.private.join("postgresql.log")));
        wait_until("it is promoted", PATIENCE, || restored.ask("select pg_is_in_recovery()") == "f");
        restored
    }

    fn pg_ctl(&self, action: &str) -> Command {
        let mut command = Version::V15.binaries().command("pg_ctl");
        command.args([action, "-w", "-D"]).arg(&self.data);
        command
    }

    #[track_caller]
    fn ask(&self, sql: &str) -> String {
        let mut psql = Version::V15.binaries().command("psql");
        psql.args(["-XqAt", "-U", "postgres", "-d", "shop", "-c", sql, "-h"]);
        run(psql.arg(&self.private)).trim_end().to_string()
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        // One that never came up, as where the test has failed, is not there to be stopped.
        let _ = output(self.pg_ctl("stop").args(["-m", "immediate"]));
    }
}

/// Whether anything lies in a folder.
fn is_used(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
}

#[test]
fn tablespaces_go_where_the_command_line_says() {
    let mut world = World::set_up(Setup { zero_loss: false, ..Setup::default() });
    let there = space(&world, Site::East);
    tablespaces::create(world.cluster(), &there);
    world.apply(&tablespaces::protection_file(&world));
    world.wait_protected(Site::East);
    // Of this only the log tells.
    world.cluster().psql_in("shop", "set role shop; insert into archived values (0)");
    wait_caught_up(&mut world);

    let west = world.folder(Site::West);
    let (target, here) = (west.join("by-hand"), west.join("elsewhere/archive"));
    let usual = west.join("by-hand.tablespaces");
    // What is not two places, and a place that is somebody's, are refused before anything is written.
    let restore = |more: &[&str]| restore_by_hand(&world, &target, &[&["--json"][..], more].concat());
    for bad in ["archive", "/there=here", "there=/here"] {
        check_failed(&restore(&["--tablespace", bad]), &["--tablespace", bad, "two absolute paths"], &[]);
    }
    let misspelt = ["--tablespace", "/srv/archvie=/srv/here"];
    check_failed(
        &restore(&misspelt),
        &["--tablespace /srv/archvie", "no tablespace there", &*there.to_string_lossy()],
        &[],
    );
    let mapping = format!("{}={}", there.display(), here.display());
    fs::create_dir_all(&here).unwrap();
    fs::write(here.join("precious"), "nobody else has this").unwrap();
    check_failed(&restore(&["--tablespace", &mapping]), &[&*here.to_string_lossy(), "not empty"], &[]);
    assert_eq!(fs::read_dir(&here).unwrap().count(), 1);
    assert!(!target.exists());
    fs::remove_file(here.join("precious")).unwrap();

    let restored = Restored::start(&target, &restore(&["--tablespace", &mapping]));
    let place = "select pg_tablespace_location(oid) from pg_tablespace where spcname = 'archive'";
    assert_eq!(Path::new(&restored.ask(place)), here);
    assert_eq!(restored.ask("select count(*) from archived"), (ROWS + 1).to_string());
    assert!(is_used(&here) && !usual.exists());
    drop(restored);

    // One for which no place was given lies beside the data directory.
    fs::remove_dir_all(&target).unwrap();
    fs::remove_dir_all(&here).unwrap();
    let restored = Restored::start(&target, &restore(&[]));
    assert!(Path::new(&restored.ask(place)).starts_with(&usual), "{}", restored.ask(place));
    assert_eq!(restored.ask("select count(*) from archived"), (ROWS + 1).to_string());
    assert!(is_used(&usual) && !here.exists());
}

#[test]
fn a_restore_to_a_full_disk_leaves_nothing_that_looks_whole_and_is_done_when_there_is_room() {
    if !SmallDisk::is_possible() {
        return;
    }
    let mut world = World::protected_with(Setup { zero_loss: false, ..Setup::default() });
    let orders = Orders::start(world.databases());
    orders.wait_for_more_at(world.database(Site::East), PATIENCE);
    let acknowledged = orders.acknowledged();
    drop(orders);
    wait_caught_up(&mut world);

    let folder = world.folder(Site::West).join("small");
    fs::create_dir(&folder).unwrap();
    let disk = SmallDisk::mount(&folder, DISK_MIB);
    let target = folder.join("data");
    let restore = || restore_by_hand(&world, &target, &["--json"]);
    let check_full = || {
        let failed = restore();
        println!("said about the disk: {}", said_by(&failed));
        check_failed(&failed, &[&*target.to_string_lossy(), "No space left on device"], &["AGE-SECRET-KEY"]);
        assert!(!target.exists(), "a server could be started there");
    };
    // Nothing fits, and then what is written first.
    disk.fill();
    check_full();
    disk.free();
    let ballast = folder.join("somebody-elses");
    fs::write(&ballast, vec![1_u8; ((DISK_MIB - TOO_LITTLE_MIB) as usize) << 20]).unwrap();
    check_full();

    fs::remove_file(&ballast).unwrap();
    let restored = Restored::start(&target, &restore());
    let present = restored.ask("select number from orders");
    let present: Vec<u64> = present.lines().filter_map(|line| line.parse().ok()).collect();
    let lost = acknowledged.iter().filter(|order| !present.contains(&order.number)).count();
    assert!(acknowledged.len() >= 20 && lost == 0, "{lost} of {} are lost", acknowledged.len());
    assert!(!folder.join("data.levee-restore").exists());
}
