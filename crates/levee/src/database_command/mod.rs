//! `levee database …`: PostgreSQL on one machine, with a vault folder and a journal folder and no server.

mod archive;
mod backup;
mod connect;
mod fetch_wal;
mod journal;
mod list;
mod preflight;
mod restore;

use clap::{Args, Subcommand};

use crate::exit::Exit;
use crate::output::Output;
use crate::vault_command::Place;

// One is parsed in the life of a process.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Subcommand)]
pub enum DatabaseCommand {
    /// Look whether a server can be protected, and say what is in the way
    Preflight(preflight::Arguments),
    /// Store a base backup of a whole cluster in a vault
    Backup(WithVault<backup::Arguments>),
    /// Archive the log continuously into a journal, until stopped
    Archive(archive::Arguments),
    /// List base backups, and up to where each can be rolled forward
    List(WithVault<list::Arguments>),
    /// Bring a cluster back to any moment, into a new data directory
    Restore(WithVault<restore::Arguments>),
    /// Fetch one file of the log from a journal; PostgreSQL's restore_command runs it
    FetchWal(fetch_wal::Arguments),
}

/// A command that needs a vault.
#[derive(Debug, Args)]
pub struct WithVault<A: Args> {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    arguments: A,
}

pub fn run(command: DatabaseCommand, output: Output) -> anyhow::Result<Exit> {
    match command {
        DatabaseCommand::Preflight(arguments) => preflight::run(&arguments, output),
        DatabaseCommand::Backup(WithVault { place, arguments }) => backup::run(&place, &arguments, output),
        DatabaseCommand::Archive(arguments) => archive::run(&arguments, output),
        DatabaseCommand::List(WithVault { place, arguments }) => list::run(&place, &arguments, output),
        DatabaseCommand::Restore(WithVault { place, arguments }) => restore::run(&place, &arguments, output),
        DatabaseCommand::FetchWal(arguments) => fetch_wal::run(&arguments),
    }
}
