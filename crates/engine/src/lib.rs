//! Database engines: connecting, the replication protocol, decoding the log. One module per engine.
//!
//! Everything is synchronous; a connection is a socket that its one owner reads and writes.

pub mod postgres;
