mod versions;

use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, Subcommand};
use levee_vault::Id;
use levee_vault::repair::{
    IndexRepair, PackRepair, RepairOptions, SnapshotRepair, SnapshotRepairOptions, repair_index, repair_packs,
    repair_snapshots,
};
use serde::Serialize;

use super::amounts::parse_duration;
use super::place::Place;
use super::progress::{Display, During};
use super::selection::SelectionArguments;
use super::{ended, open};
use crate::exit::Exit;
use crate::output::Output;

#[derive(Debug, Subcommand)]
pub enum RepairVerb {
    /// Make the index agree with the packs that are there
    Index(IndexArguments),
    /// Save what can be read of damaged packs
    Packs(PackArguments),
    /// Make snapshots without what is lost out of damaged ones
    Snapshots(SnapshotArguments),
    /// Bring back what was removed or overwritten in a bucket that keeps versions (object lock at s3:…)
    Versions(versions::Arguments),
}

#[derive(Debug, Args)]
pub struct Applying {
    /// Do it; without this only what would be done is said
    #[arg(long)]
    apply: bool,
    /// Wait so long for others to end, instead of giving up at once
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = parse_duration)]
    retry_lock: Duration,
}

impl Applying {
    fn options(&self) -> RepairOptions {
        RepairOptions { apply: self.apply, patience: self.retry_lock }
    }
}

#[derive(Debug, Args)]
pub struct IndexArguments {
    /// Read the header of every pack, and not only of those that the index lacks
    #[arg(long)]
    read_all_packs: bool,
    #[command(flatten)]
    applying: Applying,
}

#[derive(Debug, Args)]
pub struct PackArguments {
    /// The packs: their whole names, as `check` prints them behind data/
    #[arg(value_name = "PACK", required = true)]
    packs: Vec<Id>,
    #[command(flatten)]
    applying: Applying,
}

#[derive(Debug, Args)]
pub struct SnapshotArguments {
    /// Remove the damaged snapshots when the repaired ones stand
    #[arg(long)]
    forget: bool,
    #[command(flatten)]
    selection: SelectionArguments,
    #[command(flatten)]
    applying: Applying,
}

#[derive(Serialize)]
struct SummaryLine<'a, T> {
    message_type: &'static str,
    dry_run: bool,
    #[serde(flatten)]
    repair: &'a T,
}

/// What was found in snapshots, and whether any was made anew.
#[derive(Serialize)]
struct SnapshotRepairLine<'a> {
    #[serde(flatten)]
    repair: &'a SnapshotRepair,
    applied: bool,
}

fn print<T: Serialize>(
    output: Output,
    applying: &Applying,
    repair: &T,
    text: impl FnOnce(&T) -> String,
) -> anyhow::Result<()> {
    let line = SummaryLine { message_type: "summary", dry_run: !applying.apply, repair };
    output.result(&line, |line| text(line.repair))
}

pub fn run(place: &Place, verb: RepairVerb, output: Output) -> anyhow::Result<Exit> {
    let begin = || anyhow::Ok((open(place)?, Display::new(output, During::Repair)));
    let needs_more = match verb {
        // The vault is not opened: its keys and its configuration may be what has to come back.
        RepairVerb::Versions(arguments) => return versions::run(place, &arguments, output),
        RepairVerb::Index(arguments) => {
            let (vault, display) = begin()?;
            let result = repair_index(&vault, arguments.read_all_packs, arguments.applying.options(), &display);
            display.finish();
            let repair = result.map_err(ended)?;
            print(output, &arguments.applying, &repair, index_text)?;
            !repair.is_sound() && !repair.applied
        }
        RepairVerb::Packs(arguments) => {
            let (vault, display) = begin()?;
            let result = repair_packs(&vault, &arguments.packs, arguments.applying.options(), &display);
            display.finish();
            let repair = result.map_err(ended)?;
            print(output, &arguments.applying, &repair, packs_text)?;
            !repair.damaged_packs.is_empty() && !repair.applied
        }
        RepairVerb::Snapshots(arguments) => {
            let (vault, display) = begin()?;
            let options = SnapshotRepairOptions {
                selection: arguments.selection.selection()?,
                forget: arguments.forget,
                repair: arguments.applying.options(),
            };
            let result = repair_snapshots(&vault, &options, &display);
            display.finish();
            let repair = result.map_err(ended)?;
            for loss in &repair.losses.first {
                display.problem(Path::new(&loss.path), &loss.message);
            }
            let applied = repair.snapshots.iter().any(|snapshot| snapshot.new.is_some());
            let line = SnapshotRepairLine { repair: &repair, applied };
            print(output, &arguments.applying, &line, |line| snapshots_text(line.repair))?;
            repair.snapshots.iter().any(|snapshot| snapshot.is_changed && snapshot.new.is_none())
        }
    };
    if needs_more {
        bail!("nothing was changed: run it again with --apply to do this");
    }
    Ok(Exit::DONE)
}

fn index_text(repair: &IndexRepair) -> String {
    let mut text = String::new();
    let mut list = |words: &str, ids: &[Id]| {
        for id in ids {
            text.push_str(&format!("{words} {id}\n"));
        }
    };
    list("index file cannot be read:", &repair.unreadable_index_files);
    list("pack is in the index and not there:", &repair.missing_packs);
    list("pack is there and not rightly in the index:", &repair.added_packs);
    list("pack in no index cannot be read:", &repair.unreadable_packs);
    match (repair.is_sound(), repair.applied) {
        (true, _) => text.push_str("the index agrees with the packs\n"),
        (false, true) => text.push_str("the index was written anew; run `levee vault check` next\n"),
        (false, false) => {}
    }
    text
}

fn packs_text(repair: &PackRepair) -> String {
    let mut text = String::new();
    for pack in &repair.sound_packs {
        text.push_str(&format!("pack {pack} is sound\n"));
    }
    for pack in &repair.damaged_packs {
        text.push_str(&format!("pack {pack} is damaged\n"));
    }
    for (kind, blob) in &repair.lost_blobs {
        text.push_str(&format!("lost in it: {kind} blob {blob}\n"));
    }
    let saved = if repair.applied { "were saved to new packs" } else { "can be saved" };
    text + &format!("{} blobs {saved}\n", repair.saved_blobs)
}

fn snapshots_text(repair: &SnapshotRepair) -> String {
    let mut text = String::new();
    for snapshot in repair.snapshots.iter().filter(|snapshot| snapshot.is_changed) {
        let became = snapshot.new.map_or_else(|| "is damaged".into(), |new| format!("became {}", new.short()));
        text.push_str(&format!("snapshot {} {became}\n", snapshot.old.short()));
    }
    let damaged = repair.snapshots.iter().filter(|snapshot| snapshot.is_changed).count();
    text + &format!("{damaged} of {} snapshots are damaged; {} losses\n", repair.snapshots.len(), repair.losses.count)
}
