//! Going through the snapshot's directories, and choosing what is restored of them.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::place::MadeDirectory;
use super::{Context, RestoreSummary, content, metadata, place, prepare, unfinished};
use crate::pattern::Patterns;
use crate::{Error, Event, Id, ItemChange, Node, NodeKind, Result, Tree};

/// So many blobs are planned at a time: some 10 MB of plan. One batch is written while the next is planned.
const BATCH_BLOBS: usize = 100_000;
const BATCH_FILES: usize = 20_000;
/// What Linux takes as a path. It bounds the depth as well.
const PATH_BYTES_MAX: usize = 4095;

/// A file that is to be restored.
pub(super) struct Chosen {
    pub path: PathBuf,
    pub node: Node,
    /// The directory was just made, so that nothing can be in the way.
    pub directory_is_fresh: bool,
}

/// Files whose content is restored together.
#[derive(Default)]
struct Batch {
    files: Vec<Chosen>,
    blobs: usize,
    /// Further names of files that are restored under another: (name, first name, node).
    hard_links: Vec<(PathBuf, PathBuf, Node)>,
}

/// A directory of the snapshot that is being gone through. Without recursion: a tree may be deeper than
/// the stack allows.
struct Open {
    tree: Arc<Tree>,
    next: usize,
    path: PathBuf,
    /// The same from the root, as patterns want it.
    source: PathBuf,
    /// It or a directory above was chosen by the patterns.
    included: bool,
}

struct Walk<'a> {
    context: &'a Context<'a>,
    includes: Patterns,
    excludes: Patterns,
    batch: Batch,
    batches: Sender<Batch>,
    /// Directories whose metadata are set in the end, outer ones first.
    directories: Directories,
    /// Directories that this restore has made.
    fresh: HashSet<PathBuf>,
    /// Directories above the current place that are made only when something in them is chosen.
    pending: Vec<(PathBuf, Node)>,
    /// The first name of each file with several: by file system, inode and content. Snapshots that were put
    /// together from several hosts may have one inode for different files.
    first_links: HashMap<(u64, u64, u64), PathBuf>,
    summary: RestoreSummary,
}

/// Restores what a directory holds; `node` is the directory itself, for the target's metadata.
pub(super) fn run(
    context: &Context<'_>,
    includes: Patterns,
    excludes: Patterns,
    tree: &Id,
    node: Option<Node>,
) -> Result<RestoreSummary> {
    let (batches, next_batch) = bounded(0);
    let walk = Walk {
        context,
        includes,
        excludes,
        batch: Batch::default(),
        batches,
        directories: Vec::new(),
        fresh: HashSet::new(),
        pending: Vec::new(),
        first_links: HashMap::new(),
        summary: RestoreSummary::default(),
    };
    let (walked, written) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_batches(context, next_batch));
        let walked = walk.run(tree, node);
        (walked, writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    // When writing has failed, that is why the walk has ended.
    let hard_links = written?;
    let (mut summary, directories) = walked?;
    summary.others += hard_links;
    if !context.options.dry_run {
        for (path, node) in directories.iter().rev() {
            metadata::apply_to_directory(context, path, node);
        }
    }
    Ok(summary)
}

/// Writes one batch after the other, and gives the number of further names that were made.
fn write_batches(context: &Context<'_>, batches: Receiver<Batch>) -> Result<u64> {
    let mut made = 0;
    // First names that do not hold the snapshot's content, since something was kept there or it could not be written.
    let mut unlike = HashSet::new();
    let mut instead: HashMap<PathBuf, PathBuf> = HashMap::new();
    for batch in batches {
        write_files(context, batch.files, &mut unlike)?;
        for (path, first, node) in batch.hard_links {
            let original = instead.get(&first).unwrap_or(&first);
            if unlike.contains(original) {
                // Restored for itself, and what further names are linked to.
                instead.insert(first, path.clone());
                write_files(context, vec![Chosen { path, node, directory_is_fresh: false }], &mut unlike)?;
                continue;
            }
            match place::make_hard_link(context, &path, original, &node) {
                Ok(is_made) => made += u64::from(is_made),
                Err(error) => context.problem(&path, &error),
            }
        }
    }
    Ok(made)
}

/// Restores files, and notes those with several names that are not as the snapshot has them afterwards.
fn write_files(context: &Context<'_>, files: Vec<Chosen>, unlike: &mut HashSet<PathBuf>) -> Result<()> {
    let files = prepare::prepare(context, files, unlike);
    content::write(context, &files)?;
    prepare::check_complete(context, &files);
    let failed = files.iter().filter(|file| file.node.links > 1 && !file.is_complete());
    unlike.extend(failed.map(|file| file.path.clone()));
    Ok(())
}

/// Directories with what is to become of them.
type Directories = Vec<(PathBuf, Node)>;

impl Walk<'_> {
    fn run(mut self, tree: &Id, node: Option<Node>) -> Result<(RestoreSummary, Directories)> {
        if let Some(node) = node {
            self.directories.push((PathBuf::new(), node));
        }
        let mut open = Vec::new();
        self.enter(&mut open, tree, PathBuf::new(), PathBuf::from("/"), false);
        while let Some(directory) = open.last_mut() {
            let tree = directory.tree.clone();
            let Some(node) = tree.nodes().get(directory.next) else {
                if let Some(directory) = open.pop() {
                    self.leave(&directory);
                }
                continue;
            };
            directory.next += 1;
            let (path, source) = (directory.path.join(&node.name), directory.source.join(&node.name));
            if self.excludes.matches(&source) {
                continue;
            }
            let included = directory.included || self.is_included(&source);
            if path.as_os_str().len() > PATH_BYTES_MAX {
                let message = format!("its path is longer than the {PATH_BYTES_MAX} bytes that can be opened");
                self.context.problems.add(&path, message);
            } else if node.kind == NodeKind::Dir {
                let Some(subtree) = node.subtree else {
                    self.context.problems.add(&path, "the directory has no content in the snapshot".into());
                    continue;
                };
                self.pending.push((path.clone(), node.clone()));
                if included && !self.make_directories() {
                    continue;
                }
                self.enter(&mut open, &subtree, path, source, included);
            } else if included && self.make_directories() {
                self.leaf(path, node)?;
            }
        }
        self.finish_batch()?;
        Ok((self.summary, self.directories))
    }

    fn is_included(&self, source: &Path) -> bool {
        self.includes.is_empty() || self.includes.matches(source)
    }

    fn enter(&mut self, open: &mut Vec<Open>, tree: &Id, path: PathBuf, source: PathBuf, included: bool) {
        match self.context.vault.tree(tree) {
            Ok(tree) => open.push(Open { tree, next: 0, path, source, included }),
            Err(error) => {
                self.context.problem(&path, &error);
                self.pending.pop_if(|(last, _)| *last == path);
            }
        }
    }

    fn leave(&mut self, directory: &Open) {
        // Still there when nothing in it was chosen.
        self.pending.pop_if(|(last, _)| *last == directory.path);
        if self.context.options.delete && !self.fresh.contains(&directory.path) {
            let unfinished = unfinished::names_in(self.context, &directory.tree);
            let wanted = |name: &OsStr| {
                let source = directory.source.join(name);
                let chosen = directory.included || self.is_included(&source);
                directory.tree.find(name).is_some()
                    || unfinished.contains(name)
                    || !chosen
                    || self.excludes.matches(&source)
            };
            self.summary.files_deleted += place::remove_unwanted(self.context, &directory.path, &wanted);
        }
    }

    /// Makes the directories above the current place. `false` when something else is kept in the place of one, so that
    /// nothing can be restored below.
    fn make_directories(&mut self) -> bool {
        for (path, node) in std::mem::take(&mut self.pending) {
            match place::make_directory(self.context, &path, &node) {
                Ok(MadeDirectory::Kept) => {
                    let message = "what is there is no directory and was kept: nothing was restored below it";
                    self.context.problems.add(&path, message.into());
                    return false;
                }
                Ok(made) => {
                    self.summary.directories += 1;
                    if made == MadeDirectory::Anew {
                        self.fresh.insert(path.clone());
                    }
                    self.directories.push((path, node));
                }
                Err(error) => self.context.problem(&path, &error),
            }
        }
        true
    }

    /// Anything but a directory.
    fn leaf(&mut self, path: PathBuf, node: &Node) -> Result<()> {
        if node.links > 1 && node.kind == NodeKind::File {
            match self.first_links.get(&link_key(node)) {
                Some(first) => {
                    self.batch.hard_links.push((path, first.clone(), node.clone()));
                    return Ok(());
                }
                None => drop(self.first_links.insert(link_key(node), path.clone())),
            }
        }
        if node.kind != NodeKind::File {
            match place::make_other(self.context, &path, node) {
                Ok(true) => {
                    self.summary.others += 1;
                    self.context.progress.report(Event::Item { path: &path, change: ItemChange::Restored });
                }
                Ok(false) => {}
                Err(error) => self.context.problem(&path, &error),
            }
            return Ok(());
        }
        // A snapshot may name any size.
        self.summary.total_bytes = self.summary.total_bytes.saturating_add(node.size);
        self.batch.blobs += node.blobs().len();
        let directory_is_fresh = path.parent().is_some_and(|parent| self.fresh.contains(parent));
        self.batch.files.push(Chosen { path, node: node.clone(), directory_is_fresh });
        if self.batch.blobs >= BATCH_BLOBS || self.batch.files.len() >= BATCH_FILES {
            self.finish_batch()?;
        }
        Ok(())
    }

    fn finish_batch(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        self.context.progress.report(Event::Total {
            items: self.summary.directories + self.summary.others + batch.files.len() as u64,
            bytes: self.summary.total_bytes,
        });
        // Nobody takes it when writing has failed.
        self.batches.send(batch).map_err(|_| Error::Stopped)
    }
}

fn link_key(node: &Node) -> (u64, u64, u64) {
    let mut hasher = DefaultHasher::new();
    node.content.hash(&mut hasher);
    (node.device_id, node.inode, hasher.finish())
}
