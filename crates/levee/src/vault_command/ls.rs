use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Args;
use levee_vault::{FileTime, Node, NodeKind};
use serde::Serialize;

use super::filter::FilterArguments;
use super::place::Place;
use super::snapshots::{Listed, local_time};
use super::{ended, open};
use crate::exit::Exit;
use crate::output::Output;

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    filter: FilterArguments,
    /// Show modes, owners, sizes and times
    #[arg(short, long)]
    long: bool,
    /// Below the named folders, list everything and not only what is directly inside
    #[arg(long)]
    recursive: bool,
    /// `latest` or the first digits of an id
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,
    /// Only these folders or files, as the snapshot names them
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
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
    #[serde(rename = "type")]
    kind: NodeKind,
    path: std::borrow::Cow<'a, str>,
    uid: u32,
    gid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    mode: u32,
    permissions: String,
    mtime: FileTime,
    atime: FileTime,
    ctime: FileTime,
    #[serde(skip_serializing_if = "is_zero")]
    inode: u64,
    message_type: &'static str,
    struct_type: &'static str,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

pub fn run(place: &Place, arguments: Arguments, output: Output) -> anyhow::Result<Exit> {
    let vault = open(place)?;
    let filter = arguments.filter.filter()?;
    let (id, snapshot) = vault.find_snapshot(&arguments.snapshot, &filter).map_err(ended)?;
    let line = SnapshotLine { message_type: "snapshot", struct_type: "snapshot", listed: Listed::new(id, snapshot) };
    if !output.is_quiet() || output.is_json() {
        output.result(&line, |line| {
            let Listed { snapshot, short_id, .. } = &line.listed;
            let time = local_time(snapshot.time);
            format!("snapshot {short_id} of {} at {time} by {}:", snapshot.paths.join(", "), snapshot.hostname)
        })?;
    }
    for entry in vault.list_tree(&id).map_err(ended)? {
        let (path, node) = entry.map_err(ended)?;
        let path = Path::new("/").join(path);
        if !arguments.paths.is_empty() && !wanted(&path, &arguments.paths, arguments.recursive) {
            continue;
        }
        output.result(&NodeLine::new(&path, &node), |_| text(&path, &node, arguments.long))?;
    }
    Ok(Exit::DONE)
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
            kind: node.kind,
            path: path.to_string_lossy(),
            uid: node.uid,
            gid: node.gid,
            size: (node.kind == NodeKind::File).then_some(node.size),
            mode: node.go_mode(),
            permissions: permissions(node.go_mode()),
            mtime: node.mtime,
            atime: node.atime,
            ctime: node.ctime,
            inode: node.inode,
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

fn text(path: &Path, node: &Node, long: bool) -> String {
    let shown = escaped(path.as_os_str().as_bytes());
    if !long {
        return shown;
    }
    let target = match node.kind {
        NodeKind::Symlink => format!(" -> {}", escaped(node.link_target.as_bytes())),
        _ => String::new(),
    };
    let time = local_time(node.mtime.to_timestamp());
    let mode = permissions(node.go_mode());
    format!("{mode:10} {:>5} {:>5} {:>12} {time} {shown}{target}", node.uid, node.gid, node.size)
}

/// A name in a snapshot must not command the terminal that it is shown on.
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
