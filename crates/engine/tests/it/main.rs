//! Against real servers.

mod backup;
mod connect;
mod fake_server;
mod hostile;
mod wal;

use levee_engine::postgres::{ConnectOptions, Host, SslMode};
use levee_testing::postgres::Cluster;

/// By the Unix socket, as superuser.
fn options(cluster: &Cluster) -> ConnectOptions {
    ConnectOptions::new(Host::Unix(cluster.socket_directory().into()), cluster.port(), "postgres")
}

/// By TCP, as this role.
fn tcp_options(cluster: &Cluster, user: &str) -> ConnectOptions {
    let host = Host::Tcp(cluster.address().to_string());
    ConnectOptions { ssl_mode: SslMode::Disable, ..ConnectOptions::new(host, cluster.port(), user) }
}
