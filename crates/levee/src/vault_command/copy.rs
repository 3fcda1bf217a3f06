use std::time::Duration;

use clap::Args;
use levee_vault::{CopyOptions, CopyReport, Vault};
use serde::Serialize;

use super::amounts::parse_duration;
use super::backup::CompressionMode;
use super::place::Place;
use super::progress::{Display, During};
use super::selection::SelectionArguments;
use super::source::SourceArguments;
use super::{ended, open};
use crate::exit::Exit;
use crate::output::Output;

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    source: SourceArguments,
    #[command(flatten)]
    selection: SelectionArguments,
    /// How hard to try to make data smaller
    #[arg(long, value_enum, default_value_t)]
    compression: CompressionMode,
    /// Take no lock on the vault to copy from, for one that cannot be written to
    #[arg(long)]
    no_lock: bool,
    /// Only say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Wait so long for others to end, instead of giving up at once
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = parse_duration)]
    retry_lock: Duration,
}

#[derive(Serialize)]
pub struct SummaryLine<'a> {
    message_type: &'static str,
    dry_run: bool,
    #[serde(flatten)]
    report: &'a CopyReport,
}

pub fn run(place: &Place, arguments: Arguments, output: Output) -> anyhow::Result<Exit> {
    let source = arguments.source.open(place)?;
    let vault = open(&place.one_of_several())?;
    let options = CopyOptions {
        selection: arguments.selection.selection()?,
        compression: arguments.compression.into(),
        patience: arguments.retry_lock,
        pass_over_damage: true,
        no_lock_source: arguments.no_lock,
        dry_run: arguments.dry_run,
        ..CopyOptions::default()
    };
    copy(&source, &vault, &options, output)
}

pub fn copy(source: &Vault, vault: &Vault, options: &CopyOptions, output: Output) -> anyhow::Result<Exit> {
    let display = Display::new(output, During::Copy);
    let result = levee_vault::copy(source, vault, options, &display);
    display.finish();
    let report = result.map_err(ended)?;
    if output.is_json() || !output.is_quiet() {
        let line = SummaryLine { message_type: "summary", dry_run: options.dry_run, report: &report };
        output.result(&line, |_| text(&report, options.dry_run))?;
    }
    Ok(exit_of(&report, output))
}

/// Names the snapshots that are damaged where they come from, and says what the process ends with.
pub fn exit_of(report: &CopyReport, output: Output) -> Exit {
    for failed in &report.failed {
        output.note(&format!("snapshot {} was NOT COPIED: {}", failed.id.short(), failed.error));
    }
    match report.failed.len() {
        0 => Exit::DONE,
        count => {
            output.note(&format!(
                "{count} snapshots are damaged where they come from, and were left out: `levee vault check` there says \
                 what is damaged; mend it with `levee vault repair`, and run this again"
            ));
            Exit::INCOMPLETE
        }
    }
}

fn text(report: &CopyReport, dry_run: bool) -> String {
    let mut text = String::new();
    for copied in &report.copied {
        let became = copied.to.map_or_else(|| "would be copied".into(), |to| format!("copied as {}", to.short()));
        text.push_str(&format!("snapshot {} {became}\n", copied.from.short()));
    }
    let would = if dry_run { " would be" } else { "" };
    let bytes = indicatif::BinaryBytes;
    text + &format!(
        "{} snapshots{would} copied, {} were there already; {} blobs, {} ({} stored)\n",
        report.copied.len(),
        report.skipped.len(),
        report.blobs,
        bytes(report.bytes),
        bytes(report.packed_bytes),
    )
}
