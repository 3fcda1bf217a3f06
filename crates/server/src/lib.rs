//! The control plane: what is wanted, what is so, and the runs in between.
//!
//! No data and no data-plane secret ever passes through it. Its folder holds one SQLite file, the
//! certificate authority beside it, and nothing else that matters.
//!
//! - `state`: the transactional store and the history.
//! - `config`, `apply`, `desired`: what operators want, and what each agent is told.
//! - `hub`: the agents that are connected, and the commands that are in flight.
//! - `contact`: what agents that are away have said last of the copies that they keep.
//! - `runs`: carrying plans out.
//! - `control`: everything that an operator can ask; `http` is its skin.

mod adopt;
mod agents;
mod apply;
mod backup;
mod config;
mod contact;
mod control;
mod desired;
mod error;
mod folder;
mod http;
mod hub;
mod monitor;
mod planning;
mod proofs;
mod removal;
mod runs;
mod server;
mod state;
mod status;
mod tasks;
mod tokens;

pub use control::{BackupKey, Caller, Control};
pub use error::{ErrorKind, Result, ServerError};
pub use server::{Listening, Server, ServerOptions, run};
