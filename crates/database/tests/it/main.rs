//! Against real servers.

mod access_rules;
mod archive;
mod base;
mod early_status;
mod flushing;
mod marks;
mod memory_sink;
mod preflight;
mod restoring;
mod slot;
mod standby;
mod stopping;

use std::time::{Duration, Instant};

use levee_engine::postgres::{ConnectOptions, Host, Password};
use levee_testing::postgres::Cluster;

/// By the Unix socket, as superuser.
fn options(cluster: &Cluster) -> ConnectOptions {
    ConnectOptions::new(Host::Unix(cluster.socket_directory().into()), cluster.port(), "postgres")
}

/// By TCP with a password, as a role that has only the rights that the manual asks for.
fn role_options(cluster: &Cluster) -> ConnectOptions {
    cluster.psql("create role levee login replication password 'a secret' in role pg_monitor");
    let host = Host::Tcp(cluster.address().to_string());
    ConnectOptions { password: Some(Password::new("a secret")), ..ConnectOptions::new(host, cluster.port(), "levee") }
}

/// Lines of pg_hba.conf that ask that role for its password.
const ROLE_HBA: &str = "host all levee all scram-sha-256\nhost replication levee all scram-sha-256";

#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
