use clap::Args;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use levee_vault::{Snapshot, SnapshotFilter, SnapshotId, Vault};
use serde::Serialize;

use super::filter::FilterArguments;
use super::place::Place;
use super::{ended, open};
use crate::exit::Exit;
use crate::output::Output;

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    filter: FilterArguments,
    /// Only the newest N of each host and set of paths
    #[arg(long, value_name = "N")]
    latest: Option<usize>,
    /// Only these snapshots: `latest` or the first digits of an id
    #[arg(value_name = "SNAPSHOT")]
    ids: Vec<String>,
}

/// A snapshot as restic's JSON has it: its own fields and its names.
#[derive(Serialize)]
pub struct Listed {
    #[serde(flatten)]
    pub snapshot: Snapshot,
    pub id: SnapshotId,
    pub short_id: String,
}

impl Listed {
    pub fn new(id: SnapshotId, snapshot: Snapshot) -> Self {
        Self { snapshot, id, short_id: id.short() }
    }
}

pub fn run(place: &Place, arguments: Arguments, output: Output) -> anyhow::Result<Exit> {
    let vault = open(place)?;
    let filter = arguments.filter.filter()?;
    let mut found = find(&vault, &filter, &arguments.ids)?;
    if let Some(latest) = arguments.latest {
        keep_latest(&mut found, latest);
    }
    let listed: Vec<_> = found.into_iter().map(|(id, snapshot)| Listed::new(id, snapshot)).collect();
    output.result(&listed, |listed| table(listed))?;
    Ok(Exit::DONE)
}

fn find(vault: &Vault, filter: &SnapshotFilter, ids: &[String]) -> anyhow::Result<Vec<(SnapshotId, Snapshot)>> {
    if ids.is_empty() {
        let mut all = vault.snapshots().map_err(ended)?;
        all.retain(|(_, snapshot)| filter.matches(snapshot));
        return Ok(all);
    }
    let mut found = Vec::new();
    for id in ids {
        let (id, snapshot) = vault.find_snapshot(id, filter).map_err(ended)?;
        if filter.matches(&snapshot) && !found.iter().any(|(known, _)| *known == id) {
            found.push((id, snapshot));
        }
    }
    found.sort_by_key(|(id, snapshot)| (snapshot.time, *id));
    Ok(found)
}

/// Oldest first, as they came.
fn keep_latest(found: &mut Vec<(SnapshotId, Snapshot)>, count: usize) {
    let mut seen = std::collections::HashMap::new();
    let mut newest_first: Vec<_> = found.drain(..).rev().collect();
    newest_first.retain(|(_, snapshot)| {
        let seen = seen.entry((snapshot.hostname.clone(), snapshot.paths.clone())).or_insert(0);
        *seen += 1;
        *seen <= count
    });
    found.extend(newest_first.into_iter().rev());
}

pub fn local_time(time: Timestamp) -> String {
    time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

pub fn table(listed: &[Listed]) -> String {
    let mut rows = vec![["ID", "Time", "Host", "Tags", "Paths"].map(String::from)];
    for Listed { snapshot, short_id, .. } in listed {
        let tags = snapshot.tags.join(",");
        let mut paths = snapshot.paths.iter();
        let first = paths.next().cloned().unwrap_or_default();
        rows.push([short_id.clone(), local_time(snapshot.time), snapshot.hostname.clone(), tags, first]);
        rows.extend(paths.map(|path| ["", "", "", "", path.as_str()].map(String::from)));
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths = [width(0), width(1), width(2), width(3)];
    let lines = rows.iter().map(|[id, time, host, tags, path]| {
        let [a, b, c, d] = widths;
        format!("{id:a$}  {time:b$}  {host:c$}  {tags:d$}  {path}").trim_end().to_string()
    });
    let mut lines: Vec<_> = lines.collect();
    let rule = "-".repeat(lines.iter().map(|line| line.chars().count()).max().unwrap_or_default());
    lines.insert(1, rule.clone());
    lines.push(rule);
    lines.push(format!("{} snapshots", listed.len()));
    lines.join("\n")
}
