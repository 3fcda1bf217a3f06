use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;
use levee_image::{CompareEvent, ExtractEvent, ExtractOptions, FileSystem, Reading};
use levee_vault::{Event, ItemChange, Progress};
use serde::Serialize;

use super::super::open;
use super::super::place::Place;
use super::super::progress::{Display, During};
use super::super::selection::FilterArguments;
use super::super::snapshot_argument::Chosen;
use super::place_in_image::{Disk, Inside, PlaceInImage};
use super::thawing::{ImageThawArguments, Needed, with_disk};
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
    /// Read everything back from the disk in the end and compare it with the image
    #[arg(long)]
    verify: bool,
    /// Say what would be restored and how much of it stands there already, but change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    thawing: ImageThawArguments,
    /// `latest` or the first digits of an id
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,
    /// A file, or a folder, whose content goes straight into the target
    #[arg(value_name = "NAME:[PARTITION]/PATH")]
    wanted: String,
}

#[derive(Debug, Serialize)]
struct SummaryLine {
    message_type: &'static str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
    seconds_elapsed: u64,
    files_restored: u64,
    directories: u64,
    others: u64,
    bytes_restored: u64,
    /// Of a dry run: what stands there with the same content, and would be written once more.
    #[serde(skip_serializing_if = "Option::is_none")]
    files_unchanged: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_unchanged: Option<u64>,
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
    let needed = Needed::of_image(&vault, &chosen.id, &found.image);
    if arguments.thawing.goes_on(&needed, arguments.dry_run, output)? {
        with_disk(&vault, &chosen.id, &found.image, |disk| bring_out(disk, partition, &path, &arguments, output))?;
    }
    Ok(Exit::DONE)
}

fn bring_out(
    disk: &Disk,
    partition: Option<u32>,
    path: &Path,
    arguments: &Arguments,
    output: Output,
) -> anyhow::Result<()> {
    let file_system = disk.file_system(partition)?;
    let display = Display::new(output, During::Restore);
    let done = match arguments.dry_run {
        true => foresee(&*file_system, path, arguments, &display),
        false => restore(&*file_system, path, arguments, &display),
    };
    display.finish();
    let line = SummaryLine { seconds_elapsed: display.elapsed_s() as u64, ..done? };
    if output.is_json() || !output.is_quiet() {
        output.result(&line, |line| text(line, arguments.verify, display.elapsed_s()))?;
    }
    match (line.errors, line.dry_run) {
        (0, _) => Ok(()),
        (errors, true) => bail!("{errors} entries could not be restored"),
        (errors, false) => bail!("{errors} entries could not be restored, or did not read back"),
    }
}

fn text(line: &SummaryLine, verify: bool, seconds: f64) -> String {
    let (files, bytes) = (line.files_restored, indicatif::BinaryBytes(line.bytes_restored));
    let (folders, others) = (line.directories, line.others);
    if let (Some(same_files), Some(same_bytes)) = (line.files_unchanged, line.bytes_unchanged) {
        let same_bytes = indicatif::BinaryBytes(same_bytes);
        return format!(
            "would restore {files} files ({bytes}), {folders} folders and {others} others; {same_files} of the files \
             ({same_bytes}) stand there with the same content"
        );
    }
    let verified = if verify && line.errors == 0 { ", read again and found right" } else { "" };
    format!("restored {files} files ({bytes}), {folders} folders and {others} others in {seconds:.1} s{verified}")
}

/// What a restore would do. Nothing is changed.
fn foresee(
    file_system: &dyn FileSystem,
    path: &Path,
    arguments: &Arguments,
    display: &Display,
) -> anyhow::Result<SummaryLine> {
    let mut errors = 0;
    let mut report = |event: CompareEvent<'_>| match event {
        CompareEvent::Bytes(bytes) => display.report(Event::Bytes(bytes)),
        // It would be restored.
        CompareEvent::Differs(..) => {}
        CompareEvent::Problem(path, message) => {
            errors += 1;
            display.problem(path, message);
        }
    };
    let found = levee_image::compare(file_system, path, &arguments.target, Reading::Cached, &mut report)?;
    Ok(SummaryLine {
        message_type: "summary",
        dry_run: true,
        seconds_elapsed: 0,
        files_restored: found.files,
        directories: found.directories,
        others: found.others,
        bytes_restored: found.bytes,
        files_unchanged: Some(found.same_files),
        bytes_unchanged: Some(found.same_bytes),
        errors,
    })
}

fn restore(
    file_system: &dyn FileSystem,
    path: &Path,
    arguments: &Arguments,
    display: &Display,
) -> anyhow::Result<SummaryLine> {
    let options = ExtractOptions {
        target: arguments.target.clone(),
        owners: !arguments.no_owner && rustix::process::geteuid().is_root(),
    };
    // What was named is not named once more when it does not read back.
    let mut named: HashSet<PathBuf> = HashSet::new();
    let mut report = |event: ExtractEvent<'_>| match event {
        ExtractEvent::Bytes(bytes) => display.report(Event::Bytes(bytes)),
        ExtractEvent::Done(path) => display.report(Event::Item { path, change: ItemChange::Restored }),
        ExtractEvent::Problem(path, message) => {
            named.insert(path.to_path_buf());
            display.problem(path, message);
        }
    };
    let done = levee_image::extract(file_system, path, &options, &mut report)?;
    let mut errors = done.problems;
    if arguments.verify {
        let mut report = |event: CompareEvent<'_>| match event {
            CompareEvent::Bytes(_) => {}
            CompareEvent::Differs(path, how) | CompareEvent::Problem(path, how) => {
                if named.insert(path.to_path_buf()) {
                    errors += 1;
                    display.problem(path, how);
                }
            }
        };
        levee_image::compare(file_system, path, &options.target, Reading::FromDisk, &mut report)?;
    }
    Ok(SummaryLine {
        message_type: "summary",
        dry_run: false,
        seconds_elapsed: 0,
        files_restored: done.files,
        directories: done.directories,
        others: done.others,
        bytes_restored: done.bytes,
        files_unchanged: None,
        bytes_unchanged: None,
        errors,
    })
}
