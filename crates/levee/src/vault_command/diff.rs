use std::path::Path;

use clap::Args;
use levee_vault::{DiffCounts, DiffSummary, Event, NodeKind, Progress, SnapshotSelection};
use serde::Serialize;

use super::ls::escaped_path;
use super::place::Place;
use super::progress::{Display, During};
use super::snapshot_argument::Chosen;
use super::{ended, open};
use crate::exit::Exit;
use crate::output::Output;

#[derive(Debug, Args)]
pub struct Arguments {
    /// The older snapshot: `latest` or the first digits of an id; with `:FOLDER`, only that folder
    #[arg(value_name = "SNAPSHOT[:FOLDER]")]
    before: String,
    /// The newer snapshot
    #[arg(value_name = "SNAPSHOT[:FOLDER]")]
    after: String,
    /// Show entries of which only owner, mode, times and the like have changed, too
    #[arg(long)]
    metadata: bool,
}

#[derive(Serialize)]
struct ChangeLine<'a> {
    message_type: &'static str,
    path: &'a str,
    modifier: &'a str,
}

#[derive(Serialize)]
struct StatisticsLine {
    message_type: &'static str,
    source_snapshot: String,
    target_snapshot: String,
    #[serde(flatten)]
    summary: DiffSummary,
}

pub fn run(place: &Place, arguments: Arguments, output: Output) -> anyhow::Result<Exit> {
    let vault = open(place)?;
    let filter = SnapshotSelection::default();
    let before = Chosen::find(&vault, &arguments.before, &filter)?;
    let after = Chosen::find(&vault, &arguments.after, &filter)?;
    let display = Display::new(output, During::Comparison);
    if let (Some(old), Some(new)) = (before.files(), after.files()) {
        display.report(Event::Total { items: old.saturating_add(new), bytes: 0 });
    }
    let trees = || anyhow::Ok((before.tree(&vault)?, after.tree(&vault)?));
    let (before_tree, after_tree) = trees().inspect_err(|_| display.finish())?;
    display.beside_bar(|| {
        output.note(&format!("comparing snapshot {} to {}:\n", before.id.short(), after.id.short()));
    });
    let mut broken = None;
    let mut report = |modifier: &str, path: &Path, kind: NodeKind| {
        let slash = if kind == NodeKind::Dir { "/" } else { "" };
        let shown = match output.is_json() {
            true => format!("{}{slash}", path.to_string_lossy()),
            false => format!("{}{slash}", escaped_path(path)),
        };
        let line = ChangeLine { message_type: "change", path: &shown, modifier };
        if broken.is_none() {
            let print = || output.result(&line, |line| format!("{:<5}{}", line.modifier, line.path));
            broken = display.beside_bar(print).err();
        }
        Ok(())
    };
    let result = levee_vault::diff(&vault, &before_tree, &after_tree, arguments.metadata, &mut report, &display);
    display.finish();
    let summary = result.map_err(ended)?;
    if let Some(error) = broken {
        return Err(error);
    }
    let line = StatisticsLine {
        message_type: "statistics",
        source_snapshot: arguments.before,
        target_snapshot: arguments.after,
        summary,
    };
    output.result(&line, |line| text(&line.summary))?;
    Ok(Exit::DONE)
}

fn text(summary: &DiffSummary) -> String {
    let DiffSummary { changed_files, added, removed } = summary;
    let row = |name: &str, count: fn(&DiffCounts) -> u64| {
        format!("{name:<12} {:>5} new, {:>5} removed", count(added), count(removed))
    };
    format!(
        "\n{}, {changed_files:>5} changed\n{}\n{}\n{}\n{}\n  Added:   {}\n  Removed: {}",
        row("Files:", |counts| counts.files),
        row("Dirs:", |counts| counts.dirs),
        row("Others:", |counts| counts.others),
        row("Data Blobs:", |counts| counts.data_blobs),
        row("Tree Blobs:", |counts| counts.tree_blobs),
        indicatif::BinaryBytes(added.bytes),
        indicatif::BinaryBytes(removed.bytes),
    )
}
