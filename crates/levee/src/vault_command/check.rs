use std::path::Path;

use anyhow::bail;
use clap::Args;
use levee_vault::check::{ReadData, Subset};
use levee_vault::{CheckOptions, CheckReport};
use serde::Serialize;

use super::amounts::parse_subset;
use super::place::Place;
use super::progress::{Display, During};
use super::{ended, open};
use crate::exit::Exit;
use crate::output::Output;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Read, decrypt and hash everything, and not only what is needed to know what is there
    #[arg(long)]
    read_data: bool,
    /// Read so much of the data: N/T for part N of T, a percentage as 2.5%, or a size as 50M or 1G
    #[arg(long, value_name = "SUBSET", conflicts_with = "read_data", value_parser = parse_subset)]
    read_data_subset: Option<Subset>,
    /// Take no lock, for a vault that cannot be written to; others' work may then look like damage
    #[arg(long)]
    no_lock: bool,
}

/// The summary as `restic check --json` prints it, and what the check went through.
#[derive(Serialize)]
struct SummaryLine<'a> {
    message_type: &'static str,
    num_errors: u64,
    broken_packs: Option<Vec<&'a str>>,
    suggest_repair_index: bool,
    suggest_prune: bool,
    /// Files that the store lists and does not have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    listed_and_gone: Vec<&'a str>,
    snapshots: u64,
    packs: u64,
    blobs: u64,
    trees: u64,
    packs_read: u64,
    bytes_read: u64,
}

impl<'a> SummaryLine<'a> {
    fn new(report: &'a CheckReport) -> Self {
        let mut broken: Vec<&str> =
            report.errors.iter().filter_map(|finding| finding.file.strip_prefix("data/")).collect();
        broken.sort();
        broken.dedup();
        Self {
            message_type: "summary",
            num_errors: report.error_count,
            broken_packs: (!broken.is_empty()).then_some(broken),
            suggest_repair_index: report.errors.iter().any(|finding| finding.file.starts_with("index/")),
            listed_and_gone: report.doubts.iter().map(|finding| finding.file.as_str()).collect(),
            suggest_prune: report.hints.iter().any(|finding| finding.file.starts_with("data/")),
            snapshots: report.snapshots,
            packs: report.packs,
            blobs: report.blobs,
            trees: report.trees,
            packs_read: report.packs_read,
            bytes_read: report.bytes_read,
        }
    }
}

pub fn run(place: &Place, arguments: Arguments, output: Output) -> anyhow::Result<Exit> {
    let vault = open(place)?;
    let display = Display::new(output, During::Check);
    let read_data = match (arguments.read_data, arguments.read_data_subset) {
        (true, _) => ReadData::All,
        (false, Some(subset)) => ReadData::Subset(subset),
        (false, None) => ReadData::Headers,
    };
    let options = CheckOptions { read_data, no_lock: arguments.no_lock };
    let result = levee_vault::check(&vault, options, &display);
    display.finish();
    let report = result.map_err(ended)?;
    for finding in &report.errors {
        display.problem(Path::new(&finding.file), &finding.message);
    }
    for hint in &report.hints {
        output.note(&format!("{}: {} (nothing is lost by it)", hint.file, hint.message));
    }
    for doubt in &report.doubts {
        display.problem(Path::new(&doubt.file), &doubt.message);
    }
    if output.is_json() || !output.is_quiet() {
        output.result(&SummaryLine::new(&report), |_| text(&report, read_data))?;
    }
    if !report.is_sound() {
        bail!(
            "the vault is damaged: {} errors; don't remove anything from it, and restore what matters now",
            report.error_count
        );
    }
    Ok(Exit::DONE)
}

fn text(report: &CheckReport, read_data: ReadData) -> String {
    let sound = match (report.is_sound(), report.doubts.len()) {
        (true, 0) => "no errors were found".to_string(),
        (true, doubts) => {
            format!("no errors were found, but {doubts} files are listed and not there: they were removed, or are lost")
        }
        (false, _) => "ERRORS WERE FOUND".to_string(),
    };
    let read = match read_data {
        ReadData::Headers => "the data themselves were not read (--read-data does)".into(),
        ReadData::All => format!("{} of packs were read", indicatif::BinaryBytes(report.bytes_read)),
        ReadData::Subset(_) => {
            format!("{} of them, {}, were read", report.packs_read, indicatif::BinaryBytes(report.bytes_read))
        }
    };
    format!("{sound}: {} snapshots, {} packs, {} blobs; {read}", report.snapshots, report.packs, report.blobs)
}
