//! Taking back `forget`, and `prune` as long as what it removed stands.

use std::time::Duration;

use anyhow::bail;
use clap::Args;
use jiff::Timestamp;
use levee_vault::{ForgottenSnapshot, SnapshotId, UndeleteOptions, UndeleteReport};
use serde::Serialize;

use super::amounts::parse_duration;
use super::place::Place;
use super::progress::{Display, During};
use super::selection::SelectionArguments;
use super::snapshots::{Listed, local_time, table};
use super::{ended, open};
use crate::exit::Exit;
use crate::output::Output;

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    selection: SelectionArguments,
    /// Only show what can be brought back
    #[arg(long)]
    list: bool,
    /// Everything that was forgotten and can be brought back
    #[arg(long, conflicts_with_all = ["list", "ids"])]
    all: bool,
    /// No snapshot, but every pack that a prune has taken out of the index goes into it again
    #[arg(long, conflicts_with_all = ["list", "all", "ids"])]
    packs: bool,
    /// Only say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Wait so long for others to end, instead of giving up at once
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = parse_duration)]
    retry_lock: Duration,
}

#[derive(Serialize)]
struct ForgottenLine {
    #[serde(flatten)]
    listed: Listed,
    forgotten: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pruned: Option<Timestamp>,
}

#[derive(Serialize)]
struct SummaryLine<'a> {
    message_type: &'static str,
    dry_run: bool,
    snapshots: &'a [SnapshotId],
    packs_readopted: u64,
    failed: Vec<FailedLine<'a>>,
}

#[derive(Serialize)]
struct FailedLine<'a> {
    snapshot: SnapshotId,
    message: &'a str,
}

pub fn run(place: &Place, arguments: Arguments, output: Output) -> anyhow::Result<Exit> {
    let selection = arguments.selection.selection()?;
    let says_which = arguments.all || arguments.packs || arguments.selection.has_ids();
    if !arguments.list && !says_which && !arguments.selection.has_filter() {
        bail!("say what is to come back: snapshots, --all or --packs; --list shows what there is");
    }
    let vault = open(place)?;
    if arguments.list {
        let mut listed = levee_vault::list_forgotten(&vault).map_err(ended)?;
        listed.retain(|entry| selection.matches(&entry.snapshot));
        return list(listed, output);
    }
    let options = UndeleteOptions {
        selection,
        packs: arguments.packs,
        patience: arguments.retry_lock,
        dry_run: arguments.dry_run,
    };
    let display = Display::new(output, During::Repair);
    let result = levee_vault::undelete(&vault, &options, Timestamp::now(), &display);
    display.finish();
    let report = result.map_err(ended)?;
    let line = SummaryLine::new(&report, arguments.dry_run);
    output.result(&line, SummaryLine::text)?;
    for FailedLine { snapshot, message } in &line.failed {
        output.note(&format!("snapshot {} cannot be brought back: {message}", snapshot.short()));
    }
    Ok(if line.failed.is_empty() { Exit::DONE } else { Exit::INCOMPLETE })
}

fn list(forgotten: Vec<ForgottenSnapshot>, output: Output) -> anyhow::Result<Exit> {
    let lines: Vec<ForgottenLine> = forgotten
        .into_iter()
        .map(|entry| {
            let (forgotten, pruned) = (entry.forgotten_at, entry.pruned_at);
            ForgottenLine { listed: Listed::new(entry.id, entry.snapshot), forgotten, pruned }
        })
        .collect();
    output.result(&lines, |lines| {
        if lines.is_empty() {
            return "nothing that was forgotten can be brought back".into();
        }
        let rows = lines.iter().map(|line| Listed::new(line.listed.id, line.listed.snapshot.clone()));
        let mut text = table(&rows.collect::<Vec<_>>(), false) + "\n";
        for line in lines {
            let until = match line.pruned {
                None => "nothing of it was pruned since".into(),
                Some(pruned) => format!("a prune a grace after {} may delete its data", local_time(pruned)),
            };
            text.push_str(&format!("{}  forgotten {}; {until}\n", line.listed.short_id, local_time(line.forgotten)));
        }
        text
    })?;
    Ok(Exit::DONE)
}

impl<'a> SummaryLine<'a> {
    fn new(report: &'a UndeleteReport, dry_run: bool) -> Self {
        let failed = report.failed.iter().map(|(snapshot, message)| FailedLine { snapshot: *snapshot, message });
        Self {
            message_type: "summary",
            dry_run,
            snapshots: &report.snapshots,
            packs_readopted: report.packs_readopted,
            failed: failed.collect(),
        }
    }

    fn text(&self) -> String {
        let would = if self.dry_run { "would be" } else { "were" };
        let ids: Vec<_> = self.snapshots.iter().map(SnapshotId::short).collect();
        format!(
            "{} snapshots {would} brought back {}\n{} packs {would} put into the index again\n",
            ids.len(),
            ids.join(" "),
            self.packs_readopted
        )
    }
}
