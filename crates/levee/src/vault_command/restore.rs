mod images;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::{Args, ValueEnum};
use levee_vault::{
    Holes, Id, Overwrite, OwnerMap, Owners, RestoreLock, RestoreOptions, RestoreSummary, ThawState, Vault,
};
use serde::Serialize;

use super::backup::images::ImageFormat;
use super::place::Place;
use super::progress::{Display, During};
use super::selection::FilterArguments;
use super::snapshot_argument::Chosen;
use super::thawing::{ThawArguments, Wish, thaw};
use super::{ended, open, text_file};
use crate::exit::Exit;
use crate::output::Output;

#[derive(Debug, Args)]
pub struct Arguments {
    /// `latest` or the first digits of an id; with `:FOLDER`, only what that folder holds
    #[arg(value_name = "SNAPSHOT[:FOLDER]")]
    snapshot: String,
    /// The folder to restore to; with --image, the file or block device
    #[arg(short, long, value_name = "FOLDER")]
    target: PathBuf,
    /// Restore one disk image, named by its path or file name; what is there is compared, and only blocks that
    /// differ are written
    #[arg(long, value_name = "NAME", conflicts_with_all = ["include", "iinclude", "include_file", "iinclude_file",
        "exclude", "iexclude", "exclude_file", "iexclude_file", "include_xattr", "exclude_xattr", "sparse", "overwrite",
        "delete", "ownership_by_name", "no_owner", "owner_map", "group_map"])]
    image: Option<PathBuf>,
    /// What the target becomes; found out from what is there, or from the name, when it is not given
    #[arg(long, value_enum, value_name = "FORMAT", requires = "image")]
    image_format: Option<ImageFormat>,
    #[command(flatten)]
    filter: FilterArguments,
    /// Restore only what matches the pattern (can be repeated)
    #[arg(short, long, value_name = "PATTERN")]
    include: Vec<String>,
    /// The same, with capitals and small letters alike
    #[arg(long, value_name = "PATTERN")]
    iinclude: Vec<String>,
    /// Restore only what matches a pattern in the file, one a line (can be repeated)
    #[arg(long, value_name = "FILE")]
    include_file: Vec<PathBuf>,
    /// The same, with capitals and small letters alike
    #[arg(long, value_name = "FILE")]
    iinclude_file: Vec<PathBuf>,
    /// Leave out what matches the pattern (can be repeated)
    #[arg(short, long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// The same, with capitals and small letters alike
    #[arg(long, value_name = "PATTERN")]
    iexclude: Vec<String>,
    /// Leave out what matches a pattern in the file, one a line (can be repeated)
    #[arg(long, value_name = "FILE")]
    exclude_file: Vec<PathBuf>,
    /// The same, with capitals and small letters alike
    #[arg(long, value_name = "FILE")]
    iexclude_file: Vec<PathBuf>,
    /// Only extended attributes whose names match the pattern (can be repeated)
    #[arg(long, value_name = "PATTERN")]
    include_xattr: Vec<String>,
    /// No extended attributes whose names match the pattern (can be repeated)
    #[arg(long, value_name = "PATTERN")]
    exclude_xattr: Vec<String>,
    /// Which files get holes where there are only zeros; without a value all, those that are there included
    #[arg(long, value_enum, value_name = "WHICH", num_args = 0..=1, require_equals = true, default_value_t,
        default_missing_value = "all")]
    sparse: Sparse,
    /// Read everything again in the end and compare
    #[arg(long)]
    verify: bool,
    /// What happens to files that are there already
    #[arg(long, value_enum, default_value_t)]
    overwrite: OverwriteMode,
    /// Remove what is in the target and not in the snapshot
    #[arg(long)]
    delete: bool,
    /// Look and compare, and say what would be done, but change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Give files to the users and groups of the same names here, rather than to the same numbers
    #[arg(long)]
    ownership_by_name: bool,
    /// Leave everything to the user who restores
    #[arg(long, conflicts_with_all = ["ownership_by_name", "owner_map", "group_map"])]
    no_owner: bool,
    /// Give the files of one user to another; names or numbers (can be repeated)
    #[arg(long, value_name = "FROM:TO")]
    owner_map: Vec<String>,
    /// Give the files of one group to another; names or numbers (can be repeated)
    #[arg(long, value_name = "FROM:TO")]
    group_map: Vec<String>,
    /// Take no lock, for a vault that cannot be written to
    #[arg(long)]
    no_lock: bool,
    /// Ask for what lies in an archive class and is needed, and end; run the restore again when it is thawed
    #[arg(long)]
    thaw_only: bool,
    #[command(flatten)]
    thawing: ThawArguments,
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

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Sparse {
    /// Those that are made anew
    #[default]
    New,
    All,
    /// None, for swap files and what else must have its blocks
    Never,
}

impl From<Sparse> for Holes {
    fn from(sparse: Sparse) -> Self {
        match sparse {
            Sparse::New => Holes::InNew,
            Sparse::All => Holes::Everywhere,
            Sparse::Never => Holes::Never,
        }
    }
}

fn options_of(arguments: &Arguments) -> anyhow::Result<RestoreOptions> {
    let with_files = |patterns: &[String], files: &[PathBuf]| -> anyhow::Result<Vec<String>> {
        let mut all = patterns.to_vec();
        for file in files {
            all.extend(text_file::lines(file)?);
        }
        Ok(all)
    };
    let owners = match (arguments.no_owner, arguments.ownership_by_name) {
        (true, _) => Owners::Leave,
        (false, true) => Owners::Names,
        (false, false) => Owners::Numbers,
    };
    Ok(RestoreOptions {
        target: arguments.target.clone(),
        includes: with_files(&arguments.include, &arguments.include_file)?,
        includes_ignoring_case: with_files(&arguments.iinclude, &arguments.iinclude_file)?,
        excludes: with_files(&arguments.exclude, &arguments.exclude_file)?,
        excludes_ignoring_case: with_files(&arguments.iexclude, &arguments.iexclude_file)?,
        include_attributes: arguments.include_xattr.clone(),
        exclude_attributes: arguments.exclude_xattr.clone(),
        overwrite: arguments.overwrite.into(),
        holes: arguments.sparse.into(),
        verify: arguments.verify,
        delete: arguments.delete,
        dry_run: arguments.dry_run,
        owners,
        owner_map: OwnerMap::parse(&arguments.owner_map, &arguments.group_map).map_err(ended)?,
        lock: if arguments.no_lock { RestoreLock::None } else { RestoreLock::Needed },
        ..RestoreOptions::default()
    })
}

/// The summary as `restic restore --json` prints it, where "files" are entries of every kind.
#[derive(Serialize)]
struct SummaryLine {
    message_type: &'static str,
    dry_run: bool,
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
    fn new(summary: &RestoreSummary, dry_run: bool, elapsed_s: f64) -> Self {
        let files_restored = summary.directories + summary.files_restored + summary.others;
        Self {
            message_type: "summary",
            dry_run,
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

#[derive(Serialize)]
struct ThawedLine {
    message_type: &'static str,
    dry_run: bool,
    #[serde(flatten)]
    state: ThawState,
}

/// Says which of the packs that the restore needs must be thawed, asks for them and, unless that is all, waits. Which ones
/// are needed is found out only where some lie in an archive class.
fn thaw_needed(
    vault: &Vault,
    needed: impl FnOnce() -> anyhow::Result<BTreeSet<Id>>,
    arguments: &Arguments,
    output: Output,
) -> anyhow::Result<ThawState> {
    let archived = vault.archived_packs().map_err(ended)?;
    if archived.is_empty() {
        return Ok(ThawState::default());
    }
    let needed = needed()?;
    let wish = match (arguments.dry_run, arguments.thaw_only) {
        (true, _) => Wish::Look,
        (false, true) => Wish::Ask,
        (false, false) => Wish::Wait,
    };
    thaw(vault, &archived, |pack| needed.contains(pack), wish, &arguments.thawing, output)
}

/// What is printed instead of a restore's summary when nothing was restored.
fn say_thawed(state: ThawState, dry_run: bool, output: Output) -> anyhow::Result<()> {
    let line = ThawedLine { message_type: "summary", dry_run, state };
    output.result(&line, |line| match (line.state.is_done(), line.dry_run) {
        (true, _) => "everything that is needed can be read".into(),
        (false, true) => "nothing was asked for; without --dry-run it would be".into(),
        (false, false) => {
            "what is needed is being thawed; run the restore again later, and it waits for the rest".into()
        }
    })
}

pub fn run(place: &Place, arguments: Arguments, output: Output) -> anyhow::Result<Exit> {
    if let Some(name) = &arguments.image {
        return images::run(place, &arguments, name, output);
    }
    let filter = arguments.filter.selection()?;
    let mut options = options_of(&arguments)?;
    let is_filtered =
        [&options.includes, &options.includes_ignoring_case, &options.excludes, &options.excludes_ignoring_case]
            .iter()
            .any(|patterns| !patterns.is_empty());
    if arguments.delete && !is_filtered && std::path::absolute(&arguments.target)? == Path::new("/") {
        bail!("--delete with the target / would remove this whole machine: say with --include what it is about");
    }
    let vault = open(place)?;
    let Chosen { id, snapshot, folder } = Chosen::find(&vault, &arguments.snapshot, &filter)?;
    options.subfolder = Some(folder);
    output.note(&format!(
        "restoring snapshot {} of {} to {}",
        id.short(),
        snapshot.paths.join(", "),
        options.target.display()
    ));
    let needed = || levee_vault::restore::packs_needed(&vault, &id, &options).map_err(ended);
    let state = thaw_needed(&vault, needed, &arguments, output)?;
    if arguments.thaw_only {
        say_thawed(state, options.dry_run, output)?;
        return Ok(Exit::DONE);
    }
    let display = match options.dry_run {
        true => Display::new(output, During::Restore).naming_items(),
        false => Display::new(output, During::Restore),
    };
    let result = levee_vault::restore(&vault, &id, &options, &display);
    display.finish();
    let summary = result.map_err(ended)?;
    let line = SummaryLine::new(&summary, options.dry_run, display.elapsed_s());
    if output.is_json() || !output.is_quiet() {
        output.result(&line, |line| {
            let verified = if options.verify && line.errors == 0 { ", read again and found right" } else { "" };
            let would = if options.dry_run { "would restore" } else { "restored" };
            format!(
                "{would} {} entries ({}) in {:.1} s; {} were right already{}{verified}",
                line.files_restored,
                indicatif::BinaryBytes(line.bytes_restored),
                display.elapsed_s(),
                line.files_skipped,
                if line.files_deleted > 0 { format!("; {} were removed", line.files_deleted) } else { String::new() },
            )
        })?;
    }
    if !summary.errors.is_empty() {
        bail!(
            "{} entries could not be restored whole: mend what is said above and run this again, which writes only what is missing",
            summary.errors.count
        );
    }
    Ok(Exit::DONE)
}
