use clap::{Args, ValueEnum};
use levee_vault::{Stats, StatsMode};

use super::place::Place;
use super::progress::{Display, During};
use super::selection::FilterArguments;
use super::{ended, open};
use crate::exit::Exit;
use crate::output::Output;

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    filter: FilterArguments,
    /// What to count
    #[arg(long, value_enum, default_value_t)]
    mode: Mode,
    /// Only these snapshots: `latest` or the first digits of an id
    #[arg(value_name = "SNAPSHOT")]
    ids: Vec<String>,
}

/// restic's words.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Mode {
    /// What restoring each snapshot would write
    #[default]
    RestoreSize,
    /// Files, those with the same content once
    FilesByContents,
    /// Blobs of files, those with the same content once
    BlobsPerFile,
    /// Blobs as they are stored
    RawData,
}

impl Mode {
    fn word(self) -> &'static str {
        match self {
            Mode::RestoreSize => "restore-size",
            Mode::FilesByContents => "files-by-contents",
            Mode::BlobsPerFile => "blobs-per-file",
            Mode::RawData => "raw-data",
        }
    }
}

impl From<Mode> for StatsMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::RestoreSize => StatsMode::RestoreSize,
            Mode::FilesByContents => StatsMode::FilesByContents,
            Mode::BlobsPerFile => StatsMode::BlobsPerFile,
            Mode::RawData => StatsMode::RawData,
        }
    }
}

pub fn run(place: &Place, arguments: Arguments, output: Output) -> anyhow::Result<Exit> {
    let vault = open(place)?;
    let found = vault.select(&arguments.filter.selection_of(&arguments.ids)?).map_err(ended)?;
    let display = Display::new(output, During::Statistics);
    let result = levee_vault::stats(&vault, &found, arguments.mode.into(), &display);
    display.finish();
    let stats = result.map_err(ended)?;
    output.result(&stats, |stats| text(stats, arguments.mode))?;
    Ok(Exit::DONE)
}

fn text(stats: &Stats, mode: Mode) -> String {
    let bytes = |bytes| indicatif::BinaryBytes(bytes).to_string();
    let rows = [
        ("Snapshots processed", Some(stats.snapshots_count.to_string())),
        ("Total Blob Count", (stats.total_blob_count > 0).then(|| stats.total_blob_count.to_string())),
        ("Total File Count", (stats.total_file_count > 0).then(|| stats.total_file_count.to_string())),
        ("Total Uncompressed Size", (stats.total_uncompressed_size > 0).then(|| bytes(stats.total_uncompressed_size))),
        ("Total Size", Some(bytes(stats.total_size))),
        (
            "Compression Progress",
            (stats.compression_progress > 0.0).then(|| format!("{:.2}%", stats.compression_progress)),
        ),
        ("Compression Ratio", (stats.compression_ratio > 0.0).then(|| format!("{:.2}x", stats.compression_ratio))),
        (
            "Compression Space Saving",
            (stats.compression_space_saving != 0.0).then(|| format!("{:.2}%", stats.compression_space_saving)),
        ),
    ];
    let rows = rows.into_iter().filter_map(|(name, value)| Some(format!("{name:>24}:  {}", value?)));
    let head = format!("Stats in {} mode:", mode.word());
    std::iter::once(head).chain(rows).collect::<Vec<_>>().join("\n")
}
