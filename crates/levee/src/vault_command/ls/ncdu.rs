//! A listing that `ncdu -f` reads (its JSON export, version 1.2).

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use levee_vault::{Node, NodeKind, Snapshot};
use serde::Serialize;

/// What ncdu counts as taken on a disk.
const BLOCK_BYTES: u64 = 512;

#[derive(Serialize)]
struct Entry<'a> {
    name: std::borrow::Cow<'a, str>,
    asize: u64,
    dsize: u64,
    dev: u64,
    ino: u64,
    nlink: u64,
    notreg: bool,
    uid: u32,
    gid: u32,
    mode: u32,
    mtime: i64,
}

impl<'a> Entry<'a> {
    fn of(node: &'a Node) -> Self {
        Self {
            name: node.name.to_string_lossy(),
            asize: node.size,
            dsize: node.size.div_ceil(BLOCK_BYTES) * BLOCK_BYTES,
            dev: node.device_id,
            ino: node.inode,
            nlink: node.links,
            notreg: node.kind != NodeKind::Dir && node.kind != NodeKind::File,
            uid: node.uid,
            gid: node.gid,
            mode: unix_mode(node.go_mode()),
            mtime: node.mtime.seconds,
        }
    }
}

/// Permissions with the bits of set-user-id, set-group-id and sticky where Unix has them.
fn unix_mode(go_mode: u32) -> u32 {
    let bit = |go: u32, unix: u32| if go_mode & (1 << go) != 0 { unix } else { 0 };
    (go_mode & 0o777) | bit(23, 0o4000) | bit(22, 0o2000) | bit(20, 0o1000)
}

/// Writes entries as they come: each directory before what it holds.
pub struct Ncdu<W> {
    to: W,
    /// The directories that are open, the root's `/` first.
    open: Vec<PathBuf>,
}

impl<W: Write> Ncdu<W> {
    pub fn begin(mut to: W, snapshot: &Snapshot) -> io::Result<Self> {
        write!(to, "[1, 2, {}, [{{\"name\":\"/\"}}", serde_json::to_string(snapshot)?)?;
        Ok(Self { to, open: vec![PathBuf::from("/")] })
    }

    pub fn entry(&mut self, path: &Path, node: &Node) -> io::Result<()> {
        while self.open.len() > 1 && self.open.last().is_some_and(|directory| path.parent() != Some(directory)) {
            self.close()?;
        }
        let entry = serde_json::to_string(&Entry::of(node))?;
        let indent = "  ".repeat(self.open.len());
        if node.kind == NodeKind::Dir {
            write!(self.to, ",\n{indent}[{entry}")?;
            self.open.push(path.to_path_buf());
        } else {
            write!(self.to, ",\n{indent}{entry}")?;
        }
        Ok(())
    }

    pub fn finish(mut self) -> io::Result<()> {
        while !self.open.is_empty() {
            self.close()?;
        }
        writeln!(self.to, "]")?;
        self.to.flush()
    }

    fn close(&mut self) -> io::Result<()> {
        self.open.pop();
        write!(self.to, "\n{}]", "  ".repeat(self.open.len()))
    }
}
