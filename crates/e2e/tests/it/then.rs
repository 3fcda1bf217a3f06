//! What a database that was restored by hand does at its target, as `--then` of `levee database restore` says.

use std::fs;
use std::path::PathBuf;

use levee_testing::free_port;
use levee_testing::postgres::{Binaries, Version};
use levee_testing::process::{run, try_run};
use levee_testing::wait::wait_until;
use serde_json::Value;

use super::faults::check_failed;
use super::repository::restore_by_hand;
use super::status::wait_caught_up;
use super::world::{PATIENCE, Setup, Site, World};

/// A restored server, which only its private socket leads to. Dropping the world ends it.
struct Restored {
    binaries: Binaries,
    data: PathBuf,
    private: String,
    port: String,
}

impl Restored {
    /// Restores as `arguments` say, and starts what came of it.
    #[track_caller]
    fn start(world: &World, name: &str, arguments: &[&str]) -> Restored {
        let data = world.folder(Site::West).join(name);
        let port = free_port().to_string();
        let output = restore_by_hand(world, &data, &[arguments, &["--port", &port, "--json"]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8_lossy(&output.stdout);
        let restored: Value = serde_json::from_str(said.lines().last().unwrap_or_default()).unwrap();
        let private = restored["private_directory"].as_str().unwrap().to_string();
        let restored = Restored { binaries: Version::V15.binaries(), data, private, port };
        let log = format!("{}/postgresql.log", restored.private);
        restored.pg_ctl(&["start", "-w", "-l", &log]);
        restored
    }

    #[track_caller]
    fn pg_ctl(&self, arguments: &[&str]) {
        run(self.binaries.command("pg_ctl").args(arguments).arg("-D").arg(&self.data));
    }

    fn try_query(&self, sql: &str) -> Result<String, String> {
        let mut psql = self.binaries.command("psql");
        psql.args(["-XqAt", "-U", "postgres", "-d", "shop", "-h", &self.private, "-p", &self.port, "-c", sql]);
        try_run(&mut psql).map(|said| said.trim().to_string())
    }

    #[track_caller]
    fn query(&self, sql: &str) -> String {
        self.try_query(sql).unwrap_or_else(|message| panic!("{message}"))
    }

    #[track_caller]
    fn orders(&self) -> String {
        self.query("select string_agg(number::text, ',' order by number) from orders")
    }

    #[track_caller]
    fn check_read_only(&self) {
        assert_eq!(self.query("select pg_is_in_recovery()"), "t");
        let refused = self.try_query("insert into orders values (99)").unwrap_err();
        assert!(refused.contains("read-only transaction"), "{refused}");
    }

    /// Waits until it is promoted, and writes an order.
    #[track_caller]
    fn check_opens(&self, order: u64) {
        wait_until("the end of the recovery", PATIENCE, || self.query("select pg_is_in_recovery()") == "f");
        self.query(&format!("insert into orders values ({order})"));
    }
}

#[test]
fn a_database_that_was_restored_pauses_or_follows_as_it_was_told() {
    let mut world = World::protected_with(Setup { zero_loss: false, ..Setup::default() });
    let order = |world: &mut World, number: u64| {
        world.cluster().psql_in("shop", &format!("insert into orders values ({number})"));
        wait_caught_up(world);
    };
    order(&mut world, 1);
    world.cluster().psql("select pg_create_restore_point('before_two')");
    order(&mut world, 2);

    // What could not be kept is not promised, and nothing is half-done.
    let never = world.folder(Site::West).join("never");
    let check_refused = |world: &World, arguments: &[&str], words: &[&str]| {
        check_failed(&restore_by_hand(world, &never, arguments), words, &[]);
        assert!(!never.exists());
    };
    check_refused(&world, &["--then", "pause"], &["open for writing", "--then standby"]);
    check_refused(&world, &["--then", "standby", "--name", "before_two"], &["has no target", "--then pause"]);

    let paused = Restored::start(&world, "paused", &["--name", "before_two", "--then", "pause"]);
    wait_until("the pause", PATIENCE, || paused.query("select pg_get_wal_replay_pause_state()") == "paused");
    assert_eq!(paused.orders(), "1");
    paused.check_read_only();
    let standby = Restored::start(&world, "standby", &["--then", "standby"]);
    wait_until("what was there", PATIENCE, || standby.orders() == "1,2");
    standby.check_read_only();

    // One follows, and the other stays where it is.
    order(&mut world, 3);
    wait_until("what has come since", PATIENCE, || standby.orders() == "1,2,3");
    standby.check_read_only();
    assert_eq!(paused.orders(), "1");
    paused.check_read_only();

    paused.query("select pg_wal_replay_resume()");
    paused.check_opens(11);
    assert_eq!(paused.orders(), "1,11");
    standby.pg_ctl(&["promote", "-w"]);
    standby.check_opens(12);
    assert_eq!(standby.orders(), "1,2,3,12");

    // The source goes on, and nobody has written into its journal.
    order(&mut world, 4);
    world.wait_protected(Site::East);
    for restored in [paused, standby] {
        restored.pg_ctl(&["stop", "-m", "immediate"]);
        fs::remove_dir_all(&restored.data).unwrap();
    }
}
