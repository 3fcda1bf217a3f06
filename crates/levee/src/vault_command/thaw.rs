//! Bringing back what lies in an archive class, before something else reads it.

use std::collections::BTreeSet;

use anyhow::bail;
use clap::Args;
use levee_vault::Id;
use serde::Serialize;

use super::place::Place;
use super::selection::FilterArguments;
use super::snapshot_argument::Chosen;
use super::thawing::{ThawArguments, Wish, thaw};
use super::{ended, open};
use crate::exit::Exit;
use crate::output::Output;

#[derive(Debug, Args)]
pub struct Arguments {
    /// What is wanted of: `latest` or the first digits of an id; with `:FOLDER`, only what that folder holds
    #[arg(value_name = "SNAPSHOT[:FOLDER]", required_unless_present = "all")]
    snapshots: Vec<String>,
    /// Everything that lies in an archive class
    #[arg(long, conflicts_with = "snapshots")]
    all: bool,
    /// Come back when everything can be read, instead of when the service was asked
    #[arg(long)]
    wait: bool,
    /// Only say what must be thawed
    #[arg(short = 'n', long, conflicts_with = "wait")]
    dry_run: bool,
    #[command(flatten)]
    filter: FilterArguments,
    #[command(flatten)]
    thawing: ThawArguments,
}

#[derive(Serialize)]
struct SummaryLine {
    message_type: &'static str,
    #[serde(flatten)]
    state: levee_vault::ThawState,
}

pub fn run(place: &Place, arguments: Arguments, output: Output) -> anyhow::Result<Exit> {
    let vault = open(place)?;
    let mut needed: BTreeSet<Id> = BTreeSet::new();
    let selection = arguments.filter.selection()?;
    for snapshot in &arguments.snapshots {
        let chosen = Chosen::find(&vault, snapshot, &selection)?;
        needed.extend(vault.packs_below(&chosen.tree(&vault)?).map_err(ended)?);
    }
    let wish = match (arguments.dry_run, arguments.wait) {
        (true, _) => Wish::Look,
        (false, true) => Wish::Wait,
        (false, false) => Wish::Ask,
    };
    let archived = vault.archived_packs().map_err(ended)?;
    let is_needed = |pack: &Id| arguments.all || needed.contains(pack);
    let state = thaw(&vault, &archived, is_needed, wish, &arguments.thawing, output)?;
    let line = SummaryLine { message_type: "summary", state };
    output.result(&line, |line| match (line.state.is_done(), line.state.packs_thawed) {
        (true, 0) => "nothing of it lies in an archive class".into(),
        (true, packs) => format!("{packs} packs can be read"),
        (false, _) if wish == Wish::Look => "nothing was asked for".into(),
        (false, _) => "the service was asked; the same command with --wait comes back when it is done".into(),
    })?;
    if state.packs_frozen > 0 && wish != Wish::Look {
        bail!("{} packs are still frozen although the service was asked for them", state.packs_frozen);
    }
    Ok(Exit::DONE)
}
