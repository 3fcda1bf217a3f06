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

/// Packs that are named; all of them are in the JSON.
const NAMED_MAX: usize = 20;

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
    /// Packs in use that are not there: nothing can be locked of them by their names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<String>,
    /// Files that were left alone because the store itself had failed.
    not_tried: u64,
    /// What hid which packs are in use, so that the lock was renewed on all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    damage: Option<String>,
}

pub fn run(place: &Place, arguments: Arguments, output: Output) -> anyhow::Result<Exit> {
    let Arguments { days, dry_run } = arguments;
    let store = place.s3_store()?;
    let vault = open(place)?;
    let display = Display::new(output, During::Retain);
    let result = vault.files_to_retain();
    let mut to_retain = result.inspect_err(|_| display.finish()).map_err(ended)?;
    let (packs_left, damage) = (to_retain.packs_left, to_retain.damage.take());
    let missing = std::mem::take(&mut to_retain.missing);
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
    let retained = Retained {
        message_type: "retained",
        dry_run,
        files,
        packs_left,
        days,
        failed,
        first_failures,
        missing,
        not_tried,
        damage,
    };
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
    // Only now: the locks on what is sound must not run out for it.
    if let Some(damage) = &retained.damage {
        output.note(&format!(
            "object lock is renewed on all packs, for it can't be said which are in use: {damage}; run `levee vault check`"
        ));
    }
    let lacking = retained.missing.len();
    if lacking > 0 {
        let named: Vec<String> = retained.missing.iter().take(NAMED_MAX).map(|pack| format!("data/{pack}")).collect();
        output.note(&format!(
            "{lacking} packs in use are not there, and their locks were not renewed: {}{}",
            named.join(", "),
            if lacking > NAMED_MAX { ", …" } else { "" }
        ));
    }
    match (failed, not_tried) {
        (0, _) if lacking > 0 => bail!(
            "{lacking} packs in use are not there: hidden by somebody who has the bucket's keys, or lost. What is hidden can be \
             removed for good once its lock has run out: run `levee vault repair versions` before, and then this again"
        ),
        (0, _) if retained.damage.is_some() => {
            bail!("the vault is damaged: what it needs is locked as far as it is there, and what is missing is not")
        }
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
