use anyhow::bail;
use clap::Args;
use jiff::Timestamp;
use levee_vault::{BlobKind, FileCount, FoundObject, Node, ObjectQuery, Query, Snapshot, SnapshotId, Vault};
use serde::Serialize;

use super::ls::{Details, Sizes, entry_text};
use super::place::Place;
use super::progress::{Display, During};
use super::selection::FilterArguments;
use super::snapshots::local_time;
use super::times::parse_time;
use super::{ended, open};
use crate::exit::Exit;
use crate::output::Output;

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    filter: FilterArguments,
    /// Take capitals and small letters for the same
    #[arg(short, long)]
    ignore_case: bool,
    /// Show modes, owners, sizes and times
    #[arg(short, long)]
    long: bool,
    /// Show sizes with units
    #[arg(long)]
    human_readable: bool,
    /// Only what was changed at or before this time
    #[arg(short = 'N', long, value_name = "TIME", value_parser = parse_time)]
    newest: Option<Timestamp>,
    /// Only what was changed at or after this time
    #[arg(short = 'O', long, value_name = "TIME", value_parser = parse_time)]
    oldest: Option<Timestamp>,
    /// Begin with the oldest snapshot
    #[arg(short = 'R', long)]
    reverse: bool,
    /// Only in these snapshots (can be repeated)
    #[arg(short, long, value_name = "SNAPSHOT")]
    snapshot: Vec<String>,
    /// The arguments are the first digits of ids of blobs
    #[arg(long)]
    blob: bool,
    /// The arguments are the first digits of ids of trees
    #[arg(long)]
    tree: bool,
    /// The arguments are the first digits of ids of packs: find what is in them
    #[arg(long, conflicts_with_all = ["blob", "tree"])]
    pack: bool,
    /// Show the packs that hold the blobs or trees
    #[arg(long)]
    show_pack_id: bool,
    /// Patterns of names or paths, or ids
    #[arg(value_name = "PATTERN", required = true)]
    patterns: Vec<String>,
}

/// What restic prints for each snapshot with matches.
#[derive(Serialize)]
struct Matches {
    matches: Vec<MatchLine>,
    hits: usize,
    snapshot: SnapshotId,
}

/// restic's node, with the name in the path.
#[derive(Serialize)]
struct MatchLine {
    path: String,
    #[serde(flatten)]
    details: Details,
    #[serde(skip_serializing_if = "String::is_empty")]
    user: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    group: String,
    #[serde(skip_serializing_if = "is_zero")]
    device_id: u64,
    #[serde(skip_serializing_if = "is_zero")]
    size: u64,
    #[serde(skip_serializing_if = "is_zero")]
    links: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    linktarget: String,
    #[serde(skip_serializing_if = "is_zero")]
    device: u64,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

#[derive(Serialize)]
struct ObjectLine {
    /// restic's words: `blob` or `tree`.
    object_type: &'static str,
    id: String,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_tree: Option<String>,
    snapshot: SnapshotId,
    time: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pack: Option<String>,
}

pub fn run(place: &Place, arguments: Arguments, output: Output) -> anyhow::Result<Exit> {
    let vault = open(place)?;
    let mut snapshots = vault.select(&arguments.filter.selection_of(&arguments.snapshot)?).map_err(ended)?;
    if !arguments.reverse {
        snapshots.reverse();
    }
    if arguments.blob || arguments.tree || arguments.pack {
        return find_objects(&vault, &snapshots, &arguments, output);
    }
    let query = Query::new(&arguments.patterns, arguments.ignore_case, arguments.oldest, arguments.newest);
    let query = query.map_err(ended)?;
    let display = Display::new(output, During::Search);
    let result = find_entries(&vault, &snapshots, &query, &arguments, output, &display);
    display.finish();
    let all = result?;
    if output.is_json() {
        output.result(&all, |_| String::new())?;
    }
    Ok(Exit::DONE)
}

/// Shows what is found in each snapshot at once; in JSON mode it is returned, since it is one value.
fn find_entries(
    vault: &Vault,
    snapshots: &[(SnapshotId, Snapshot)],
    query: &Query,
    arguments: &Arguments,
    output: Output,
    display: &Display,
) -> anyhow::Result<Vec<Matches>> {
    let mut all = Vec::new();
    let mut count = FileCount::begin(snapshots.iter().map(|(_, snapshot)| snapshot), display);
    for (id, snapshot) in snapshots {
        count.next_snapshot(snapshot);
        let found = vault.find_entries(id, query, &mut count).map_err(ended)?;
        if found.is_empty() {
            continue;
        }
        if output.is_json() {
            let matches: Vec<_> =
                found.iter().map(|(path, node)| MatchLine::new(&path.to_string_lossy(), node)).collect();
            all.push(Matches { hits: matches.len(), matches, snapshot: *id });
            continue;
        }
        display.beside_bar(|| {
            let time = local_time(snapshot.time);
            output.note(&format!("Found matching entries in snapshot {} from {time}", id.short()));
            for (path, node) in &found {
                let sizes = if arguments.human_readable { Sizes::WithUnits } else { Sizes::Bytes };
                output.result(&(), |()| entry_text(path, node, arguments.long, sizes))?;
            }
            output.note("");
            anyhow::Ok(())
        })?;
    }
    Ok(all)
}

impl MatchLine {
    fn new(path: &str, node: &Node) -> Self {
        Self {
            path: path.into(),
            details: Details::of(node),
            user: node.user.clone(),
            group: node.group.clone(),
            device_id: node.device_id,
            size: node.size,
            links: node.links,
            linktarget: node.link_target.to_string_lossy().into_owned(),
            device: node.device,
        }
    }
}

fn find_objects(
    vault: &Vault,
    snapshots: &[(SnapshotId, Snapshot)],
    arguments: &Arguments,
    output: Output,
) -> anyhow::Result<Exit> {
    let is_id = |text: &String| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if let Some(bad) = arguments.patterns.iter().find(|text| !is_id(text)) {
        bail!("{bad:?} is not the beginning of an id: it has other than hexadecimal digits");
    }
    let ids: Vec<String> = arguments.patterns.iter().map(|id| id.to_ascii_lowercase()).collect();
    let query = match arguments.pack {
        true => vault.objects_in_packs(&ids).map_err(ended)?,
        false => ObjectQuery {
            blobs: if arguments.blob { ids.clone() } else { Vec::new() },
            trees: if arguments.tree { ids } else { Vec::new() },
        },
    };
    let display = Display::new(output, During::Search);
    let result = object_lines(vault, snapshots, &query, arguments.show_pack_id, &display);
    display.finish();
    let lines = result.map_err(ended)?;
    output.result(&lines, |lines| lines.iter().map(ObjectLine::text).collect::<Vec<_>>().join("\n"))?;
    Ok(Exit::DONE)
}

fn object_lines(
    vault: &Vault,
    snapshots: &[(SnapshotId, Snapshot)],
    query: &ObjectQuery,
    show_pack_id: bool,
    display: &Display,
) -> levee_vault::Result<Vec<ObjectLine>> {
    let mut lines = Vec::new();
    let mut count = FileCount::begin(snapshots.iter().map(|(_, snapshot)| snapshot), display);
    for (id, snapshot) in snapshots {
        count.next_snapshot(snapshot);
        for found in vault.find_objects(id, query, &mut count)? {
            let pack = match show_pack_id {
                true => Some(vault.pack_of(found.kind, &found.id)?.to_hex()),
                false => None,
            };
            lines.push(ObjectLine::new(found, *id, snapshot.time, pack));
        }
    }
    Ok(lines)
}

impl ObjectLine {
    fn new(found: FoundObject, snapshot: SnapshotId, time: Timestamp, pack: Option<String>) -> Self {
        Self {
            object_type: match found.kind {
                BlobKind::Data => "blob",
                BlobKind::Tree => "tree",
            },
            id: found.id.to_hex(),
            path: found.path.to_string_lossy().into_owned(),
            parent_tree: found.parent_tree.map(|tree| tree.to_hex()),
            snapshot,
            time,
            pack,
        }
    }

    fn text(&self) -> String {
        let place = if self.object_type == "blob" { "file" } else { "directory" };
        let what = self.object_type;
        let mut text = format!("Found {what} {}\n ... in {place} {}\n", self.id, self.path.escape_debug());
        if let Some(tree) = &self.parent_tree {
            text.push_str(&format!("     (tree {tree})\n"));
        }
        text.push_str(&format!(" ... in snapshot {} ({})", self.snapshot.short(), local_time(self.time)));
        if let Some(pack) = &self.pack {
            text.push_str(&format!("\n ... in pack {pack}"));
        }
        text
    }
}
