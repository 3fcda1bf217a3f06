use clap::Args;
use serde::Serialize;

use super::place::Place;
use super::{ended, open};
use crate::exit::Exit;
use crate::output::Output;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Remove locks of processes that still run, too
    #[arg(long)]
    remove_all: bool,
    /// Only say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Unlocked {
    message_type: &'static str,
    dry_run: bool,
    removed: usize,
}

pub fn run(place: &Place, arguments: Arguments, output: Output) -> anyhow::Result<Exit> {
    let vault = open(place)?;
    let Arguments { remove_all, dry_run } = arguments;
    let removed = match dry_run {
        true => levee_vault::locks_to_remove(&vault, remove_all).map(|locks| locks.len()),
        false => levee_vault::unlock(&vault, remove_all),
    };
    let unlocked = Unlocked { message_type: "unlocked", dry_run, removed: removed.map_err(ended)? };
    output.result(&unlocked, |unlocked| match (unlocked.removed, dry_run) {
        (0, _) => "there were no locks to remove".into(),
        (removed, true) => format!("would remove {removed} locks"),
        (removed, false) => format!("removed {removed} locks"),
    })?;
    Ok(Exit::DONE)
}
