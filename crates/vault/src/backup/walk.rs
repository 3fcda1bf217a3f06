use std::ffi::OsStr;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossbeam_channel::{Sender, bounded};

use super::files::FileTask;
use super::listing::{Listing, Step, Steps};
use super::metadata::{atime_of, is_unchanged, kind_of, node_of};
use super::targets::Targets;
use super::trees::{DirectoryTask, Entry};
use super::{Context, Counts};
use crate::{BlobKind, Error, Event, Id, ItemChange, Node, NodeKind, Result, Tree};

/// Takes the way through the sources, compares with the parent, and hands on what has to be done.
pub(super) struct Walk<'a> {
    pub context: &'a Context<'a>,
    pub files: Sender<FileTask>,
    pub directories: Sender<DirectoryTask>,
}

/// One directory being walked.
struct OpenDirectory {
    number: u64,
    path: PathBuf,
    node: Option<Node>,
    entries: Vec<Entry>,
    parent: Option<Arc<Tree>>,
    parent_tree: Option<Id>,
    /// How many entries of the parent's tree lie before the next name.
    passed: usize,
}

impl Walk<'_> {
    pub fn run(self, targets: &Targets, parent: Option<Id>) -> Result<()> {
        let mut next_number = 0;
        self.walk_targets(targets, None, parent, &mut next_number)?;
        Ok(())
    }

    /// Walks a part of the tree that leads to sources.
    fn walk_targets(
        &self,
        targets: &Targets,
        node: Option<Node>,
        parent_tree: Option<Id>,
        next_number: &mut u64,
    ) -> Result<u64> {
        if targets.is_source {
            let device = std::fs::symlink_metadata(&targets.path).map(|metadata| metadata.dev()).ok();
            return self.walk_source(&targets.path, node, parent_tree, device, next_number);
        }
        let parent = self.load_parent(parent_tree);
        let mut entries = Vec::new();
        for (name, child) in &targets.children {
            let known = Known::find(parent.as_deref(), name);
            let Some((kind, metadata)) = self.look_at_target(child) else { continue };
            if kind == NodeKind::Dir {
                let node = node_of(self.context, name, &child.path, kind, &metadata);
                let subtree = known.and_then(|known| known.node.subtree);
                entries.push(Entry::Directory(self.walk_targets(child, Some(node), subtree, next_number)?));
            } else {
                entries.extend(self.leaf(name, &child.path, kind, &metadata, known)?);
            }
        }
        let number = *next_number;
        *next_number += 1;
        let task = DirectoryTask { number, path: targets.path.clone(), node, entries, parent_tree, parent };
        self.directories.send(task).map_err(|_| Error::Stopped)?;
        Ok(number)
    }

    /// Walks everything below a source.
    fn walk_source(
        &self,
        path: &Path,
        node: Option<Node>,
        parent_tree: Option<Id>,
        device: Option<u64>,
        next_number: &mut u64,
    ) -> Result<u64> {
        let device = device.filter(|_| self.context.options.one_file_system);
        let (listing, steps) = Listing::new(self.context, device);
        std::thread::scope(|scope| {
            scope.spawn(|| listing.run(path));
            let source = self.open_directory(path.to_path_buf(), node, parent_tree, next_number);
            self.take(steps, source, next_number)
        })
    }

    /// Takes the steps through a source. Without recursion: a tree may be deeper than the stack allows.
    fn take(&self, steps: Steps, source: OpenDirectory, next_number: &mut u64) -> Result<u64> {
        let mut open = vec![source];
        for step in steps {
            let Some(directory) = open.last_mut() else { return Err(Error::Stopped) };
            let Step::Entry { name, kind, metadata } = step else {
                let Some(directory) = open.pop() else { return Err(Error::Stopped) };
                let OpenDirectory { number, path, node, entries, parent_tree, parent, .. } = directory;
                let task = DirectoryTask { number, path, node, entries, parent_tree, parent };
                self.directories.send(task).map_err(|_| Error::Stopped)?;
                if self.context.session.shared.has_failed() {
                    return Err(Error::Stopped);
                }
                if open.is_empty() {
                    return Ok(number);
                }
                continue;
            };
            let path = directory.path.join(&name);
            let parent = directory.parent.clone();
            let known = Known::find_after(&mut directory.passed, parent.as_deref(), &name);
            if kind != NodeKind::Dir {
                let entry = self.leaf(&name, &path, kind, &metadata, known)?;
                directory.entries.extend(entry);
                continue;
            }
            let node = node_of(self.context, &name, &path, kind, &metadata);
            let subtree = known.and_then(|known| known.node.subtree);
            let child = self.open_directory(path, Some(node), subtree, next_number);
            directory.entries.push(Entry::Directory(child.number));
            open.push(child);
        }
        // The listing ends early only when it fails.
        Err(Error::Stopped)
    }

    fn open_directory(
        &self,
        path: PathBuf,
        node: Option<Node>,
        parent_tree: Option<Id>,
        next_number: &mut u64,
    ) -> OpenDirectory {
        let number = *next_number;
        *next_number += 1;
        let parent = self.load_parent(parent_tree);
        OpenDirectory { number, path, node, entries: Vec::new(), parent, parent_tree, passed: 0 }
    }

    /// A parent that cannot be read costs reading the files, not the backup.
    fn load_parent(&self, tree: Option<Id>) -> Option<Arc<Tree>> {
        self.context
            .vault
            .tree(&tree?)
            .inspect_err(|error| tracing::warn!(%error, "cannot compare with the parent"))
            .ok()
    }

    /// What leads to a source is followed through links, as the path that was given means it. A source
    /// itself is stored as what it is. Whatever was asked for and isn't stored is said.
    fn look_at_target(&self, target: &Targets) -> Option<(NodeKind, Metadata)> {
        let leads_on = !target.children.is_empty();
        let metadata = if leads_on { std::fs::metadata(&target.path) } else { std::fs::symlink_metadata(&target.path) };
        let path = &target.path;
        match metadata {
            Ok(metadata) if leads_on && !metadata.is_dir() => {
                self.context.problems.add(path, "it is not a directory any more".into());
                None
            }
            Ok(metadata) => match kind_of(&metadata) {
                Some(kind) => Some((kind, metadata)),
                None => {
                    self.context.problems.add(path, "sockets cannot be stored".into());
                    None
                }
            },
            Err(error) => {
                self.context.problems.add_error(path, "cannot look at it", &error);
                None
            }
        }
    }

    /// Anything but a directory.
    fn leaf(
        &self,
        name: &OsStr,
        path: &Path,
        kind: NodeKind,
        metadata: &Metadata,
        known: Option<Known<'_>>,
    ) -> Result<Option<Entry>> {
        let context = self.context;
        if kind != NodeKind::File {
            let mut node = node_of(context, name, path, kind, metadata);
            if kind == NodeKind::Symlink {
                match std::fs::read_link(path) {
                    Ok(target) => node.link_target = target.into_os_string(),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(error) => {
                        context.problems.add_error(path, "cannot read the link", &error);
                        return Ok(None);
                    }
                }
            }
            return Ok(Some(Entry::Ready(Box::new(node))));
        }
        if context.options.exclude_larger_than.is_some_and(|limit| metadata.len() > limit) {
            return Ok(None);
        }
        if let Some(Known { position, node }) = known
            && is_unchanged(context, node, metadata)
            && self.has_all(node)?
        {
            Counts::add(&context.counts.files_unmodified, 1);
            Counts::add(&context.counts.total_files, 1);
            Counts::add(&context.counts.total_bytes, node.size);
            context.progress.report(Event::Bytes(node.size));
            context.progress.report(Event::Item { path, change: ItemChange::Unmodified });
            // The change time covers owner, mode and attributes as well, but not the last access.
            return Ok(Some(match atime_of(context, metadata) {
                atime if atime == node.atime => Entry::Known(position),
                atime => Entry::Ready(Box::new(Node { atime, ..node.clone() })),
            }));
        }
        let (reply, read) = bounded(1);
        let change = if known.is_some() { ItemChange::Changed } else { ItemChange::New };
        let task = FileTask { path: path.to_path_buf(), change, reply };
        self.files.send(task).map_err(|_| Error::Stopped)?;
        Ok(Some(Entry::File(read)))
    }

    fn has_all(&self, node: &Node) -> Result<bool> {
        self.context.vault.with_index(|index| node.blobs().iter().all(|blob| index.contains(BlobKind::Data, blob)))
    }
}

/// What the parent snapshot says of an entry.
#[derive(Clone, Copy)]
struct Known<'a> {
    position: usize,
    node: &'a Node,
}

impl<'a> Known<'a> {
    fn find(parent: Option<&'a Tree>, name: &OsStr) -> Option<Self> {
        let parent = parent?;
        let position = parent.position(name)?;
        Some(Self { position, node: parent.nodes().get(position)? })
    }

    /// The same where names come in their order: most of the time it is the very next one.
    fn find_after(passed: &mut usize, parent: Option<&'a Tree>, name: &OsStr) -> Option<Self> {
        let node = parent?.nodes().get(*passed).filter(|node| node.name == name);
        let known = node.map(|node| Self { position: *passed, node }).or_else(|| Self::find(parent, name))?;
        *passed = known.position + 1;
        Some(known)
    }
}
