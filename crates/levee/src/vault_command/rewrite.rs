use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use jiff::Timestamp;
use levee_vault::{RewriteOptions, Rewritten};
use serde::Serialize;

use super::amounts::parse_duration;
use super::place::Place;
use super::progress::{Display, During};
use super::selection::SelectionArguments;
use super::text_file;
use super::times::parse_time;
use super::{ended, open};
use crate::exit::Exit;
use crate::output::Output;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Leave out what matches the pattern (can be repeated)
    #[arg(short, long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Leave out what matches a pattern in the file, one a line (can be repeated)
    #[arg(long, value_name = "FILE")]
    exclude_file: Vec<PathBuf>,
    /// Leave only what matches the pattern (can be repeated)
    #[arg(short, long, value_name = "PATTERN")]
    include: Vec<String>,
    /// Leave only what matches a pattern in the file, one a line (can be repeated)
    #[arg(long, value_name = "FILE")]
    include_file: Vec<PathBuf>,
    /// Leave out what matches the pattern, with capitals and small letters alike (can be repeated)
    #[arg(long, value_name = "PATTERN")]
    iexclude: Vec<String>,
    /// The same for patterns in a file, one a line (can be repeated)
    #[arg(long, value_name = "FILE")]
    iexclude_file: Vec<PathBuf>,
    /// Leave only what matches the pattern, with capitals and small letters alike (can be repeated)
    #[arg(long, value_name = "PATTERN")]
    iinclude: Vec<String>,
    /// The same for patterns in a file, one a line (can be repeated)
    #[arg(long, value_name = "FILE")]
    iinclude_file: Vec<PathBuf>,
    /// The host name to note instead
    #[arg(long, value_name = "HOST")]
    new_host: Option<String>,
    /// The time to note instead, as in '2006-01-02 15:04:05'
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    new_time: Option<Timestamp>,
    /// Give snapshots that say nothing of their files and bytes a summary that does
    #[arg(short, long)]
    snapshot_summary: bool,
    /// Remove the old snapshots when the new ones stand
    #[arg(long)]
    forget: bool,
    /// Only say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    selection: SelectionArguments,
    /// Wait so long for others to end, instead of giving up at once
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = parse_duration)]
    retry_lock: Duration,
}

#[derive(Serialize)]
struct SummaryLine<'a> {
    message_type: &'static str,
    dry_run: bool,
    changed_snapshots: usize,
    snapshots: &'a [Rewritten],
}

pub fn run(place: &Place, arguments: Arguments, output: Output) -> anyhow::Result<Exit> {
    let with_files = |mut patterns: Vec<String>, files: &[PathBuf]| -> anyhow::Result<Vec<String>> {
        for file in files {
            patterns.extend(text_file::lines(file)?);
        }
        Ok(patterns)
    };
    let excludes = with_files(arguments.exclude, &arguments.exclude_file)?;
    let includes = with_files(arguments.include, &arguments.include_file)?;
    let excludes_ignoring_case = with_files(arguments.iexclude, &arguments.iexclude_file)?;
    let includes_ignoring_case = with_files(arguments.iinclude, &arguments.iinclude_file)?;
    let leaves_out = !(excludes.is_empty() && excludes_ignoring_case.is_empty());
    let leaves_only = !(includes.is_empty() && includes_ignoring_case.is_empty());
    if leaves_out && leaves_only {
        bail!("--exclude and --include cannot stand together: say what goes, or what stays");
    }
    let changes_something = arguments.new_host.is_some() || arguments.new_time.is_some() || arguments.snapshot_summary;
    if !leaves_out && !leaves_only && !changes_something {
        bail!("say what is to change: --exclude, --include, --new-host, --new-time or --snapshot-summary");
    }
    let options = RewriteOptions {
        selection: arguments.selection.selection()?,
        excludes,
        excludes_ignoring_case,
        includes,
        includes_ignoring_case,
        new_host: arguments.new_host,
        new_time: arguments.new_time,
        add_summary: arguments.snapshot_summary,
        forget: arguments.forget,
        patience: arguments.retry_lock,
        dry_run: arguments.dry_run,
    };
    let vault = open(place)?;
    let display = Display::new(output, During::Rewrite);
    let result = levee_vault::rewrite(&vault, &options, &display);
    display.finish();
    let rewritten = result.map_err(ended)?;
    let changed_snapshots = rewritten.iter().filter(|snapshot| snapshot.is_changed).count();
    let line =
        SummaryLine { message_type: "summary", dry_run: options.dry_run, changed_snapshots, snapshots: &rewritten };
    output.result(&line, |line| {
        let mut text = String::new();
        for Rewritten { old, new, is_changed } in line.snapshots {
            let became = match (new, is_changed) {
                (Some(new), _) => format!("became {}", new.short()),
                (None, true) => "would be changed".into(),
                (None, false) => "needs no change".into(),
            };
            text.push_str(&format!("snapshot {} {became}\n", old.short()));
        }
        text + &format!("{} of {} snapshots\n", line.changed_snapshots, line.snapshots.len())
    })?;
    Ok(Exit::DONE)
}
