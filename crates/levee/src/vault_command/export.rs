use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use jiff::Timestamp;
use levee_vault::transport::{Custody, VOLUME_BYTES_MIN, export};
use levee_vault::{CopyOptions, CopyReport};
use serde::Serialize;

use super::amounts::{parse_bytes, parse_duration};
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
    /// Wait so long for others to end, instead of giving up at once
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = parse_duration)]
    retry_lock: Duration,
}

#[derive(Serialize)]
struct SummaryLine<'a> {
    message_type: &'static str,
    #[serde(flatten)]
    report: &'a CopyReport,
    custody: &'a Custody,
}

pub fn run(place: &Place, arguments: Arguments, output: Output) -> anyhow::Result<Exit> {
    if arguments.volume_size < VOLUME_BYTES_MIN {
        bail!("--volume-size must be at least {}", indicatif::BinaryBytes(VOLUME_BYTES_MIN));
    }
    let vault = open(place)?;
    let options = CopyOptions {
        selection: arguments.selection.selection()?,
        patience: arguments.retry_lock,
        ..CopyOptions::default()
    };
    let display = Display::new(output, During::Copy);
    let result = export(&vault, &arguments.target, arguments.volume_size, &options, Timestamp::now(), &display);
    display.finish();
    let (report, custody) = result.map_err(ended)?;
    let line = SummaryLine { message_type: "summary", report: &report, custody: &custody };
    output.result(&line, |_| {
        format!(
            "exported {} snapshots, {} were there already\n{} volumes, {} in {}; its custody record is custody.json\n\
             The password of the vault opens it: don't let it travel with the disks.",
            report.copied.len(),
            report.skipped.len(),
            custody.volumes.len(),
            indicatif::BinaryBytes(custody.bytes),
            arguments.target.display(),
        )
    })?;
    Ok(Exit::DONE)
}
