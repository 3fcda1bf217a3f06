use std::time::Duration;

use anyhow::bail;
use clap::Args;
use levee_vault::{Replaced, SnapshotId, TagChange, TagOptions};
use serde::Serialize;

use super::amounts::parse_duration;
use super::place::Place;
use super::selection::{SelectionArguments, tags_in};
use super::{ended, open};
use crate::exit::Exit;
use crate::output::Output;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Put these tags in place of all others ('' for none; can be repeated)
    #[arg(long, value_name = "TAG[,TAG]")]
    set: Vec<String>,
    /// Add these tags (can be repeated)
    #[arg(long, value_name = "TAG[,TAG]")]
    add: Vec<String>,
    /// Take these tags away (can be repeated)
    #[arg(long, value_name = "TAG[,TAG]")]
    remove: Vec<String>,
    #[command(flatten)]
    selection: SelectionArguments,
    /// Only say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Wait so long for others to end, instead of giving up at once
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = parse_duration)]
    retry_lock: Duration,
}

/// As `restic tag --json` prints them.
#[derive(Serialize)]
struct ChangedLine {
    message_type: &'static str,
    old_snapshot_id: SnapshotId,
    /// Not in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    new_snapshot_id: Option<SnapshotId>,
}

#[derive(Serialize)]
struct SummaryLine {
    message_type: &'static str,
    dry_run: bool,
    changed_snapshots: usize,
}

pub fn run(place: &Place, arguments: Arguments, output: Output) -> anyhow::Result<Exit> {
    let all = |lists: &[String]| lists.iter().flat_map(|list| tags_in(list)).collect::<Vec<_>>();
    let (add, remove) = (all(&arguments.add), all(&arguments.remove));
    let change = match (arguments.set.is_empty(), add.is_empty() && remove.is_empty()) {
        (true, true) => bail!("say what is to change: --set, --add or --remove"),
        (false, false) => bail!("--set replaces all tags: it cannot stand beside --add and --remove"),
        (false, true) => TagChange::Set(all(&arguments.set)),
        (true, false) => TagChange::Edit { add, remove },
    };
    let vault = open(place)?;
    let options = TagOptions {
        selection: arguments.selection.selection()?,
        change,
        patience: arguments.retry_lock,
        dry_run: arguments.dry_run,
    };
    let mut printed = Ok(());
    let tell = |Replaced { old, new }: Replaced| {
        if output.is_json() && printed.is_ok() {
            let line = ChangedLine { message_type: "changed", old_snapshot_id: old, new_snapshot_id: new };
            printed = output.result(&line, |_| String::new());
        }
    };
    let count = levee_vault::tag(&vault, &options, tell).map_err(ended)?;
    printed?;
    let line = SummaryLine { message_type: "summary", dry_run: options.dry_run, changed_snapshots: count };
    output.result(&line, |line| match (line.changed_snapshots, line.dry_run) {
        (0, true) => "no snapshots would be changed".into(),
        (0, false) => "no snapshots were changed".into(),
        (count, true) => format!("would change the tags of {count} snapshots"),
        (count, false) => format!("changed the tags of {count} snapshots"),
    })?;
    Ok(Exit::DONE)
}
