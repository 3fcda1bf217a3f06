//! Making a tree out of another one, by leaving out or changing entries.

use std::path::{Path, PathBuf};

use crate::session::Session;
use crate::{Error, Id, Node, NodeKind, Result, Tree, Vault};

/// What the rewriting of a tree asks about its entries.
pub(crate) trait Verdicts {
    /// The entry as it is to be, or `None` to leave it out. A directory that is kept is gone through
    /// afterwards.
    fn entry(&mut self, path: &Path, node: &Node) -> Option<Node>;

    /// Whether a directory stays in which nothing is left of what it held.
    fn keeps_empty(&mut self, path: &Path) -> bool;

    /// A directory cannot be read: `Ok` puts an empty one in its place.
    fn unreadable(&mut self, path: &Path, error: Error) -> Result<()>;
}

/// What a rewritten tree holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub files: u64,
    pub bytes: u64,
}

pub(crate) struct Rewrite<'a, V: Verdicts> {
    pub vault: &'a Vault,
    /// Where new trees go; nowhere in a dry run.
    pub session: Option<&'a Session>,
    pub verdicts: &'a mut V,
    pub totals: Totals,
}

impl<V: Verdicts> Rewrite<'_, V> {
    /// Rewrites a whole tree and gives its new id, which is the old one when nothing has changed.
    pub fn root(&mut self, root: Id) -> Result<Id> {
        Ok(self.directory(root, &PathBuf::from("/"))?.0)
    }

    /// The new id, and whether anything is in it.
    fn directory(&mut self, id: Id, path: &Path) -> Result<(Id, bool)> {
        let tree = match self.vault.tree(&id) {
            Ok(tree) => tree,
            Err(error) => {
                self.verdicts.unreadable(path, error)?;
                return Ok((self.store(Tree::default())?, false));
            }
        };
        let mut nodes = Vec::with_capacity(tree.nodes().len());
        for node in tree.nodes() {
            let path = path.join(&node.name);
            let Some(mut node) = self.verdicts.entry(&path, node) else { continue };
            if let Some(subtree) = node.subtree.filter(|_| node.kind == NodeKind::Dir) {
                let (new, has_entries) = self.directory(subtree, &path)?;
                if !has_entries && !self.verdicts.keeps_empty(&path) {
                    continue;
                }
                node.subtree = Some(new);
            }
            if node.kind == NodeKind::File {
                self.totals.files += 1;
                self.totals.bytes += node.size;
            }
            nodes.push(node);
        }
        if nodes == tree.nodes() {
            return Ok((id, !nodes.is_empty()));
        }
        let has_entries = !nodes.is_empty();
        Ok((self.store(Tree::new(nodes))?, has_entries))
    }

    fn store(&self, tree: Tree) -> Result<Id> {
        match self.session {
            Some(session) => session.add_tree(tree),
            None => Ok(Id::of(&tree.to_json())),
        }
    }
}
