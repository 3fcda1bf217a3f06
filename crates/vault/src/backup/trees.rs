use std::borrow::Cow;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use crossbeam_channel::Receiver;

use super::files::ReadFile;
use super::{Context, Counts};
use crate::{BlobKind, Error, Event, Id, ItemChange, Node, Result, Tree};

/// A directory that has been walked. It comes after all directories in it.
pub(super) struct DirectoryTask {
    pub number: u64,
    pub path: PathBuf,
    /// The directory itself; `None` for the root and for places above the sources.
    pub node: Option<Node>,
    pub entries: Vec<Entry>,
    /// Its tree in the parent snapshot.
    pub parent_tree: Option<Id>,
    /// The same, if it could be read.
    pub parent: Option<Arc<Tree>>,
}

pub(super) enum Entry {
    /// As it stands in the parent's tree, at this position.
    Known(usize),
    Ready(Box<Node>),
    /// A file that is being read. Nothing comes when it could not be.
    File(Receiver<ReadFile>),
    /// A directory that came before.
    Directory(u64),
}

/// Stores directories as they come and gives the id of the last one, the root.
pub(super) fn build_trees(context: &Context<'_>, tasks: &Receiver<DirectoryTask>) -> Result<Id> {
    let mut done: HashMap<u64, Node> = HashMap::new();
    let mut last = None;
    for task in tasks {
        if context.session.shared.has_failed() {
            // Go on taking, so that the walk is not held up.
            continue;
        }
        let number = task.number;
        match build_tree(context, task, &mut done) {
            Ok((node, id)) => {
                last = Some(id);
                done.extend(node.map(|node| (number, node)));
            }
            Err(error) => context.session.shared.fail(error),
        }
    }
    if context.session.shared.has_failed() { Err(Error::Stopped) } else { last.ok_or(Error::Stopped) }
}

fn build_tree(context: &Context<'_>, task: DirectoryTask, done: &mut HashMap<u64, Node>) -> Result<(Option<Node>, Id)> {
    let known = task.parent.as_ref().map(|tree| tree.nodes()).unwrap_or_default();
    let mut nodes = Vec::with_capacity(task.entries.len());
    for entry in task.entries {
        match entry {
            Entry::Known(position) => nodes.extend(known.get(position).map(Cow::Borrowed)),
            Entry::Ready(node) => nodes.push(Cow::Owned(*node)),
            Entry::Directory(number) => nodes.extend(done.remove(&number).map(Cow::Owned)),
            Entry::File(reply) => {
                let Ok(ReadFile { node, content }) = reply.recv() else { continue };
                let (blobs, _) = content.wait()?;
                nodes.push(Cow::Owned(Node { content: Some(blobs), ..node }));
            }
        }
    }
    let id = match unchanged(context, task.parent_tree, known, &nodes)? {
        Some(id) => id,
        None => context.session.add_tree(Tree::new(nodes.into_iter().map(Cow::into_owned).collect()))?,
    };
    if task.node.is_some() {
        let (counter, change) = match task.parent_tree {
            None => (&context.counts.dirs_new, ItemChange::New),
            Some(parent) if parent == id => (&context.counts.dirs_unmodified, ItemChange::Unmodified),
            Some(_) => (&context.counts.dirs_changed, ItemChange::Changed),
        };
        Counts::add(counter, 1);
        context.progress.report(Event::Item { path: &task.path, change });
    }
    Ok((task.node.map(|node| Node { subtree: Some(id), ..node }), id))
}

/// The parent's tree, when everything in the directory is as it stands there: then there is nothing to write,
/// unless a prune is about to remove it.
fn unchanged(context: &Context<'_>, parent: Option<Id>, known: &[Node], nodes: &[Cow<'_, Node>]) -> Result<Option<Id>> {
    let Some(parent) = parent else { return Ok(None) };
    let is_same = |(known, built): (&Node, &Cow<'_, Node>)| std::ptr::eq(known, &**built) || *known == **built;
    if known.len() != nodes.len() || known.is_empty() || !known.iter().zip(nodes).all(is_same) {
        return Ok(None);
    }
    Ok(context.vault.has_blob_to_stay(BlobKind::Tree, &parent)?.then_some(parent))
}
