//! The end of a server, whatever is left of it.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use levee_database::postgres::instance::{Instance, StopMode};
use levee_testing::postgres::Cluster;
use rustix::process::{Pid, Signal, kill_process};

use crate::wait_until;

fn servers_in(data_directory: &Path) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes.filter(|process| fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == data_directory)).count()
}

/// A backend looks for its postmaster only where it waits: while it computes it lives on, and commits what it has begun.
#[test]
fn the_backends_of_a_killed_postmaster_are_ended_too() {
    let cluster = Cluster::builder().start();
    let data = fs::canonicalize(cluster.data_directory()).unwrap();
    let mut psql = cluster.psql_command("postgres");
    psql.args(["-c", "select count(*) from generate_series(1, 2000000000)"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut busy = psql.spawn().unwrap();
    wait_until("the backend computes", || {
        cluster.psql("select count(*) from pg_stat_activity where query like '%generate_series%' and state = 'active'")
            == "2"
    });
    let pid = fs::read_to_string(data.join("postmaster.pid")).unwrap();
    let postmaster = Pid::from_raw(pid.lines().next().unwrap().trim().parse().unwrap()).unwrap();
    kill_process(postmaster, Signal::KILL).unwrap();
    let user = cluster.binaries().user().map_or("postgres".to_string(), |user| user.name.clone());
    let instance = Instance::open(&data, &user, Some(cluster.binaries().folder()), None).unwrap();
    wait_until("the postmaster is gone", || instance.running().unwrap().is_none());
    assert!(servers_in(&data) > 0, "the backend has ended by itself");
    instance.stop(StopMode::Fast, Duration::from_secs(30)).unwrap();
    assert_eq!(servers_in(&data), 0);
    let _ = busy.wait();
}
