//! Reading what a snapshot holds.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use crate::{BlobKind, Error, Id, Node, NodeKind, Result, SnapshotId, Vault};

impl Vault {
    /// The root directory of a snapshot.
    pub(crate) fn root_of(&self, snapshot: &SnapshotId) -> Result<Id> {
        self.read_snapshot(snapshot)?
            .tree
            .ok_or_else(|| self.damaged(levee_store::FileType::Snapshot, &snapshot.0.to_hex(), "it names no tree"))
    }

    /// The entry of a snapshot at a path; the leading slash may be left out. `None` for the root itself.
    pub fn find_node(&self, snapshot: &SnapshotId, path: &Path) -> Result<Option<Node>> {
        let not_found = || Error::PathNotFound { snapshot: snapshot.short(), path: path.to_path_buf() };
        let mut tree = self.tree(&self.root_of(snapshot)?)?;
        let mut found: Option<Node> = None;
        for component in path.components() {
            let name: &OsStr = match component {
                Component::Normal(name) => name,
                Component::RootDir | Component::CurDir => continue,
                _ => return Err(not_found()),
            };
            if let Some(directory) = &found {
                tree = self.tree(&directory.subtree.ok_or_else(not_found)?)?;
            }
            found = Some(tree.find(name).ok_or_else(not_found)?.clone());
        }
        Ok(found)
    }

    /// The content of a file in a snapshot, whole in memory.
    pub fn read_file(&self, snapshot: &SnapshotId, path: &Path) -> Result<Vec<u8>> {
        let node = self.find_node(snapshot, path)?.filter(|node| node.kind == NodeKind::File);
        let node = node.ok_or_else(|| Error::WrongNodeKind {
            snapshot: snapshot.short(),
            path: path.to_path_buf(),
            wanted: "file",
        })?;
        let mut content = Vec::new();
        for blob in node.blobs() {
            content.extend(self.read_blob(BlobKind::Data, blob)?);
        }
        Ok(content)
    }

    /// Everything in a snapshot, directories before what they hold, in the order of names.
    pub fn list_tree(&self, snapshot: &SnapshotId) -> Result<TreeWalk> {
        self.walk(self.root_of(snapshot)?, PathBuf::new())
    }

    /// Everything below a tree, with paths from there.
    pub fn list_below(&self, tree: &Id) -> Result<TreeWalk> {
        self.walk(*tree, PathBuf::new())
    }

    pub(crate) fn walk(&self, tree: Id, below: PathBuf) -> Result<TreeWalk> {
        let mut walk = TreeWalk { vault: self.clone(), open: Vec::new() };
        walk.enter(tree, below)?;
        Ok(walk)
    }
}

/// An iterator over the entries below a directory, with their paths.
pub struct TreeWalk {
    vault: Vault,
    /// The directories from the root to where the walk stands, with what is left of each.
    open: Vec<(PathBuf, std::vec::IntoIter<Node>)>,
}

impl TreeWalk {
    fn enter(&mut self, tree: Id, path: PathBuf) -> Result<()> {
        let nodes = self.vault.tree(&tree)?.nodes().to_vec();
        self.open.push((path, nodes.into_iter()));
        Ok(())
    }
}

impl Iterator for TreeWalk {
    /// The path in the snapshot, relative to its root.
    type Item = Result<(PathBuf, Node)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (directory, nodes) = self.open.last_mut()?;
            let Some(node) = nodes.next() else {
                self.open.pop();
                continue;
            };
            let path = directory.join(&node.name);
            if let Some(subtree) = node.subtree.filter(|_| node.kind == NodeKind::Dir)
                && let Err(error) = self.enter(subtree, path.clone())
            {
                return Some(Err(error));
            }
            return Some(Ok((path, node)));
        }
    }
}
