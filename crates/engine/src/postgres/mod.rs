//! PostgreSQL 13 to 17: a client for queries and physical replication, and readers of its formats.

mod address;
mod authentication;
mod base_backup;
mod channel_binding;
mod connection;
mod error;
pub mod manifest;
mod options;
pub mod page;
mod replication;
mod row;
mod stream;
pub mod tar;
mod time;
mod tls;
mod transport;
mod version;
pub mod wal;

pub use base_backup::{Archive, BackupEnd, BackupOptions, BackupStream, TablespaceHeader};
pub use connection::Connection;
pub use error::{Error, Result, ServerError};
pub use options::{ChannelBinding, ConnectOptions, Host, InvalidConnectionText, Password, SslMode};
pub use replication::{IdentifiedSystem, TimelineHistory};
pub use row::{Row, quote_identifier, quote_literal};
pub use stream::{Event, NextTimeline, ReplicationStream};
pub use time::{from_postgres_time, to_postgres_time};
pub use version::ServerVersion;
