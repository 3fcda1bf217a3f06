use std::time::Duration;

use anyhow::bail;
use clap::Args;
use jiff::{SignedDuration, Timestamp};
use levee_vault::{MaxUnused, PruneOptions, PruneReport, Vault};
use serde::Serialize;

use super::amounts::{parse_bytes, parse_duration, parse_max_unused};
use super::place::Place;
use super::progress::{Display, During};
use super::{ended, open};
use crate::exit::Exit;
use crate::output::Output;

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    pruning: PruneArguments,
    /// Wait so long for others to end, instead of giving up at once
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = parse_duration)]
    retry_lock: Duration,
    /// For a store with no space left: delete first, then write the index. No backup may be under way anywhere, and what was
    /// forgotten cannot be brought back. Takes the vault's whole id, as `levee vault prune` prints it when it is wrong
    #[arg(long, value_name = "ID")]
    unsafe_recover_no_free_space: Option<String>,
    /// Only say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// How to prune; `forget --prune` takes the same.
#[derive(Clone, Debug, Args)]
pub struct PruneArguments {
    /// How much unused data may stay: a size, a share such as 5%, or unlimited
    #[arg(long, value_name = "LIMIT", default_value = "5%", value_parser = parse_max_unused)]
    max_unused: MaxUnused,
    /// Rewrite no more than this in one run
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    max_repack_size: Option<u64>,
    /// Rewrite only packs of directories, which restic caches
    #[arg(long)]
    repack_cacheable_only: bool,
    /// Compress what is stored uncompressed; reads all of it
    #[arg(long)]
    repack_uncompressed: bool,
    /// Put packs below this size together
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    repack_smaller_than: Option<u64>,
    /// Delete packs only when they have been in no index for so long; with 0 at once
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = parse_duration)]
    grace: Duration,
}

impl PruneArguments {
    pub fn options(&self, patience: Duration, dry_run: bool) -> PruneOptions {
        PruneOptions {
            max_unused: self.max_unused,
            max_repack_bytes: self.max_repack_size,
            repack_cacheable_only: self.repack_cacheable_only,
            repack_uncompressed: self.repack_uncompressed,
            repack_smaller_than_bytes: self.repack_smaller_than,
            grace: SignedDuration::try_from(self.grace).unwrap_or(SignedDuration::MAX),
            recover_space: false,
            patience,
            dry_run,
            ..PruneOptions::default()
        }
    }
}

#[derive(Serialize)]
struct SummaryLine<'a> {
    message_type: &'static str,
    dry_run: bool,
    #[serde(flatten)]
    report: &'a PruneReport,
}

pub fn run(place: &Place, arguments: Arguments, output: Output) -> anyhow::Result<Exit> {
    let vault = open(place)?;
    let mut options = arguments.pruning.options(arguments.retry_lock, arguments.dry_run);
    if let Some(id) = &arguments.unsafe_recover_no_free_space {
        if *id != vault.id().to_string() {
            bail!("--unsafe-recover-no-free-space must be given this vault's id, which is {}", vault.id());
        }
        if options.repack_uncompressed {
            bail!("--unsafe-recover-no-free-space rewrites nothing: leave out --repack-uncompressed");
        }
        options.recover_space = true;
    }
    prune(&vault, &options, output)
}

pub fn prune(vault: &Vault, options: &PruneOptions, output: Output) -> anyhow::Result<Exit> {
    let display = Display::new(output, During::Prune);
    let result = levee_vault::prune(vault, options, Timestamp::now(), &display);
    display.finish();
    let report = result.map_err(ended)?;
    if output.is_json() || !output.is_quiet() {
        let line = SummaryLine { message_type: "summary", dry_run: options.dry_run, report: &report };
        output.result(&line, |_| text(&report, options.dry_run))?;
    }
    if report.problems.is_empty() {
        return Ok(Exit::DONE);
    }
    bail!(
        "{} packs could not be read and were left as they are; run `levee vault check --read-data`",
        report.problems.count
    )
}

fn text(report: &PruneReport, dry_run: bool) -> String {
    let bytes = indicatif::BinaryBytes;
    let would = if dry_run { "would be " } else { "" };
    let mut text = format!(
        "used:      {} blobs, {}\n\
         unused:    {} blobs, {}; {} of it stay between used ones\n\
         repacked:  {} packs, {} of used data {would}written again\n\
         removed:   {} packs, {} {would}taken out of the index\n\
         deleted:   {} packs, {} {would}freed\n",
        report.figures.used_blobs,
        bytes(report.figures.used_bytes),
        report.figures.unused_blobs,
        bytes(report.figures.unused_bytes),
        bytes(report.figures.unused_bytes_left),
        report.figures.packs_repacked,
        bytes(report.figures.repacked_bytes),
        report.figures.packs_removed,
        bytes(report.figures.removed_bytes),
        report.packs_deleted,
        bytes(report.deleted_bytes),
    );
    if report.packs_readopted > 0 {
        text.push_str(&format!("readopted: {} packs that a snapshot refers to after all\n", report.packs_readopted));
    }
    if let Some(until) = report.waiting_until {
        text.push_str(&format!(
            "waiting:   {} packs, {}; a prune after {} deletes the first of them\n",
            report.packs_waiting,
            bytes(report.waiting_bytes),
            super::snapshots::local_time(until),
        ));
    }
    text
}
