use std::time::Duration;

use anyhow::bail;
use clap::Args;
use levee_vault::{Replaced, SnapshotId, TagChange};
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
    /// Wait so long for others to end, instead of giving up at once
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = parse_duration)]
    retry_lock: Duration,
}

/// As `restic tag --json` prints them.
#[derive(Serialize)]
struct ChangedLine {
    message_type: &'static str,
    old_snapshot_id: SnapshotId,
    new_snapshot_id: SnapshotId,
}

#[derive(Serialize)]
struct SummaryLine {
    message_type: &'static str,
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
    let selection = arguments.selection.selection()?;
    let mut printed = Ok(());
    let tell = |Replaced { old, new }: Replaced| {
        if output.is_json() && printed.is_ok() {
            let line = ChangedLine { message_type: "changed", old_snapshot_id: old, new_snapshot_id: new };
            printed = output.result(&line, |_| String::new());
        }
    };
    let count = levee_vault::tag(&vault, &selection, &change, arguments.retry_lock, tell).map_err(ended)?;
    printed?;
    let line = SummaryLine { message_type: "summary", changed_snapshots: count };
    output.result(&line, |line| match line.changed_snapshots {
        0 => "no snapshots were changed".into(),
        count => format!("changed the tags of {count} snapshots"),
    })?;
    Ok(Exit::DONE)
}
