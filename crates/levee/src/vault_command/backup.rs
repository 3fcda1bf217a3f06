use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use levee_vault::{BackupOptions, BackupSummary, Compression, SnapshotFilter, SnapshotId};
use serde::Serialize;

use super::place::Place;
use super::progress::{Display, During};
use super::{ended, open};
use crate::exit::Exit;
use crate::output::Output;

/// The form in which restic takes a time.
const TIME_FORMAT: &str = "%Y-%m-%d %H:%M:%S";

#[derive(Debug, Args)]
pub struct Arguments {
    /// Files and folders to store
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// Leave out what matches the pattern (can be repeated)
    #[arg(short, long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Leave out what matches a pattern in the file, one a line (can be repeated)
    #[arg(long, value_name = "FILE")]
    exclude_file: Vec<PathBuf>,
    /// Tags for the snapshot
    #[arg(long, value_name = "TAG[,TAG]", value_delimiter = ',')]
    tag: Vec<String>,
    /// The host name to note instead of this machine's
    #[arg(short = 'H', long, value_name = "HOST")]
    host: Option<String>,
    /// The snapshot to compare with instead of the newest of the same host and paths
    #[arg(long, value_name = "SNAPSHOT")]
    parent: Option<String>,
    /// Read every file, whether it looks changed or not
    #[arg(short, long)]
    force: bool,
    /// Don't go into other file systems
    #[arg(short = 'x', long)]
    one_file_system: bool,
    /// Read and compare, but store nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Make no snapshot when nothing has changed since the parent
    #[arg(long)]
    skip_if_unchanged: bool,
    /// Store the times of last access too
    #[arg(long)]
    with_atime: bool,
    /// How hard to try to make data smaller
    #[arg(long, value_enum, default_value_t)]
    compression: CompressionMode,
    /// The time to note instead of now, as in '2006-01-02 15:04:05'
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    time: Option<Timestamp>,
}

/// restic's words.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
pub enum CompressionMode {
    #[default]
    Auto,
    Off,
    Fastest,
    Max,
}

impl From<CompressionMode> for Compression {
    fn from(mode: CompressionMode) -> Self {
        match mode {
            CompressionMode::Auto => Compression::Auto,
            CompressionMode::Off => Compression::Off,
            CompressionMode::Fastest => Compression::Fastest,
            CompressionMode::Max => Compression::Max,
        }
    }
}

pub fn parse_time(text: &str) -> Result<Timestamp, String> {
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Ok(timestamp);
    }
    let local = DateTime::strptime(TIME_FORMAT, text).and_then(|time| time.to_zoned(TimeZone::system()));
    local
        .map(|time| time.timestamp())
        .map_err(|_| "write it as in '2006-01-02 15:04:05' or 2006-01-02T15:04:05Z".into())
}

/// The summary as `restic backup --json` prints it.
#[derive(Serialize)]
struct SummaryLine {
    message_type: &'static str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
    files_new: u64,
    files_changed: u64,
    files_unmodified: u64,
    dirs_new: u64,
    dirs_changed: u64,
    dirs_unmodified: u64,
    data_blobs: u64,
    tree_blobs: u64,
    data_added: u64,
    data_added_packed: u64,
    total_files_processed: u64,
    total_bytes_processed: u64,
    total_duration: f64,
    backup_start: Timestamp,
    backup_end: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot_id: Option<SnapshotId>,
}

impl SummaryLine {
    fn new(summary: &BackupSummary, dry_run: bool, total_duration: f64) -> Self {
        Self {
            message_type: "summary",
            dry_run,
            files_new: summary.files_new,
            files_changed: summary.files_changed,
            files_unmodified: summary.files_unmodified,
            dirs_new: summary.dirs_new,
            dirs_changed: summary.dirs_changed,
            dirs_unmodified: summary.dirs_unmodified,
            data_blobs: summary.data_blobs,
            tree_blobs: summary.tree_blobs,
            data_added: summary.data_added_bytes,
            data_added_packed: summary.data_added_packed_bytes,
            total_files_processed: summary.total_files,
            total_bytes_processed: summary.total_bytes,
            total_duration,
            backup_start: summary.started_at,
            backup_end: summary.ended_at,
            snapshot_id: summary.snapshot_id,
        }
    }

    fn text(&self) -> String {
        let bytes = |bytes| indicatif::BinaryBytes(bytes);
        let would = if self.dry_run { "Would add" } else { "Added" };
        let mut text = format!(
            "Files: {:>8} new, {:>8} changed, {:>8} unmodified\n\
             Dirs:  {:>8} new, {:>8} changed, {:>8} unmodified\n\
             {would} {} ({} stored)\n\
             Processed {} files, {} in {:.1} s\n",
            self.files_new,
            self.files_changed,
            self.files_unmodified,
            self.dirs_new,
            self.dirs_changed,
            self.dirs_unmodified,
            bytes(self.data_added),
            bytes(self.data_added_packed),
            self.total_files_processed,
            bytes(self.total_bytes_processed),
            self.total_duration,
        );
        match (&self.snapshot_id, self.dry_run) {
            (Some(id), _) => text.push_str(&format!("snapshot {} saved\n", id.short())),
            (None, true) => {}
            (None, false) => text.push_str("nothing has changed; no snapshot was made\n"),
        }
        text
    }
}

pub fn run(place: &Place, arguments: Arguments, output: Output) -> anyhow::Result<Exit> {
    let mut excludes = arguments.exclude;
    for file in &arguments.exclude_file {
        excludes.extend(patterns_in(file)?);
    }
    let vault = open(place)?;
    let parent = match &arguments.parent {
        None => None,
        Some(wanted) => Some(vault.find_snapshot(wanted, &SnapshotFilter::default()).map_err(ended)?.0),
    };
    let options = BackupOptions {
        paths: arguments.paths,
        host: arguments.host,
        tags: arguments.tag.into_iter().filter(|tag| !tag.is_empty()).collect(),
        excludes,
        parent,
        force: arguments.force,
        time: arguments.time,
        one_file_system: arguments.one_file_system,
        dry_run: arguments.dry_run,
        skip_if_unchanged: arguments.skip_if_unchanged,
        with_atime: arguments.with_atime,
        compression: arguments.compression.into(),
    };
    let display = Display::new(output, During::Archival);
    let result = levee_vault::backup(&vault, &options, &display);
    display.finish();
    let summary = result.map_err(ended)?;
    let line = SummaryLine::new(&summary, options.dry_run, display.elapsed_s());
    if output.is_json() || !output.is_quiet() {
        output.result(&line, SummaryLine::text)?;
    }
    if summary.errors.is_empty() {
        return Ok(Exit::DONE);
    }
    output.note(&format!("{} sources could not be read; the snapshot lacks them", summary.errors.count));
    Ok(Exit::INCOMPLETE)
}

/// The patterns of a file, as restic reads it: one a line, without empty lines and comments.
pub fn patterns_in(file: &Path) -> anyhow::Result<Vec<String>> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read the patterns in {}", file.display()))?;
    if text.contains('\0') {
        bail!("{} is not a text file with patterns", file.display());
    }
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines.map(String::from).collect())
}
