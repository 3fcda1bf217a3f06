use std::time::Duration;

use anyhow::bail;
use clap::Args;
use jiff::Timestamp;
use levee_vault::forget::{ForgetGroup, GroupBy, Keep, Policy, Span};
use levee_vault::{ForgetOptions, ForgetReport, Snapshot, SnapshotId};
use serde::Serialize;

use super::amounts::{parse_duration, parse_keep};
use super::grouping::parse_group_by;
use super::place::Place;
use super::prune::{PruneArguments, prune};
use super::selection::{SelectionArguments, tags_in};
use super::snapshots::{Listed, table};
use super::{ended, open};
use crate::exit::Exit;
use crate::output::Output;

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    keep: KeepArguments,
    #[command(flatten)]
    selection: SelectionArguments,
    /// What makes a group, to each of which the policy is applied: host, paths, tags, or '' for one group
    #[arg(short, long, value_name = "GROUP", default_value = "host,paths", value_parser = parse_group_by)]
    group_by: GroupBy,
    /// Leave out the paths in what is printed
    #[arg(short, long)]
    compact: bool,
    /// Allow that no snapshot of a group is left
    #[arg(long)]
    unsafe_allow_remove_all: bool,
    /// Only say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Prune afterwards, when snapshots were removed
    #[arg(long)]
    prune: bool,
    #[command(flatten)]
    pruning: PruneArguments,
    /// Wait so long for others to end, instead of giving up at once
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = parse_duration)]
    retry_lock: Duration,
}

/// The policy.
#[derive(Debug, Args)]
struct KeepArguments {
    /// Keep the newest N ('unlimited' for all, here and below)
    #[arg(short = 'l', long, value_name = "N", value_parser = parse_keep)]
    keep_last: Option<Keep>,
    /// Keep the newest of each of the last N hours that have one
    #[arg(short = 'H', long, value_name = "N", value_parser = parse_keep)]
    keep_hourly: Option<Keep>,
    /// The same for days
    #[arg(short = 'd', long, value_name = "N", value_parser = parse_keep)]
    keep_daily: Option<Keep>,
    /// The same for weeks
    #[arg(short = 'w', long, value_name = "N", value_parser = parse_keep)]
    keep_weekly: Option<Keep>,
    /// The same for months
    #[arg(short = 'm', long, value_name = "N", value_parser = parse_keep)]
    keep_monthly: Option<Keep>,
    /// The same for years
    #[arg(short = 'y', long, value_name = "N", value_parser = parse_keep)]
    keep_yearly: Option<Keep>,
    /// Keep all that are younger than this, counted back from the newest, as in 1y5m7d2h
    #[arg(long, value_name = "SPAN", default_value = "")]
    keep_within: Span,
    /// Keep one for each hour within this span
    #[arg(long, value_name = "SPAN", default_value = "")]
    keep_within_hourly: Span,
    /// The same for days
    #[arg(long, value_name = "SPAN", default_value = "")]
    keep_within_daily: Span,
    /// The same for weeks
    #[arg(long, value_name = "SPAN", default_value = "")]
    keep_within_weekly: Span,
    /// The same for months
    #[arg(long, value_name = "SPAN", default_value = "")]
    keep_within_monthly: Span,
    /// The same for years
    #[arg(long, value_name = "SPAN", default_value = "")]
    keep_within_yearly: Span,
    /// Keep all that have these tags (can be repeated)
    #[arg(long, value_name = "TAG[,TAG]")]
    keep_tag: Vec<String>,
}

impl KeepArguments {
    fn policy(&self) -> Policy {
        Policy {
            last: self.keep_last.unwrap_or_default(),
            hourly: self.keep_hourly.unwrap_or_default(),
            daily: self.keep_daily.unwrap_or_default(),
            weekly: self.keep_weekly.unwrap_or_default(),
            monthly: self.keep_monthly.unwrap_or_default(),
            yearly: self.keep_yearly.unwrap_or_default(),
            within: self.keep_within,
            within_hourly: self.keep_within_hourly,
            within_daily: self.keep_within_daily,
            within_weekly: self.keep_within_weekly,
            within_monthly: self.keep_within_monthly,
            within_yearly: self.keep_within_yearly,
            tag_lists: self.keep_tag.iter().map(|list| tags_in(list)).collect(),
        }
    }
}

/// A group as `restic forget --json` prints it.
#[derive(Serialize)]
struct GroupLine {
    /// Levee's own; restic's fields follow.
    dry_run: bool,
    tags: Option<Vec<String>>,
    host: String,
    paths: Option<Vec<String>>,
    keep: Option<Vec<Listed>>,
    remove: Option<Vec<Listed>>,
    reasons: Option<Vec<ReasonLine>>,
}

/// What was forgotten by ids. Of that restic says nothing in JSON.
#[derive(Serialize)]
struct ByIdLine<'a> {
    message_type: &'static str,
    dry_run: bool,
    /// In a dry run those that would be.
    removed: &'a [SnapshotId],
    failed: Vec<FailedLine<'a>>,
}

#[derive(Serialize)]
struct FailedLine<'a> {
    id: SnapshotId,
    error: &'a str,
}

impl<'a> ByIdLine<'a> {
    fn new(report: &'a ForgetReport, dry_run: bool) -> Self {
        let failed = report.failed.iter().map(|(id, error)| FailedLine { id: *id, error }).collect();
        Self { message_type: "summary", dry_run, removed: &report.removed, failed }
    }
}

#[derive(Serialize)]
struct ReasonLine {
    snapshot: Listed,
    matches: Vec<String>,
}

fn listed(snapshots: &[(SnapshotId, Snapshot)]) -> Option<Vec<Listed>> {
    let listed: Vec<_> = snapshots.iter().map(|(id, snapshot)| Listed::new(*id, snapshot.clone())).collect();
    (!listed.is_empty()).then_some(listed)
}

impl GroupLine {
    fn new(group: &ForgetGroup, dry_run: bool) -> Self {
        let reasons = group.keep.iter().zip(&group.reasons).map(|((id, snapshot), (_, matches))| ReasonLine {
            snapshot: Listed::new(*id, snapshot.clone()),
            matches: matches.clone(),
        });
        let reasons: Vec<_> = reasons.collect();
        Self {
            dry_run,
            tags: group.tags.clone(),
            host: group.host.clone().unwrap_or_default(),
            paths: group.paths.clone(),
            keep: listed(&group.keep),
            remove: listed(&group.remove),
            reasons: (!reasons.is_empty()).then_some(reasons),
        }
    }
}

pub fn run(place: &Place, arguments: Arguments, output: Output) -> anyhow::Result<Exit> {
    let policy = arguments.keep.policy();
    if arguments.unsafe_allow_remove_all && policy.is_empty() && !arguments.selection.has_filter() {
        bail!("--unsafe-allow-remove-all without a policy needs --host, --tag or --path: it would remove everything");
    }
    let has_ids = arguments.selection.has_ids();
    if has_ids && !policy.is_empty() {
        bail!("give the ids of snapshots or a --keep-… policy, not both");
    }
    let vault = open(place)?;
    let options = ForgetOptions {
        selection: arguments.selection.selection()?,
        policy,
        group_by: arguments.group_by,
        allow_remove_all: arguments.unsafe_allow_remove_all,
        patience: arguments.retry_lock,
        dry_run: arguments.dry_run,
    };
    let report = levee_vault::forget(&vault, &options, Timestamp::now()).map_err(ended)?;
    if output.is_json() {
        if has_ids {
            output.result(&ByIdLine::new(&report, arguments.dry_run), |_| String::new())?;
        } else {
            let groups = report.groups.iter().map(|group| GroupLine::new(group, arguments.dry_run));
            output.result(&groups.collect::<Vec<_>>(), |_| String::new())?;
        }
    } else if !output.is_quiet() {
        output.result(&(), |()| text(&report, arguments.dry_run, arguments.compact))?;
    }
    for (id, message) in &report.failed {
        output.note(&format!("snapshot {} could not be removed: {message}", id.short()));
    }
    if arguments.prune && !report.removed.is_empty() {
        let mut options = arguments.pruning.options(arguments.retry_lock, arguments.dry_run);
        options.without = report.removed.clone();
        prune(&vault, &options, output)?;
    }
    Ok(if report.failed.is_empty() { Exit::DONE } else { Exit::INCOMPLETE })
}

fn text(report: &ForgetReport, dry_run: bool, compact: bool) -> String {
    let mut text = String::new();
    for group in &report.groups {
        let mut words = Vec::new();
        words.extend(group.host.as_ref().map(|host| format!("host {host}")));
        words.extend(group.paths.as_ref().map(|paths| format!("paths {}", paths.join(", "))));
        words.extend(group.tags.as_ref().map(|tags| format!("tags {}", tags.join(", "))));
        if !words.is_empty() {
            text.push_str(&format!("snapshots of {}:\n", words.join("; ")));
        }
        let reasons: std::collections::HashMap<_, _> =
            group.reasons.iter().map(|(id, matches)| (*id, matches.join(", "))).collect();
        for (word, snapshots) in [("keep", &group.keep), ("remove", &group.remove)] {
            if let Some(mut listed) = listed(snapshots) {
                listed.reverse();
                text.push_str(&format!("{word} {} snapshots:\n{}\n", listed.len(), table(&listed, compact)));
                if word == "keep" {
                    for entry in &listed {
                        let why = reasons.get(&entry.id).map(String::as_str).unwrap_or_default();
                        text.push_str(&format!("{}  {why}\n", entry.short_id));
                    }
                }
                text.push('\n');
            }
        }
    }
    let ids: Vec<_> = report.removed.iter().map(SnapshotId::short).collect();
    let words = if dry_run { "would remove" } else { "removed" };
    match ids.is_empty() {
        true => text.push_str("nothing to forget\n"),
        false => text.push_str(&format!("{words} {} snapshots: {}\n", ids.len(), ids.join(" "))),
    }
    text
}
