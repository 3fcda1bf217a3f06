use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use levee_image::{ExtractEvent, ExtractOptions};
use levee_vault::{Event, ItemChange, Progress};
use serde::Serialize;

use super::super::open;
use super::super::place::Place;
use super::super::progress::{Display, During};
use super::super::selection::FilterArguments;
use super::super::snapshot_argument::Chosen;
use super::place_in_image::{Disk, Inside, PlaceInImage};
use crate::exit::Exit;
use crate::output::Output;

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    filter: FilterArguments,
    /// The folder to restore to; files that have the same names there are replaced
    #[arg(short, long, value_name = "FOLDER")]
    target: PathBuf,
    /// Leave everything to the user who restores
    #[arg(long)]
    no_owner: bool,
    /// `latest` or the first digits of an id
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,
    /// A file, or a folder, whose content goes straight into the target
    #[arg(value_name = "NAME:[PARTITION]/PATH")]
    wanted: String,
}

#[derive(Serialize)]
struct SummaryLine {
    message_type: &'static str,
    seconds_elapsed: u64,
    files_restored: u64,
    directories: u64,
    others: u64,
    bytes_restored: u64,
    errors: u64,
}

pub fn run(place: &Place, arguments: Arguments, output: Output) -> anyhow::Result<Exit> {
    let vault = open(place)?;
    let chosen = Chosen::find(&vault, &arguments.snapshot, &arguments.filter.selection()?)?;
    let found = PlaceInImage::find(&vault, &chosen.id, &arguments.wanted)?;
    let Inside::Path { partition, path } = found.inside else {
        bail!(
            "this restores files out of an image, NAME:PARTITION/PATH; the whole of it: `levee vault restore --image`"
        );
    };
    let disk = Disk::open(&vault, &chosen.id, &found.image)?;
    let file_system = disk.file_system(partition)?;
    let options = ExtractOptions {
        target: arguments.target.clone(),
        owners: !arguments.no_owner && rustix::process::geteuid().is_root(),
    };
    let display = Display::new(output, During::Restore);
    let mut report = |event: ExtractEvent<'_>| match event {
        ExtractEvent::Bytes(bytes) => display.report(Event::Bytes(bytes)),
        ExtractEvent::Done(path) => display.report(Event::Item { path, change: ItemChange::Restored }),
        ExtractEvent::Problem(path, message) => display.report(Event::Problem { path, message }),
    };
    let result = levee_image::extract(&*file_system, &path, &options, &mut report);
    display.finish();
    let done = result?;
    let line = SummaryLine {
        message_type: "summary",
        seconds_elapsed: display.elapsed_s() as u64,
        files_restored: done.files,
        directories: done.directories,
        others: done.others,
        bytes_restored: done.bytes,
        errors: done.problems,
    };
    if output.is_json() || !output.is_quiet() {
        output.result(&line, |line| {
            let (files, bytes) = (line.files_restored, indicatif::BinaryBytes(line.bytes_restored));
            let (folders, others, seconds) = (line.directories, line.others, display.elapsed_s());
            format!("restored {files} files ({bytes}), {folders} folders and {others} others in {seconds:.1} s")
        })?;
    }
    if done.problems > 0 {
        bail!("{} entries could not be restored", done.problems);
    }
    Ok(Exit::DONE)
}
