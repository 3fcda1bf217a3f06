mod copies;
mod hooks;
pub(super) mod images;
mod listed_paths;
mod stream;
mod suspicious;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use jiff::Timestamp;
use levee_vault::forget::GroupBy;
use levee_vault::suspicion::Sign;
use levee_vault::{BackupOptions, BackupSummary, Compression, Marker, SnapshotId, SnapshotSelection, Vault};
use serde::Serialize;

use super::amounts::{parse_bytes, parse_duration};
use super::grouping::parse_group_by;
use super::place::Place;
use super::progress::{Display, During};
use super::times::parse_time;
use super::{ended, open, text_file};
use crate::exit::Exit;
use crate::output::Output;
use copies::{CopyArguments, CopyOutcome, Targets};
use hooks::{HookArguments, Stored};
use listed_paths::ListedPaths;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Files and folders to store; with --stdin-from-command, the command and its arguments
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Paths and patterns of paths to store, one a line, from a file or `-` (can be repeated)
    #[arg(long, value_name = "FILE")]
    files_from: Vec<PathBuf>,
    /// Paths to store, one a line as they are, from a file or `-` (can be repeated)
    #[arg(long, value_name = "FILE")]
    files_from_verbatim: Vec<PathBuf>,
    /// Paths to store, each ended by a zero byte, from a file or `-` (can be repeated)
    #[arg(long, value_name = "FILE")]
    files_from_raw: Vec<PathBuf>,
    /// Store what comes on standard input as a file
    #[arg(long, conflicts_with_all = ["files_from", "files_from_verbatim", "files_from_raw"])]
    pub stdin: bool,
    /// Run a command and store what it prints as a file; no snapshot is made when it fails
    #[arg(long, conflicts_with_all = ["stdin", "files_from", "files_from_verbatim", "files_from_raw"])]
    pub stdin_from_command: bool,
    /// What the file from standard input or a command is called
    #[arg(long, value_name = "PATH", default_value = "stdin")]
    pub stdin_filename: PathBuf,
    /// Store the paths as disk images: raw files, block devices or qcow2
    #[arg(long, conflicts_with_all = ["files_from", "files_from_verbatim", "files_from_raw", "stdin", "stdin_from_command",
        "exclude", "exclude_file", "iexclude", "iexclude_file", "exclude_if_present", "exclude_caches",
        "exclude_larger_than", "skip_if_unchanged"])]
    image: bool,
    /// What the images are, whatever they look like
    #[arg(long, value_enum, value_name = "FORMAT", requires = "image")]
    image_format: Option<images::ImageFormat>,
    /// Read what a qcow2 image names as its backing file too; only for images that are trusted
    #[arg(long, requires = "image")]
    follow_backing_files: bool,
    /// Leave out what matches the pattern (can be repeated)
    #[arg(short, long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Leave out what matches a pattern in the file, one a line (can be repeated)
    #[arg(long, value_name = "FILE")]
    exclude_file: Vec<PathBuf>,
    /// Leave out what matches the pattern, with capitals and small letters alike (can be repeated)
    #[arg(long, value_name = "PATTERN")]
    iexclude: Vec<String>,
    /// The same for patterns in a file, one a line (can be repeated)
    #[arg(long, value_name = "FILE")]
    iexclude_file: Vec<PathBuf>,
    /// Leave out what is in folders that hold a file of this name, beginning with HEADER if that is given
    #[arg(long, value_name = "NAME[:HEADER]")]
    exclude_if_present: Vec<String>,
    /// Leave out what is in caches, which are marked by a CACHEDIR.TAG
    #[arg(long)]
    exclude_caches: bool,
    /// Leave out files larger than this; with k, M, G or T
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    exclude_larger_than: Option<u64>,
    /// Tags for the snapshot
    #[arg(long, value_name = "TAG[,TAG]", value_delimiter = ',')]
    pub tag: Vec<String>,
    /// The host name to note instead of this machine's
    #[arg(short = 'H', long, value_name = "HOST")]
    pub host: Option<String>,
    /// The snapshot to compare with instead of the newest of the same host and paths
    #[arg(long, value_name = "SNAPSHOT")]
    parent: Option<String>,
    /// What the snapshot to compare with has in common with this one: host, paths, tags, or '' for any snapshot
    #[arg(short, long, value_name = "GROUP", default_value = "host,paths", value_parser = parse_group_by)]
    group_by: GroupBy,
    /// Don't count beside the backup what there is to do, which on a terminal tells the time left
    #[arg(long)]
    no_scan: bool,
    /// Read every file, whether it looks changed or not
    #[arg(short, long)]
    force: bool,
    /// Take a file for unchanged even if its inode number and change time differ
    #[arg(long)]
    ignore_inode: bool,
    /// Take a file for unchanged even if its change time differs
    #[arg(long)]
    ignore_ctime: bool,
    /// Read so many files at once; as many as there are cores when it is not given
    #[arg(long, value_name = "N")]
    read_concurrency: Option<usize>,
    /// Don't go into other file systems
    #[arg(short = 'x', long)]
    one_file_system: bool,
    /// Read and compare, but store nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Make no snapshot when nothing has changed since the parent
    #[arg(long)]
    skip_if_unchanged: bool,
    /// Store the times of last access too
    #[arg(long)]
    with_atime: bool,
    /// How hard to try to make data smaller
    #[arg(long, value_enum, default_value_t)]
    pub compression: CompressionMode,
    /// The time to note instead of now, as in '2006-01-02 15:04:05'
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub time: Option<Timestamp>,
    /// Wait so long for others to end, instead of giving up at once
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = parse_duration)]
    pub retry_lock: Duration,
    #[command(flatten)]
    copies: CopyArguments,
    #[command(flatten)]
    hooks: HookArguments,
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
    /// What in it looks like ransomware at work.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ransomware_signs: Vec<Sign>,
    /// What has become of it in the vaults of `--copy-to`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    copies: Vec<CopyOutcome>,
}

/// What was found about a backup after it was stored.
struct Findings {
    signs: Vec<Sign>,
    copies: Vec<CopyOutcome>,
}

impl SummaryLine {
    fn new(summary: &BackupSummary, findings: Findings, dry_run: bool, total_duration: f64) -> Self {
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
            ransomware_signs: findings.signs,
            copies: findings.copies,
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
        text.extend(self.copies.iter().map(CopyOutcome::text));
        for sign in &self.ransomware_signs {
            text.push_str(&format!("WARNING: this looks like ransomware at work: {sign}\n"));
        }
        text
    }
}

/// What a backup takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Files,
    Images,
    Stream,
}

pub fn run(place: &Place, mut arguments: Arguments, output: Output) -> anyhow::Result<Exit> {
    let source = match &arguments {
        Arguments { image: true, .. } => Source::Images,
        Arguments { stdin: true, .. } | Arguments { stdin_from_command: true, .. } => Source::Stream,
        _ => Source::Files,
    };
    if source == Source::Stream {
        stream::refuse_wrong_use(&arguments)?;
    } else if source == Source::Images {
        images::refuse_wrong_use(&arguments)?;
    } else {
        let listed = ListedPaths {
            patterns: &arguments.files_from,
            verbatim: &arguments.files_from_verbatim,
            raw: &arguments.files_from_raw,
        };
        let listed = listed.read(output)?;
        arguments.paths.extend(listed);
        if arguments.paths.is_empty() {
            bail!("nothing to store: give a PATH, --files-from or --stdin");
        }
    }
    let place = &if arguments.copies.is_given() { place.one_of_several() } else { place.clone() };
    let vault = open(place)?;
    let (hooks, dry_run) = (arguments.hooks.clone(), arguments.dry_run);
    let targets = Targets::open(place, &arguments.copies)?;
    let (compression, patience) = (arguments.compression.into(), arguments.retry_lock);
    let display = Display::new(output, During::Archival);
    let (mut stored, mut elapsed_s) = (None, 0.0);
    let ended = hooks::around(&hooks, dry_run, output, || {
        let result = match source {
            Source::Files => store(&vault, arguments, &targets, output, &display),
            Source::Images => images::store(&vault, arguments, &targets, &display),
            Source::Stream => stream::store(&vault, arguments, &targets, &display),
        };
        display.finish();
        elapsed_s = display.elapsed_s();
        let summary = result?;
        stored = Some(summary.clone());
        let exit = if summary.errors.is_empty() { Exit::DONE } else { Exit::INCOMPLETE };
        Ok(Stored { summary, exit })
    });
    // What was brought to rest for the backup is awake again while copies are made and judged.
    let Some(summary) = stored else { return ended };
    // The snapshot is there; that it could not be judged must not hide that.
    let judged = match source {
        Source::Stream => Ok(Vec::new()),
        Source::Images => suspicious::signs_of_images(&vault, &summary),
        Source::Files => suspicious::signs(&vault, &summary),
    };
    let signs = judged.unwrap_or_else(|error| {
        output.note(&format!("the backup could not be compared with the one before: {error}"));
        Vec::new()
    });
    // Where nothing has changed, the snapshot before is what the others must have; an earlier copy of it may have failed.
    let newest = summary.snapshot_id.or(summary.parent.filter(|_| !dry_run));
    let copies = match newest {
        Some(snapshot) => targets.copy(&vault, snapshot, compression, patience, output),
        None => Vec::new(),
    };
    let not_copied = report(&summary, Findings { signs, copies }, dry_run, elapsed_s, output)?;
    match ended {
        Ok(Exit::DONE) if not_copied > 0 => Ok(Exit::FAILED),
        ended => ended,
    }
}

fn store(
    vault: &Vault,
    arguments: Arguments,
    targets: &Targets,
    output: Output,
    display: &Display,
) -> anyhow::Result<BackupSummary> {
    let parent = match &arguments.parent {
        None => None,
        Some(wanted) => Some(vault.find_snapshot(wanted, &SnapshotSelection::default()).map_err(ended)?.0),
    };
    let scan = output.tells_progress() && !arguments.no_scan;
    let options = BackupOptions { scan, side_by_side: targets.side_by_side(), ..options_of(arguments, parent)? };
    levee_vault::backup(vault, &options, display).map_err(ended)
}

/// Prints how it went, and gives the number of copies that are missing.
fn report(
    summary: &BackupSummary,
    findings: Findings,
    dry_run: bool,
    elapsed_s: f64,
    output: Output,
) -> anyhow::Result<usize> {
    let line = SummaryLine::new(summary, findings, dry_run, elapsed_s);
    if output.is_json() || !output.is_quiet() {
        output.result(&line, SummaryLine::text)?;
    }
    let not_copied = line.copies.iter().filter(|copy| copy.has_failed()).count();
    if not_copied > 0 {
        let of = line.copies.len();
        output.note(&format!("{not_copied} of {of} copies are missing; run it again, or `levee vault copy`"));
    }
    if !summary.errors.is_empty() {
        output.note(&format!("{} sources could not be read; the snapshot lacks them", summary.errors.count));
    }
    Ok(not_copied)
}

fn options_of(arguments: Arguments, parent: Option<SnapshotId>) -> anyhow::Result<BackupOptions> {
    let with_files = |mut patterns: Vec<String>, files: &[PathBuf]| -> anyhow::Result<Vec<String>> {
        for file in files {
            patterns.extend(text_file::lines(file)?);
        }
        Ok(patterns)
    };
    let mut exclude_if_present: Vec<Marker> = arguments.exclude_if_present.iter().map(|text| marker(text)).collect();
    exclude_if_present.extend(arguments.exclude_caches.then(Marker::cache_directory));
    Ok(BackupOptions {
        paths: arguments.paths,
        host: arguments.host,
        tags: arguments.tag.into_iter().filter(|tag| !tag.is_empty()).collect(),
        incomplete_tag: None,
        excludes: with_files(arguments.exclude, &arguments.exclude_file)?,
        excludes_ignoring_case: with_files(arguments.iexclude, &arguments.iexclude_file)?,
        exclude_if_present,
        exclude_larger_than: arguments.exclude_larger_than,
        ignore_inode: arguments.ignore_inode,
        ignore_ctime: arguments.ignore_ctime,
        read_concurrency: arguments.read_concurrency,
        parent,
        group_by: arguments.group_by,
        scan: false,
        force: arguments.force,
        time: arguments.time,
        one_file_system: arguments.one_file_system,
        dry_run: arguments.dry_run,
        skip_if_unchanged: arguments.skip_if_unchanged,
        with_atime: arguments.with_atime,
        compression: arguments.compression.into(),
        patience: arguments.retry_lock,
        side_by_side: Vec::new(),
    })
}

fn marker(text: &str) -> Marker {
    let (name, header) = text.split_once(':').unwrap_or((text, ""));
    Marker { name: name.into(), header: header.into() }
}
