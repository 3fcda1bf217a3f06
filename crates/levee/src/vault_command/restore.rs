use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::{Args, ValueEnum};
use levee_vault::{Overwrite, RestoreOptions, RestoreSummary};
use serde::Serialize;

use super::filter::FilterArguments;
use super::place::Place;
use super::progress::{Display, During};
use super::{ended, open};
use crate::exit::Exit;
use crate::output::Output;

#[derive(Debug, Args)]
pub struct Arguments {
    /// `latest` or the first digits of an id; with `:FOLDER`, only what that folder holds
    #[arg(value_name = "SNAPSHOT[:FOLDER]")]
    snapshot: String,
    /// The folder to restore to
    #[arg(short, long, value_name = "FOLDER")]
    target: PathBuf,
    #[command(flatten)]
    filter: FilterArguments,
    /// Restore only what matches the pattern (can be repeated)
    #[arg(short, long, value_name = "PATTERN")]
    include: Vec<String>,
    /// Leave out what matches the pattern (can be repeated)
    #[arg(short, long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Make holes where there are only zeros
    #[arg(long)]
    sparse: bool,
    /// Read everything again in the end and compare
    #[arg(long)]
    verify: bool,
    /// What happens to files that are there already
    #[arg(long, value_enum, default_value_t)]
    overwrite: OverwriteMode,
    /// Remove what is in the target and not in the snapshot
    #[arg(long)]
    delete: bool,
    /// Take no lock, for a vault that cannot be written to
    #[arg(long)]
    no_lock: bool,
}

/// restic's words.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum OverwriteMode {
    #[default]
    Always,
    IfChanged,
    IfNewer,
    Never,
}

impl From<OverwriteMode> for Overwrite {
    fn from(mode: OverwriteMode) -> Self {
        match mode {
            OverwriteMode::Always => Overwrite::Always,
            OverwriteMode::IfChanged => Overwrite::IfChanged,
            OverwriteMode::IfNewer => Overwrite::IfNewer,
            OverwriteMode::Never => Overwrite::Never,
        }
    }
}

/// The summary as `restic restore --json` prints it, where "files" are entries of every kind.
#[derive(Serialize)]
struct SummaryLine {
    message_type: &'static str,
    seconds_elapsed: u64,
    total_files: u64,
    files_restored: u64,
    files_skipped: u64,
    files_deleted: u64,
    total_bytes: u64,
    bytes_restored: u64,
    bytes_skipped: u64,
    errors: u64,
}

impl SummaryLine {
    fn new(summary: &RestoreSummary, elapsed_s: f64) -> Self {
        let files_restored = summary.directories + summary.files_restored + summary.others;
        Self {
            message_type: "summary",
            seconds_elapsed: elapsed_s as u64,
            total_files: files_restored + summary.files_unchanged,
            files_restored,
            files_skipped: summary.files_unchanged,
            files_deleted: summary.files_deleted,
            total_bytes: summary.total_bytes,
            bytes_restored: summary.bytes_written,
            bytes_skipped: summary.total_bytes.saturating_sub(summary.bytes_written),
            errors: summary.errors.count,
        }
    }
}

pub fn run(place: &Place, arguments: Arguments, output: Output) -> anyhow::Result<Exit> {
    let (wanted, subfolder) = match arguments.snapshot.split_once(':') {
        Some((wanted, folder)) => (wanted, Some(PathBuf::from(folder))),
        None => (arguments.snapshot.as_str(), None),
    };
    let is_filtered = !arguments.include.is_empty() || !arguments.exclude.is_empty();
    if arguments.delete && !is_filtered && std::path::absolute(&arguments.target)? == Path::new("/") {
        bail!("--delete with the target / would remove this whole machine: say with --include what it is about");
    }
    let vault = open(place)?;
    let (id, snapshot) = vault.find_snapshot(wanted, &arguments.filter.filter()?).map_err(ended)?;
    let options = RestoreOptions {
        target: arguments.target,
        subfolder,
        includes: arguments.include,
        excludes: arguments.exclude,
        overwrite: arguments.overwrite.into(),
        sparse: arguments.sparse,
        verify: arguments.verify,
        delete: arguments.delete,
        no_lock: arguments.no_lock,
        ..RestoreOptions::default()
    };
    output.note(&format!(
        "restoring snapshot {} of {} to {}",
        id.short(),
        snapshot.paths.join(", "),
        options.target.display()
    ));
    let display = Display::new(output, During::Restore);
    let result = levee_vault::restore(&vault, &id, &options, &display);
    display.finish();
    let summary = result.map_err(ended)?;
    let line = SummaryLine::new(&summary, display.elapsed_s());
    if output.is_json() || !output.is_quiet() {
        output.result(&line, |line| {
            let verified = if options.verify && line.errors == 0 { ", read again and found right" } else { "" };
            format!(
                "restored {} entries ({}) in {:.1} s; {} were right already{}{verified}",
                line.files_restored,
                indicatif::BinaryBytes(line.bytes_restored),
                display.elapsed_s(),
                line.files_skipped,
                if line.files_deleted > 0 { format!("; {} were removed", line.files_deleted) } else { String::new() },
            )
        })?;
    }
    if !summary.errors.is_empty() {
        bail!("{} entries could not be restored", summary.errors.count);
    }
    Ok(Exit::DONE)
}
