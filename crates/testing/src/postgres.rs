//! PostgreSQL clusters of several versions, each in its own folder and on its own port.

mod binaries;
mod builder;
mod cluster;
mod embedded;
mod pgbench;
mod session;

pub use binaries::{Binaries, Version};
pub use builder::Builder;
pub use cluster::{Cluster, Stop};
pub use pgbench::{Pgbench, PgbenchReport};
pub use session::{Outcome, Session};
