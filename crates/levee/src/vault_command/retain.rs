//! Renewing object lock on what a vault's snapshots still refer to.

use anyhow::bail;
use clap::Args;
use levee_store::object_store::LOCKED_DAYS_MAX;
use levee_vault::{Event, Progress, Renewed};
use serde::Serialize;

use super::place::Place;
use super::progress::{Display, During};
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
    failed: u64,
    first_failures: Vec<String>,
    /// Files that were left alone because the store itself had failed.
    not_tried: u64,
}

pub fn run(place: &Place, arguments: Arguments, output: Output) -> anyhow::Result<Exit> {
    let Arguments { days, dry_run } = arguments;
    let store = place.s3_store()?;
    let vault = open(place)?;
    let display = Display::new(output, During::Retain);
    let result = vault.files_to_retain();
    let to_retain = result.inspect_err(|_| display.finish()).map_err(ended)?;
    let packs_left = to_retain.packs_left;
    let Renewed { files, failed, first_failures, not_tried } = match dry_run {
        true => Renewed { files: to_retain.files.len() as u64, ..Renewed::default() },
        false => {
            display.report(Event::Total { items: to_retain.files.len() as u64, bytes: 0 });
            to_retain.renew(|file_type, name| {
                let retained = store.attempt(|store| store.retain(file_type, name, days));
                display.report(Event::Files(1));
                retained.map(drop)
            })
        }
    };
    display.finish();
    let first_failures = first_failures.iter().map(ToString::to_string).collect();
    let retained =
        Retained { message_type: "retained", dry_run, files, packs_left, days, failed, first_failures, not_tried };
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
    for failure in &retained.first_failures {
        output.note(failure);
    }
    match (failed, not_tried) {
        (0, _) => Ok(Exit::DONE),
        (_, 0) => bail!(
            "object lock could not be renewed on {failed} files: their locks run out as they would have; see to the \
             cause and run it again"
        ),
        (..) => bail!(
            "object lock could not be renewed on {failed} files, and {not_tried} were not tried after that: their \
             locks run out as they would have; see to the cause and run it again"
        ),
    }
}
