//! Renewing object lock on what a vault's snapshots still refer to.

use clap::Args;
use levee_store::Error;
use levee_store::object_store::LOCKED_DAYS_MAX;
use levee_vault::ToRetain;
use serde::Serialize;

use super::place::Place;
use super::{ended, open};
use crate::exit::Exit;
use crate::output::Output;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Until so many days from now nobody can remove what the vault holds
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=i64::from(LOCKED_DAYS_MAX)))]
    days: u16,
    /// Only say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Retained {
    message_type: &'static str,
    dry_run: bool,
    files: u64,
    /// Packs that no snapshot refers to: their retention runs out, and a prune can free them.
    packs_left: u64,
    days: u16,
}

pub fn run(place: &Place, arguments: Arguments, output: Output) -> anyhow::Result<Exit> {
    let store = place.s3_store()?;
    let vault = open(place)?;
    let ToRetain { files: to_retain, packs_left } = vault.files_to_retain().map_err(ended)?;
    let mut files = 0;
    for (file_type, name) in to_retain {
        if arguments.dry_run {
            files += 1;
            continue;
        }
        match store.attempt(|store| store.retain(file_type, &name, arguments.days)) {
            Ok(_) => files += 1,
            // Removed since the listing, as unlocked versions may be.
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let Arguments { days, dry_run } = arguments;
    let retained = Retained { message_type: "retained", dry_run, files, packs_left, days };
    output.result(&retained, |_| match dry_run {
        true => format!(
            "{files} files would not be removable for {days} days from now; {packs_left} packs that nothing refers to \
             would be left as they are"
        ),
        false => format!(
            "{files} files cannot be removed for {days} days from now; {packs_left} packs that nothing refers to were \
             left as they are"
        ),
    })?;
    Ok(Exit::DONE)
}
