//! `levee vault …`: restic's verbs, flags, JSON fields and exit codes on a vault.

mod backup;
mod check;
mod filter;
mod init;
mod key;
mod ls;
mod password;
mod place;
mod progress;
mod restore;
mod snapshots;
mod unlock;

use clap::{Args, Subcommand};
use levee_vault::{Error, Vault};

use crate::exit::{Ended, Exit};
use crate::output::Output;
pub use place::Place;
pub use progress::{Display, During};

/// A vault and what to do with it.
#[derive(Debug, Args)]
pub struct VaultCommand {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a new vault
    Init,
    /// Store files and folders as a new snapshot
    Backup(backup::Arguments),
    /// List snapshots
    Snapshots(snapshots::Arguments),
    /// List the files in a snapshot
    Ls(ls::Arguments),
    /// Bring files back from a snapshot
    Restore(restore::Arguments),
    /// Look for damage
    Check(check::Arguments),
    /// Remove locks that others have left behind
    Unlock(unlock::Arguments),
    /// Passwords of the vault
    #[command(subcommand)]
    Key(key::KeyVerb),
}

pub fn run(command: VaultCommand, output: Output) -> anyhow::Result<Exit> {
    let VaultCommand { place, verb } = command;
    match verb {
        Verb::Init => init::run(&place, output),
        Verb::Backup(arguments) => backup::run(&place, arguments, output),
        Verb::Snapshots(arguments) => snapshots::run(&place, arguments, output),
        Verb::Ls(arguments) => ls::run(&place, arguments, output),
        Verb::Restore(arguments) => restore::run(&place, arguments, output),
        Verb::Check(arguments) => check::run(&place, arguments, output),
        Verb::Unlock(arguments) => unlock::run(&place, arguments, output),
        Verb::Key(verb) => key::run(&place, verb, output),
    }
}

/// Opens the vault with the password that was given or is typed.
pub fn open(place: &Place) -> anyhow::Result<Vault> {
    let store = place.store()?;
    // Before a person is asked for the password of a vault that isn't there.
    if let Err(levee_store::Error::NotFound { .. }) = store.size_bytes(levee_store::FileType::Config, "") {
        return Err(ended(Error::NoRepository { location: store.location() }));
    }
    let password = password::current(place.password_file.as_deref())?;
    Vault::open(store, &password).map_err(ended)
}

/// The error with the exit code that restic has for it.
fn ended(error: Error) -> anyhow::Error {
    let exit = match &error {
        Error::NoRepository { .. } => Exit::NO_REPOSITORY,
        Error::Locked { .. } => Exit::LOCKED,
        Error::WrongPassword { .. } => Exit::WRONG_PASSWORD,
        _ => return error.into(),
    };
    Ended::with(exit, error.into())
}
