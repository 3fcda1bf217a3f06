use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use jiff::Timestamp;
use levee_vault::transport::{Custody, Exported, VOLUME_BYTES_MIN, export, plan_export};
use levee_vault::{CopyOptions, CopyReport, Id};
use serde::Serialize;

use super::amounts::{parse_bytes, parse_duration};
use super::copy::exit_of;
use super::place::Place;
use super::progress::{Display, During};
use super::selection::SelectionArguments;
use super::{ended, open};
use crate::exit::Exit;
use crate::output::Output;

#[derive(Debug, Args)]
pub struct Arguments {
    /// The folder to write volumes and their custody record to; an export that was cut short goes on there
    #[arg(short, long, value_name = "FOLDER")]
    target: PathBuf,
    /// No volume is larger than this
    #[arg(long, value_name = "SIZE", default_value = "4G", value_parser = parse_bytes)]
    volume_size: u64,
    #[command(flatten)]
    selection: SelectionArguments,
    /// Only say what would be exported
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Wait so long for others to end, instead of giving up at once
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = parse_duration)]
    retry_lock: Duration,
}

#[derive(Serialize)]
struct SummaryLine<'a> {
    message_type: &'static str,
    dry_run: bool,
    #[serde(flatten)]
    report: &'a CopyReport,
    /// Not in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    custody: Option<&'a Custody>,
    /// Keys in the volumes that the vault has no more. Not in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    old_keys: Option<&'a [Id]>,
}

pub fn run(place: &Place, arguments: Arguments, output: Output) -> anyhow::Result<Exit> {
    if arguments.volume_size < VOLUME_BYTES_MIN {
        bail!("--volume-size must be at least {}", indicatif::BinaryBytes(VOLUME_BYTES_MIN));
    }
    let vault = open(place)?;
    let options = CopyOptions {
        selection: arguments.selection.selection()?,
        patience: arguments.retry_lock,
        pass_over_damage: true,
        ..CopyOptions::default()
    };
    let display = Display::new(output, During::Copy);
    if arguments.dry_run {
        let result = plan_export(&vault, &arguments.target, &options, &display);
        display.finish();
        let report = result.map_err(ended)?;
        let (custody, old_keys) = (None, None);
        let line = SummaryLine { message_type: "summary", dry_run: true, report: &report, custody, old_keys };
        output.result(&line, |_| {
            let (copied, skipped, bytes) = (report.copied.len(), report.skipped.len(), report.bytes);
            let bytes = indicatif::BinaryBytes(bytes);
            format!("would export {copied} snapshots, {skipped} are there already; {} blobs, {bytes}", report.blobs)
        })?;
        return Ok(exit_of(&report, output));
    }
    let result = export(&vault, &arguments.target, arguments.volume_size, &options, Timestamp::now(), &display);
    display.finish();
    let exported = result.map_err(ended)?;
    let Exported { report, custody, old_keys } = &exported;
    let (custody, old_keys) = (Some(custody), Some(old_keys.as_slice()));
    let line = SummaryLine { message_type: "summary", dry_run: false, report, custody, old_keys };
    output.result(&line, |_| text(&exported, &arguments.target))?;
    Ok(exit_of(report, output))
}

fn text(exported: &Exported, target: &Path) -> String {
    let Exported { report, custody, old_keys } = exported;
    let mut text = format!(
        "exported {} snapshots, {} were there already\n{} volumes, {} in {}; its custody record is custody.json\n\
         The password of the vault opens it: don't let it travel with the disks.",
        report.copied.len(),
        report.skipped.len(),
        custody.volumes.len(),
        indicatif::BinaryBytes(custody.bytes),
        target.display(),
    );
    if !old_keys.is_empty() {
        let keys: Vec<String> = old_keys.iter().map(Id::short).collect();
        text.push_str(&format!(
            "\nOld passwords open it, too: of {} keys that the vault has no more ({}). Nothing is removed from volumes; \
             to be rid of them export into an empty folder.",
            keys.len(),
            keys.join(", ")
        ));
    }
    text
}
