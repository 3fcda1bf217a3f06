//! `levee vault …`: restic's verbs, flags, JSON fields and exit codes on a vault.

mod amounts;
mod backup;
mod cache;
mod check;
mod copy;
mod diff;
mod dump;
mod export;
mod find;
mod forget;
mod grouping;
mod image;
mod import;
mod init;
pub(crate) mod interrupt;
mod key;
mod ls;
mod mount;
mod password;
mod place;
mod progress;
mod prune;
mod repair;
mod restore;
mod retain;
mod rewrite;
mod selection;
mod serve;
mod snapshot_argument;
mod snapshots;
mod source;
mod stats;
mod tag;
mod text_file;
mod thaw;
mod thawing;
mod times;
mod undelete;
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
    Init(init::Arguments),
    /// Store files and folders as a new snapshot
    Backup(backup::Arguments),
    /// List snapshots
    Snapshots(snapshots::Arguments),
    /// List the files in a snapshot
    Ls(ls::Arguments),
    /// Bring files back from a snapshot
    Restore(restore::Arguments),
    /// Write a file to standard output, or a folder as an archive
    Dump(dump::Arguments),
    /// Show what differs between two snapshots
    Diff(diff::Arguments),
    /// Look for files by name, or for the users of a blob, tree or pack
    Find(find::Arguments),
    /// Count files, blobs and bytes
    Stats(stats::Arguments),
    /// Images of disks, and the files in them
    #[command(subcommand)]
    Image(image::ImageVerb),
    /// Show the vault as a read-only file system
    Mount(mount::Arguments),
    /// List or clean the copies of vaults' metadata on this machine
    Cache(cache::Arguments),
    /// Bring back packs from an archive class, before something reads them
    Thaw(thaw::Arguments),
    /// Look for damage
    Check(check::Arguments),
    /// Remove snapshots by a policy
    Forget(forget::Arguments),
    /// Bring back forgotten snapshots, while their data stand
    Undelete(undelete::Arguments),
    /// Remove data that no snapshot refers to
    Prune(prune::Arguments),
    /// Copy snapshots from another vault into this one
    Copy(copy::Arguments),
    /// Write snapshots to volumes that travel on disks
    Export(export::Arguments),
    /// Take in snapshots from volumes that have travelled on disks
    Import(import::Arguments),
    /// Change the tags of snapshots
    Tag(tag::Arguments),
    /// Make snapshots without some of their files, or under another host or time
    Rewrite(rewrite::Arguments),
    /// Mend what is damaged; changes nothing without --apply
    #[command(subcommand)]
    Repair(repair::RepairVerb),
    /// Remove locks that others have left behind
    Unlock(unlock::Arguments),
    /// Passwords of the vault
    #[command(subcommand)]
    Key(key::KeyVerb),
    /// Keep what a vault at s3:… refers to from being removed for so many days (object lock)
    Retain(retain::Arguments),
    /// Offer the repositories of a folder to other clients, restic among them
    Serve(serve::Arguments),
}

impl VaultCommand {
    pub fn is_service(&self) -> bool {
        matches!(self.verb, Verb::Serve(_))
    }
}

pub fn run(command: VaultCommand, output: Output) -> anyhow::Result<Exit> {
    let VaultCommand { place, verb } = command;
    match verb {
        Verb::Init(arguments) => init::run(&place, &arguments, output),
        Verb::Backup(arguments) => backup::run(&place, arguments, output),
        Verb::Snapshots(arguments) => snapshots::run(&place, arguments, output),
        Verb::Ls(arguments) => ls::run(&place, arguments, output),
        Verb::Restore(arguments) => restore::run(&place, arguments, output),
        Verb::Dump(arguments) => dump::run(&place, arguments, output),
        Verb::Diff(arguments) => diff::run(&place, arguments, output),
        Verb::Find(arguments) => find::run(&place, arguments, output),
        Verb::Stats(arguments) => stats::run(&place, arguments, output),
        Verb::Image(verb) => image::run(&place, verb, output),
        Verb::Mount(arguments) => mount::run(&place, arguments, output),
        Verb::Cache(arguments) => cache::run(&place.cache, arguments, output),
        Verb::Thaw(arguments) => thaw::run(&place, arguments, output),
        Verb::Check(arguments) => check::run(&place, arguments, output),
        Verb::Forget(arguments) => forget::run(&place, arguments, output),
        Verb::Undelete(arguments) => undelete::run(&place, arguments, output),
        Verb::Prune(arguments) => prune::run(&place, arguments, output),
        Verb::Copy(arguments) => copy::run(&place, arguments, output),
        Verb::Export(arguments) => export::run(&place, arguments, output),
        Verb::Import(arguments) => import::run(&place, arguments, output),
        Verb::Tag(arguments) => tag::run(&place, arguments, output),
        Verb::Rewrite(arguments) => rewrite::run(&place, arguments, output),
        Verb::Repair(verb) => repair::run(&place, verb, output),
        Verb::Unlock(arguments) => unlock::run(&place, arguments, output),
        Verb::Key(verb) => key::run(&place, verb, output),
        Verb::Retain(arguments) => retain::run(&place, arguments, output),
        Verb::Serve(arguments) => serve::run(arguments, output),
    }
}

/// Opens the vault with the password that was given or is typed. Signals that end the process take the
/// vault's locks away from now on.
pub fn open(place: &Place) -> anyhow::Result<Vault> {
    let vault = open_without_watching(place)?;
    interrupt::release_locks_of(&vault)?;
    Ok(vault)
}

/// Opens the vault for a verb that waits for signals itself.
fn open_without_watching(place: &Place) -> anyhow::Result<Vault> {
    let store = place.store()?;
    // Before a person is asked for the password of a vault that isn't there.
    if let Err(levee_store::Error::NotFound { .. }) = store.size_bytes(levee_store::FileType::Config, "") {
        return Err(ended(Error::NoRepository { location: store.location() }));
    }
    let password = password::current(place.password_file.as_deref())?;
    let vault = Vault::open(store, &password).map_err(ended)?;
    place.cache.apply(&vault, place.is_remote());
    Ok(vault)
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
