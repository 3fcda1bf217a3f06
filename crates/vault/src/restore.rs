//! Bringing back what a snapshot holds.
//!
//! Files are prepared in batches: opened or made, compared with what is there, given their size. Then the
//! packs are read in large pieces, several at once, and each blob is checked and written where it belongs.
//! Metadata come last, those of directories at the very end. All paths are resolved below the target
//! without following any symbolic link.

mod content;
mod metadata;
mod place;
mod prepare;
mod target;

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::pattern::Patterns;
use crate::problem::{ProblemLog, with_sources};
use crate::{
    Error, Event, Id, ItemChange, Lock, LockMode, Node, NodeKind, Problems, Progress, Result, SnapshotId, Vault,
};
use target::Target;

/// So many blobs are planned at a time: some 40 MB of plan.
const BATCH_BLOBS: usize = 400_000;
const BATCH_FILES: usize = 50_000;

/// What happens to files that are there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overwrite {
    /// Their content is compared, and what differs is written.
    #[default]
    Always,
    /// As `Always`, but a file of the same size and time of change is taken for equal.
    IfChanged,
    /// Only when the snapshot's file is newer.
    IfNewer,
    Never,
}

/// What to restore, and how.
#[derive(Clone, Debug, Default)]
pub struct RestoreOptions {
    /// Made when it isn't there.
    pub target: PathBuf,
    /// Restore what this directory of the snapshot holds straight into the target.
    pub subfolder: Option<PathBuf>,
    /// Patterns as restic's `--include` has them; none means everything.
    pub includes: Vec<String>,
    /// Patterns as restic's `--exclude` has them.
    pub excludes: Vec<String>,
    pub overwrite: Overwrite,
    /// Make holes of zeros.
    pub sparse: bool,
    /// Read everything again in the end and compare.
    pub verify: bool,
    /// Remove what the snapshot doesn't have, within what the patterns choose.
    pub delete: bool,
    /// Give everything to this user and group, rather than to those of the snapshot.
    pub owner: Option<(u32, u32)>,
    /// Return only when everything is on the disk.
    pub durable: bool,
    /// Take no lock, for repositories that cannot be written to.
    pub no_lock: bool,
}

/// How a restore went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RestoreSummary {
    pub directories: u64,
    pub files_restored: u64,
    /// Files that needed nothing, or were to be left alone.
    pub files_unchanged: u64,
    pub files_deleted: u64,
    /// Symbolic links, hard links, devices and FIFOs.
    pub others: u64,
    pub total_bytes: u64,
    pub bytes_written: u64,
    /// What could not be restored.
    pub errors: Problems,
}

/// What the threads of one restore share.
struct Context<'a> {
    vault: &'a Vault,
    options: &'a RestoreOptions,
    target: &'a Target,
    progress: &'a dyn Progress,
    problems: ProblemLog<'a>,
    files_restored: AtomicU64,
    files_unchanged: AtomicU64,
    bytes_written: AtomicU64,
    is_root: bool,
}

impl Context<'_> {
    fn problem(&self, path: &Path, error: &Error) {
        self.problems.add(path, with_sources(error));
    }
}

/// Restores a snapshot. What cannot be restored is said in the summary; damage to the repository that
/// concerns single files is among it.
pub fn restore(
    vault: &Vault,
    snapshot: &SnapshotId,
    options: &RestoreOptions,
    progress: &dyn Progress,
) -> Result<RestoreSummary> {
    let lock = if options.no_lock { None } else { Some(Lock::take(vault, LockMode::Shared)?) };
    let includes = Patterns::parse(&options.includes)?;
    let excludes = Patterns::parse(&options.excludes)?;
    let subfolder = options.subfolder.clone().unwrap_or_default();
    let node = vault.find_node(snapshot, &subfolder)?;
    // Snapshots before the index: what a snapshot names was indexed before it was written.
    vault.refresh_index()?;
    let tree = match &node {
        None => vault.root_of(snapshot)?,
        Some(Node { subtree: Some(subtree), kind: NodeKind::Dir, .. }) => *subtree,
        Some(_) => {
            return Err(Error::WrongNodeKind { snapshot: snapshot.short(), path: subfolder, wanted: "directory" });
        }
    };
    let target = Target::open(&options.target)?;
    let context = Context {
        vault,
        options,
        target: &target,
        progress,
        problems: ProblemLog::new(progress),
        files_restored: AtomicU64::new(0),
        files_unchanged: AtomicU64::new(0),
        bytes_written: AtomicU64::new(0),
        is_root: rustix::process::geteuid().is_root(),
    };
    let mut run = Run {
        context: &context,
        includes,
        excludes,
        batch: Batch::default(),
        directories: Vec::new(),
        first_links: HashMap::new(),
        summary: RestoreSummary::default(),
    };
    if let Some(node) = node {
        run.directories.push((PathBuf::new(), node));
    }
    run.directory(&tree, &mut Vec::new(), Path::new(""), &subfolder, false)?;
    run.finish_batch()?;
    for (path, node) in run.directories.drain(..).rev() {
        metadata::apply_to_directory(&context, &path, &node);
    }
    let mut summary = run.summary;
    if options.durable {
        // One call for everything: syncing ten thousand files singly takes longer than copying them.
        let synced = rustix::fs::syncfs(target.root().as_fd());
        synced.map_err(|errno| target.error("sync", Path::new(""), errno.into()))?;
    }
    summary.files_restored = context.files_restored.load(Ordering::Relaxed);
    summary.files_unchanged = context.files_unchanged.load(Ordering::Relaxed);
    summary.bytes_written = context.bytes_written.load(Ordering::Relaxed);
    summary.errors = context.problems.into_problems();
    drop(lock);
    Ok(summary)
}

/// Files whose content is restored together.
#[derive(Default)]
struct Batch {
    files: Vec<(PathBuf, Node)>,
    blobs: usize,
    /// Further names of files that are restored under another: (name, first name).
    hard_links: Vec<(PathBuf, PathBuf)>,
}

struct Run<'a> {
    context: &'a Context<'a>,
    includes: Patterns,
    excludes: Patterns,
    batch: Batch,
    /// Directories whose metadata are set in the end, outer ones first.
    directories: Vec<(PathBuf, Node)>,
    /// The first name of each file with several: by file system and inode.
    first_links: HashMap<(u64, u64), PathBuf>,
    summary: RestoreSummary,
}

impl Run<'_> {
    /// Restores what a directory holds. `pending` are the directories above that are made only when
    /// something in them is chosen.
    fn directory(
        &mut self,
        tree: &Id,
        pending: &mut Vec<(PathBuf, Node)>,
        path: &Path,
        source: &Path,
        above_is_included: bool,
    ) -> Result<()> {
        let tree = match self.context.vault.tree(tree) {
            Ok(tree) => tree,
            Err(error) => {
                self.context.problem(path, &error);
                return Ok(());
            }
        };
        for node in tree.nodes() {
            let (path, source) = (path.join(&node.name), source.join(&node.name));
            if !self.excludes.is_empty() && self.excludes.matches(&source) {
                continue;
            }
            let included = above_is_included || self.includes.is_empty() || self.includes.matches(&source);
            if node.kind == NodeKind::Dir {
                let Some(subtree) = node.subtree else {
                    self.context.problems.add(&path, "the directory has no content in the snapshot".into());
                    continue;
                };
                pending.push((path.clone(), node.clone()));
                if included {
                    self.make_directories(pending);
                }
                self.directory(&subtree, pending, &path, &source, included)?;
                // Still there when nothing in it was chosen.
                pending.pop_if(|(last, _)| *last == path);
            } else if included {
                self.make_directories(pending);
                self.leaf(path, node)?;
            }
        }
        if self.context.options.delete {
            let wanted = |name: &std::ffi::OsStr| {
                let source = source.join(name);
                let chosen = above_is_included || self.includes.is_empty() || self.includes.matches(&source);
                tree.find(name).is_some() || !chosen || self.excludes.matches(&source)
            };
            self.summary.files_deleted += place::remove_unwanted(self.context, path, &wanted);
        }
        Ok(())
    }

    fn make_directories(&mut self, pending: &mut Vec<(PathBuf, Node)>) {
        for (path, node) in pending.drain(..) {
            match place::make_directory(self.context, &path) {
                Ok(()) => {
                    self.summary.directories += 1;
                    self.directories.push((path, node));
                }
                Err(error) => self.context.problem(&path, &error),
            }
        }
    }

    /// Anything but a directory.
    fn leaf(&mut self, path: PathBuf, node: &Node) -> Result<()> {
        let has_several_names = node.links > 1 && node.kind == NodeKind::File;
        if has_several_names {
            match self.first_links.get(&(node.device_id, node.inode)) {
                Some(first) => {
                    self.batch.hard_links.push((path, first.clone()));
                    return Ok(());
                }
                None => drop(self.first_links.insert((node.device_id, node.inode), path.clone())),
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
        self.summary.total_bytes += node.size;
        self.batch.blobs += node.blobs().len();
        self.batch.files.push((path, node.clone()));
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
        let files = prepare::prepare(self.context, batch.files);
        content::write(self.context, &files)?;
        prepare::check_complete(self.context, &files);
        for (path, first) in batch.hard_links {
            match place::make_hard_link(self.context, &path, &first) {
                Ok(()) => self.summary.others += 1,
                Err(error) => self.context.problem(&path, &error),
            }
        }
        Ok(())
    }
}
