use std::collections::BTreeMap;

use clap::Args;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use levee_vault::forget::GroupBy;
use levee_vault::{Snapshot, SnapshotId};
use serde::Serialize;

use super::grouping::parse_group_by;
use super::place::Place;
use super::selection::FilterArguments;
use super::{ended, open};
use crate::exit::Exit;
use crate::output::Output;

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    filter: FilterArguments,
    /// Only the newest N of each host and set of paths, or of each group
    #[arg(long, value_name = "N")]
    latest: Option<usize>,
    /// One list for each group of host, paths and tags
    #[arg(short, long, value_name = "GROUP[,GROUP]", value_parser = parse_group_by)]
    group_by: Option<GroupBy>,
    /// Leave out the paths
    #[arg(short, long)]
    compact: bool,
    /// Only these snapshots: `latest` or the first digits of an id
    #[arg(value_name = "SNAPSHOT")]
    ids: Vec<String>,
}

/// What the snapshots of a group have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct GroupKey {
    hostname: String,
    paths: Option<Vec<String>>,
    tags: Option<Vec<String>>,
}

impl GroupKey {
    fn of(snapshot: &Snapshot, by: GroupBy) -> Self {
        let sorted = |list: &[String], is_wanted: bool| {
            let mut list = is_wanted.then(|| list.to_vec())?;
            list.sort();
            Some(list)
        };
        Self {
            hostname: if by.host { snapshot.hostname.clone() } else { String::new() },
            paths: sorted(&snapshot.paths, by.paths),
            // As restic has it, no tags are null.
            tags: sorted(&snapshot.tags, by.tags).filter(|tags| !tags.is_empty()),
        }
    }

    fn text(&self) -> String {
        let list = |name: &str, list: &Option<Vec<String>>| Some(format!("{name} [{}]", list.as_ref()?.join(", ")));
        let host = (!self.hostname.is_empty()).then(|| format!("host [{}]", self.hostname));
        let parts = [host, list("paths", &self.paths), list("tags", &self.tags)];
        format!("snapshots for ({}):", parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

#[derive(Serialize)]
struct Group {
    group_key: GroupKey,
    snapshots: Vec<Listed>,
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
    let mut found = vault.select(&arguments.filter.selection_of(&arguments.ids)?).map_err(ended)?;
    let compact = arguments.compact;
    let Some(group_by) = arguments.group_by.filter(|by| by.host || by.paths || by.tags) else {
        if let Some(latest) = arguments.latest {
            keep_latest(&mut found, latest, GroupBy::default());
        }
        let listed: Vec<_> = found.into_iter().map(|(id, snapshot)| Listed::new(id, snapshot)).collect();
        output.result(&listed, |listed| table(listed, compact))?;
        return Ok(Exit::DONE);
    };
    if let Some(latest) = arguments.latest {
        keep_latest(&mut found, latest, group_by);
    }
    let mut groups: BTreeMap<GroupKey, Vec<Listed>> = BTreeMap::new();
    for (id, snapshot) in found {
        groups.entry(GroupKey::of(&snapshot, group_by)).or_default().push(Listed::new(id, snapshot));
    }
    let groups: Vec<_> = groups.into_iter().map(|(group_key, snapshots)| Group { group_key, snapshots }).collect();
    output.result(&groups, |groups| {
        let text = |group: &Group| format!("{}\n{}", group.group_key.text(), table(&group.snapshots, compact));
        groups.iter().map(text).collect::<Vec<_>>().join("\n\n")
    })?;
    Ok(Exit::DONE)
}

/// Oldest first, as they came.
fn keep_latest(found: &mut Vec<(SnapshotId, Snapshot)>, count: usize, by: GroupBy) {
    let mut seen = BTreeMap::new();
    let mut newest_first: Vec<_> = found.drain(..).rev().collect();
    newest_first.retain(|(_, snapshot)| {
        let seen = seen.entry(GroupKey::of(snapshot, by)).or_insert(0);
        *seen += 1;
        *seen <= count
    });
    found.extend(newest_first.into_iter().rev());
}

pub fn local_time(time: Timestamp) -> String {
    time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

pub fn table(listed: &[Listed], compact: bool) -> String {
    let mut rows = vec![["ID", "Time", "Host", "Tags", "Paths", "Size"].map(String::from)];
    for Listed { snapshot, short_id, .. } in listed {
        let tags = snapshot.tags.join(",");
        let mut paths = snapshot.paths.iter();
        let first = paths.next().cloned().unwrap_or_default();
        let size = snapshot.summary.as_ref().map(|summary| indicatif::BinaryBytes(summary.total_bytes_processed));
        let size = size.map(|size| size.to_string()).unwrap_or_default();
        rows.push([short_id.clone(), local_time(snapshot.time), snapshot.hostname.clone(), tags, first, size]);
        if !compact {
            rows.extend(paths.map(|path| ["", "", "", "", path.as_str(), ""].map(String::from)));
        }
    }
    let shown: &[usize] = if compact { &[0, 1, 2, 3, 5] } else { &[0, 1, 2, 3, 4, 5] };
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = shown.iter().map(|column| width(*column)).collect();
    let line = |row: &[String; 6]| {
        let cells = shown.iter().zip(&widths).map(|(column, width)| format!("{:width$}", row[*column]));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_string()
    };
    let mut lines: Vec<_> = rows.iter().map(line).collect();
    let rule = "-".repeat(lines.iter().map(|line| line.chars().count()).max().unwrap_or_default());
    lines.insert(1, rule.clone());
    lines.push(rule);
    lines.push(format!("{} snapshots", listed.len()));
    lines.join("\n")
}
