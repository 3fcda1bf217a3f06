use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use jiff::Timestamp;
use levee_vault::transport::{Custody, CustodyEvent, import, open_volumes};
use levee_vault::{CopyOptions, CopyReport, Vault};
use serde::Serialize;

use super::amounts::parse_duration;
use super::copy::exit_of;
use super::place::Place;
use super::progress::{Display, During};
use super::selection::SelectionArguments;
use super::{ended, open, password};
use crate::exit::Exit;
use crate::output::Output;

#[derive(Debug, Args)]
pub struct Arguments {
    /// A folder with volumes of the export (can be repeated: all of them are needed)
    #[arg(long, value_name = "FOLDER", required = true)]
    from: Vec<PathBuf>,
    /// A file that holds the password of the vault that the export was made from
    #[arg(long, env = "LEVEE_FROM_PASSWORD_FILE", value_name = "FILE")]
    from_password_file: PathBuf,
    /// Write down what was received, when and by whom, in a file
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    receipt: Option<PathBuf>,
    #[command(flatten)]
    selection: SelectionArguments,
    /// Only verify the volumes and say what would be imported
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
    received: CustodyEvent,
    custody: &'a Custody,
}

pub fn run(place: &Place, arguments: Arguments, output: Output) -> anyhow::Result<Exit> {
    let vault = open(place)?;
    let display = Display::new(output, During::Check);
    let opened = open_volumes(&arguments.from, &display);
    display.finish();
    let (store, custody) = opened.map_err(ended)?;
    output.note(&format!("all {} volumes are as the custody record says", custody.volumes.len()));
    let transport = Vault::open(store, &password::current(Some(&arguments.from_password_file))?).map_err(ended)?;
    let options = CopyOptions {
        selection: arguments.selection.selection()?,
        patience: arguments.retry_lock,
        pass_over_damage: true,
        dry_run: arguments.dry_run,
        ..CopyOptions::default()
    };
    let display = Display::new(output, During::Copy);
    let result = import(&transport, &custody, &vault, &options, &display);
    display.finish();
    let report = result.map_err(ended)?;
    let received = CustodyEvent::now("received", Timestamp::now());
    let line =
        SummaryLine { message_type: "summary", dry_run: options.dry_run, report: &report, received, custody: &custody };
    if let Some(path) = &arguments.receipt {
        let json = serde_json::to_vec_pretty(&line)?;
        std::fs::write(path, json).with_context(|| format!("cannot write the receipt {}", path.display()))?;
    }
    output.result(&line, |_| {
        let would = if options.dry_run { "would import" } else { "imported" };
        format!(
            "{would} {} snapshots, {} were there already; {} blobs, {}",
            report.copied.len(),
            report.skipped.len(),
            report.blobs,
            indicatif::BinaryBytes(report.bytes)
        )
    })?;
    Ok(exit_of(&report, output))
}
