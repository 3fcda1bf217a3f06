//! Making a tree out of another one, by leaving out or changing entries.

mod loss;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::session::Session;
use crate::{BlobKind, Error, Id, Node, NodeKind, Result, Tree, Vault};

/// What the rewriting of a tree asks about its entries.
pub(crate) trait Verdicts {
    /// The entry as it is to be, or `None` to leave it out. A directory that is kept is gone through
    /// afterwards.
    fn entry(&mut self, path: &Path, node: &Node) -> Result<Option<Node>>;

    /// Whether a directory stays in which nothing is left of what it held.
    fn keeps_empty(&mut self, path: &Path) -> bool;

    /// A directory cannot be read: `Ok` puts an empty one in its place.
    fn unreadable(&mut self, path: &Path, error: Error) -> Result<()>;

    /// A directory is to be written anew, and something that its JSON says would be lost by that: `Ok` lets it go. A
    /// repair does, as restic's: it saves what can be saved.
    fn loses(&mut self, _path: &Path, _what: String) -> Result<()> {
        Ok(())
    }
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

/// A directory whose entries are being gone through.
struct Open {
    id: Id,
    path: PathBuf,
    tree: Arc<Tree>,
    /// The entry that comes next.
    next: usize,
    nodes: Vec<Node>,
    /// The directory among the entries that is open below this one.
    below: Option<Node>,
}

/// What a directory has become.
struct Closed {
    id: Id,
    has_entries: bool,
}

impl<V: Verdicts> Rewrite<'_, V> {
    /// Rewrites a whole tree and gives its new id, which is the old one when nothing has changed.
    pub fn root(&mut self, root: Id) -> Result<Id> {
        // A list and no recursion: a tree may be deeper than any stack.
        let mut open = Vec::new();
        let mut closed = self.enter(&mut open, root, PathBuf::from("/"))?;
        loop {
            let Some(top) = open.last_mut() else {
                // The root is closed last.
                return Ok(closed.map_or(root, |closed| closed.id));
            };
            if let (Some(closed), Some(mut node)) = (closed.take(), top.below.take())
                && (closed.has_entries || self.verdicts.keeps_empty(&top.path.join(&node.name)))
            {
                node.subtree = Some(closed.id);
                top.nodes.push(node);
            }
            closed = match self.go_on(top)? {
                Some((subtree, path)) => self.enter(&mut open, subtree, path)?,
                None => open.pop().map(|done| self.close(done)).transpose()?,
            };
        }
    }

    /// Opens a directory. One that can't be read is closed at once, with nothing in it.
    fn enter(&mut self, open: &mut Vec<Open>, id: Id, path: PathBuf) -> Result<Option<Closed>> {
        match self.vault.tree(&id) {
            Ok(tree) => {
                let nodes = Vec::with_capacity(tree.nodes().len());
                open.push(Open { id, path, tree, next: 0, nodes, below: None });
                Ok(None)
            }
            Err(error) => {
                self.verdicts.unreadable(&path, error)?;
                Ok(Some(Closed { id: self.store(Tree::default())?, has_entries: false }))
            }
        }
    }

    /// Goes through entries up to the next directory that is kept, and gives what is to be opened for it.
    fn go_on(&mut self, top: &mut Open) -> Result<Option<(Id, PathBuf)>> {
        while let Some(node) = top.tree.nodes().get(top.next) {
            top.next += 1;
            let path = top.path.join(&node.name);
            let Some(node) = self.verdicts.entry(&path, node)? else { continue };
            if let Some(subtree) = node.subtree.filter(|_| node.kind == NodeKind::Dir) {
                top.below = Some(node);
                return Ok(Some((subtree, path)));
            }
            if node.kind == NodeKind::File {
                self.totals.files += 1;
                self.totals.bytes += node.size;
            }
            top.nodes.push(node);
        }
        Ok(None)
    }

    fn close(&mut self, done: Open) -> Result<Closed> {
        let has_entries = !done.nodes.is_empty();
        if done.nodes == done.tree.nodes() {
            return Ok(Closed { id: done.id, has_entries });
        }
        if let Some(what) = self.loss(&done)? {
            self.verdicts.loses(&done.path, what)?;
        }
        Ok(Closed { id: self.store(Tree::new(done.nodes))?, has_entries })
    }

    /// What a directory says that it would not if it were written again, even with nothing changed in it.
    fn loss(&self, done: &Open) -> Result<Option<String>> {
        if Id::of(&done.tree.to_json()) == done.id {
            return Ok(None);
        }
        // Most who get here have written the same in another way: restic writes times with their distance from UTC.
        Ok(loss::first(&self.vault.read_blob(BlobKind::Tree, &done.id)?, &done.tree))
    }

    fn store(&self, tree: Tree) -> Result<Id> {
        match self.session {
            Some(session) => session.add_tree(tree),
            None => Ok(Id::of(&tree.to_json())),
        }
    }
}
