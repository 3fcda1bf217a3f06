use std::collections::HashMap;
use std::path::PathBuf;

use crossbeam_channel::Receiver;

use super::files::ReadFile;
use super::{Context, Counts};
use crate::{Error, Event, Id, ItemChange, Node, Result, Tree};

/// A directory that has been walked. It comes after all directories in it.
pub(super) struct DirectoryTask {
    pub number: u64,
    pub path: PathBuf,
    /// The directory itself; `None` for the root and for places above the sources.
    pub node: Option<Node>,
    pub entries: Vec<Entry>,
    /// Its tree in the parent snapshot.
    pub parent_tree: Option<Id>,
}

pub(super) enum Entry {
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
    let mut nodes = Vec::with_capacity(task.entries.len());
    for entry in task.entries {
        match entry {
            Entry::Ready(node) => nodes.push(*node),
            Entry::Directory(number) => nodes.extend(done.remove(&number)),
            Entry::File(reply) => {
                let Ok(ReadFile { node, content }) = reply.recv() else { continue };
                let (blobs, _) = content.wait()?;
                nodes.push(Node { content: Some(blobs), ..node });
            }
        }
    }
    let id = context.session.add_tree(Tree::new(nodes))?;
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
