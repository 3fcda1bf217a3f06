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
}

#[derive(Serialize)]
struct Unlocked {
    message_type: &'static str,
    removed: usize,
}

pub fn run(place: &Place, arguments: Arguments, output: Output) -> anyhow::Result<Exit> {
    let vault = open(place)?;
    let removed = levee_vault::unlock(&vault, arguments.remove_all).map_err(ended)?;
    output.result(&Unlocked { message_type: "unlocked", removed }, |unlocked| match unlocked.removed {
        0 => "there were no locks to remove".into(),
        removed => format!("removed {removed} locks"),
    })?;
    Ok(Exit::DONE)
}
