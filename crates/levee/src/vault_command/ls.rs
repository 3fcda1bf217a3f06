mod ncdu;

use std::cmp::Ordering;
use std::io::BufWriter;
use std::io::ErrorKind::BrokenPipe;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use levee_vault::{FileTime, Id, Node, NodeKind, Snapshot, Vault};
use serde::Serialize;

use super::place::Place;
use super::selection::FilterArguments;
use super::snapshot_argument::Chosen;
use super::snapshots::{Listed, local_time};
use super::{ended, open};
use crate::exit::Exit;
use crate::output::Output;
use ncdu::Ncdu;

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    filter: FilterArguments,
    /// Show modes, owners, sizes and times
    #[arg(short, long)]
    long: bool,
    /// Show sizes with units
    #[arg(long)]
    human_readable: bool,
    /// Below the named folders, list everything and not only what is directly inside
    #[arg(long)]
    recursive: bool,
    /// The order of the list
    #[arg(short, long, value_enum, default_value_t)]
    sort: Sort,
    /// Turn the order round
    #[arg(long)]
    reverse: bool,
    /// Print what `ncdu -f` reads
    #[arg(long, conflicts_with_all = ["long", "human_readable", "sort", "reverse"])]
    ncdu: bool,
    /// `latest` or the first digits of an id; with `:FOLDER`, paths begin there
    #[arg(value_name = "SNAPSHOT[:FOLDER]")]
    snapshot: String,
    /// Only these folders or files, as the snapshot names them
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
}

/// restic's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Sort {
    #[default]
    Name,
    Size,
    /// The time of change
    #[value(alias = "mtime")]
    Time,
    Atime,
    Ctime,
    Extension,
}

#[derive(Serialize)]
struct SnapshotLine {
    message_type: &'static str,
    struct_type: &'static str,
    #[serde(flatten)]
    listed: Listed,
}

/// An entry as `restic ls --json` prints it.
#[derive(Serialize)]
struct NodeLine<'a> {
    name: std::borrow::Cow<'a, str>,
    path: std::borrow::Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(flatten)]
    details: Details,
    message_type: &'static str,
    struct_type: &'static str,
}

/// What `ls` and `find` say of an entry in JSON.
#[derive(Serialize)]
pub struct Details {
    #[serde(rename = "type")]
    kind: NodeKind,
    uid: u32,
    gid: u32,
    mode: u32,
    permissions: String,
    mtime: FileTime,
    atime: FileTime,
    ctime: FileTime,
    #[serde(skip_serializing_if = "is_zero")]
    inode: u64,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl Details {
    pub fn of(node: &Node) -> Self {
        Self {
            kind: node.kind,
            uid: node.uid,
            gid: node.gid,
            mode: node.go_mode(),
            permissions: permissions(node.go_mode()),
            mtime: node.mtime,
            atime: node.atime,
            ctime: node.ctime,
            inode: node.inode,
        }
    }
}

/// How sizes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sizes {
    Bytes,
    WithUnits,
}

pub fn run(place: &Place, arguments: Arguments, output: Output) -> anyhow::Result<Exit> {
    let vault = open(place)?;
    let chosen = Chosen::find(&vault, &arguments.snapshot, &arguments.filter.selection()?)?;
    let tree = chosen.tree(&vault)?;
    if arguments.ncdu {
        return print_for_ncdu(&vault, &chosen, &tree, &arguments);
    }
    let listed = Listed::new(chosen.id, chosen.snapshot);
    let line = SnapshotLine { message_type: "snapshot", struct_type: "snapshot", listed };
    if !output.is_quiet() || output.is_json() {
        output.result(&line, |line| {
            let Listed { snapshot, short_id, .. } = &line.listed;
            let time = local_time(snapshot.time);
            format!("snapshot {short_id} of {} at {time} by {}:", snapshot.paths.join(", "), snapshot.hostname)
        })?;
    }
    let sizes = if arguments.human_readable { Sizes::WithUnits } else { Sizes::Bytes };
    let print = |path: &Path, node: &Node| {
        output.result(&NodeLine::new(path, node), |_| entry_text(path, node, arguments.long, sizes))
    };
    // By name is how they come; any other order needs all of them first.
    let in_order = arguments.sort == Sort::Name && !arguments.reverse;
    let mut held = Vec::new();
    for entry in vault.list_below(&tree).map_err(ended)? {
        let (path, node) = entry.map_err(ended)?;
        let path = Path::new("/").join(path);
        if !arguments.paths.is_empty() && !wanted(&path, &arguments.paths, arguments.recursive) {
            continue;
        }
        if in_order {
            print(&path, &node)?;
        } else {
            held.push((path, Node { content: None, ..node }));
        }
    }
    sort(&mut held, arguments.sort);
    if arguments.reverse {
        held.reverse();
    }
    held.iter().try_for_each(|(path, node)| print(path, node))?;
    Ok(Exit::DONE)
}

fn print_for_ncdu(vault: &Vault, chosen: &Chosen, tree: &Id, arguments: &Arguments) -> anyhow::Result<Exit> {
    let printed = || -> anyhow::Result<()> {
        // With the tree that is listed, as restic has it.
        let snapshot = Snapshot { tree: Some(*tree), ..chosen.snapshot.clone() };
        let mut ncdu = Ncdu::begin(BufWriter::new(std::io::stdout().lock()), &snapshot)?;
        for entry in vault.list_below(tree).map_err(ended)? {
            let (path, node) = entry.map_err(ended)?;
            let path = Path::new("/").join(path);
            // A directory that leads to what is wanted stays, since it holds it.
            let leads_there = || arguments.paths.iter().any(|wanted| wanted.starts_with(&path));
            if arguments.paths.is_empty() || leads_there() || wanted(&path, &arguments.paths, arguments.recursive) {
                ncdu.entry(&path, &node)?;
            }
        }
        Ok(ncdu.finish()?)
    };
    match printed() {
        // As for other results in a pipe.
        Err(error) if error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == BrokenPipe) => {
            Ok(Exit::DONE)
        }
        other => other.map(|()| Exit::DONE),
    }
}

/// Small and old things come first; what is equal comes by name.
fn sort(entries: &mut [(PathBuf, Node)], by: Sort) {
    entries.sort_by(|(path, node), (other_path, other)| {
        let order = match by {
            Sort::Name => Ordering::Equal,
            Sort::Size => node.size.cmp(&other.size),
            Sort::Time => node.mtime.cmp(&other.mtime),
            Sort::Atime => node.atime.cmp(&other.atime),
            Sort::Ctime => node.ctime.cmp(&other.ctime),
            Sort::Extension => path.extension().cmp(&other_path.extension()),
        };
        order.then_with(|| path.cmp(other_path))
    });
}

fn wanted(path: &Path, folders: &[PathBuf], recursive: bool) -> bool {
    folders.iter().any(|folder| match recursive {
        true => path.starts_with(folder),
        false => path == folder || path.parent() == Some(folder),
    })
}

impl<'a> NodeLine<'a> {
    fn new(path: &'a Path, node: &'a Node) -> Self {
        Self {
            name: node.name.to_string_lossy(),
            path: path.to_string_lossy(),
            size: (node.kind == NodeKind::File).then_some(node.size),
            details: Details::of(node),
            message_type: "node",
            struct_type: "node",
        }
    }
}

/// The mode as Go prints an `os.FileMode`: a letter for each high bit, then the permissions.
fn permissions(go_mode: u32) -> String {
    let letters = "dalTLDpSugct?".char_indices();
    let mut text: String =
        letters.filter(|(index, _)| go_mode & (1 << (31 - index)) != 0).map(|(_, letter)| letter).collect();
    if text.is_empty() {
        text.push('-');
    }
    for (index, letter) in "rwxrwxrwx".char_indices() {
        text.push(if go_mode & (1 << (8 - index)) != 0 { letter } else { '-' });
    }
    text
}

/// One line for an entry.
pub fn entry_text(path: &Path, node: &Node, long: bool, sizes: Sizes) -> String {
    let shown = escaped_path(path);
    if !long {
        return shown;
    }
    let target = match node.kind {
        NodeKind::Symlink => format!(" -> {}", escaped(node.link_target.as_bytes())),
        _ => String::new(),
    };
    let time = local_time(node.mtime.to_timestamp());
    let mode = permissions(node.go_mode());
    let size = match sizes {
        Sizes::Bytes => node.size.to_string(),
        Sizes::WithUnits => indicatif::BinaryBytes(node.size).to_string(),
    };
    format!("{mode:10} {:>5} {:>5} {size:>12} {time} {shown}{target}", node.uid, node.gid)
}

/// A path in a snapshot must not command the terminal that it is shown on.
pub fn escaped_path(path: &Path) -> String {
    escaped(path.as_os_str().as_bytes())
}

fn escaped(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character.is_control() {
                true => text.extend(character.escape_default()),
                false => text.push(character),
            }
        }
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_look_as_go_prints_them() {
        let check = |mode: u32, expected: &str| assert_eq!(permissions(mode), expected);
        check(0o644, "-rw-r--r--");
        check(1 << 31 | 0o755, "drwxr-xr-x");
        check(1 << 27 | 0o777, "Lrwxrwxrwx");
        check(1 << 23 | 0o711, "urwx--x--x");
        check(1 << 31 | 1 << 20 | 0o777, "dtrwxrwxrwx");
        check(1 << 26 | 1 << 21 | 0o600, "Dcrw-------");
    }

    #[test]
    fn names_cannot_command_a_terminal() {
        assert_eq!(escaped(b"a\x1b[31m\n\xff\xc3\xa4"), "a\\u{1b}[31m\\n\\xffä");
    }
}
