//! An agent: the Levee process at a site that does everything that touches data.
//!
//! `join` makes a folder an agent's, `run` (or `Agent::start` and `Agent::run`) works in it. The shell here holds
//! sockets, clocks and the stream to the server; `protect` holds the work on the assets, in threads of its own.

mod calls;
mod commands;
mod context;
mod control;
mod durable;
mod epochs;
mod error;
mod exchange;
mod folder;
mod join;
mod options;
pub mod process_group;
mod protect;
mod renewal;
pub mod rest;
mod run;
mod secrets;

pub use error::{Error, Result};
pub use folder::{AgentFolder, Membership};
pub use join::join;
pub use options::{
    AgentOptions, DEFAULT_COPIES_AT_ONCE, DEFAULT_DNS_PORT, DEFAULT_STORE_PORT, DEFAULT_WIRE_PORT, JoinAs, Listen,
    LocalAddresses,
};
pub use protect::{read_gaps, start_database};
pub use run::{Agent, run};
pub use secrets::Secrets;
