//! Bringing back what a snapshot holds.
//!
//! Directories are gone through while files are written, in batches: a file is opened or made, compared with what is
//! there, given its size. Then packs are read in large pieces, several at once, and each blob is checked and written
//! where it belongs. Metadata come last, those of directories at the very end. All paths are resolved below the target
//! without following any symbolic link.

mod content;
mod direct;
mod metadata;
mod options;
mod owners;
mod place;
mod prepare;
mod target;
mod unfinished;
mod walk;

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

pub use options::{Holes, Overwrite, RestoreLock, RestoreOptions, RestoreSummary};
pub use owners::{OwnerMap, Owners};

use crate::pattern::Patterns;
use crate::problem::ProblemLog;
use crate::{Error, Id, Lock, LockMode, Node, NodeKind, Progress, Result, SnapshotId, Vault};
use direct::BufferPool;
use owners::OwnerRule;
use target::Target;

/// What the threads of one restore share.
struct Context<'a> {
    vault: &'a Vault,
    options: &'a RestoreOptions,
    target: &'a Target,
    progress: &'a dyn Progress,
    problems: ProblemLog<'a>,
    owners: OwnerRule,
    include_attributes: Patterns,
    exclude_attributes: Patterns,
    buffers: BufferPool,
    /// Where only to learn which packs a restore would read: those.
    packs_needed: PacksNeeded,
    files_restored: AtomicU64,
    files_unchanged: AtomicU64,
    bytes_written: AtomicU64,
    is_root: bool,
}

impl Context<'_> {
    fn problem(&self, path: &Path, error: &Error) {
        self.problems.add_vault_error(path, error);
    }

    /// Whether an extended attribute is to be restored.
    fn wants_attribute(&self, name: &std::ffi::OsStr) -> bool {
        let name = Path::new(name);
        (self.include_attributes.is_empty() || self.include_attributes.matches(name))
            && !self.exclude_attributes.matches(name)
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
    run(vault, snapshot, options, None, progress).map(|(summary, _)| summary)
}

/// The packs of file contents that a restore would read, with what is in the target already.
pub fn packs_needed(vault: &Vault, snapshot: &SnapshotId, options: &RestoreOptions) -> Result<BTreeSet<Id>> {
    let options = RestoreOptions { dry_run: true, ..options.clone() };
    let (_, packs) = run(vault, snapshot, &options, Some(Mutex::default()), &())?;
    Ok(packs.map(|packs| packs.into_inner().unwrap_or_else(PoisonError::into_inner)).unwrap_or_default())
}

fn take_lock(vault: &Vault, options: &RestoreOptions) -> Result<Option<Lock>> {
    if options.lock == RestoreLock::None {
        return Ok(None);
    }
    match Lock::take_within(vault, LockMode::Shared, options.patience) {
        Err(error) if options.lock == RestoreLock::IfPossible => {
            tracing::warn!("restoring without a lock: {}", crate::problem::with_sources(&error));
            Ok(None)
        }
        taken => taken.map(Some),
    }
}

type PacksNeeded = Option<Mutex<BTreeSet<Id>>>;

fn run(
    vault: &Vault,
    snapshot: &SnapshotId,
    options: &RestoreOptions,
    packs_needed: PacksNeeded,
    progress: &dyn Progress,
) -> Result<(RestoreSummary, PacksNeeded)> {
    let includes = Patterns::parse(&options.includes)?.and_ignoring_case(&options.includes_ignoring_case)?;
    let excludes = Patterns::parse(&options.excludes)?.and_ignoring_case(&options.excludes_ignoring_case)?;
    let include_attributes = Patterns::parse(&options.include_attributes)?;
    let exclude_attributes = Patterns::parse(&options.exclude_attributes)?;
    let lock = take_lock(vault, options)?;
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
    let target = if options.dry_run { Target::look_at(&options.target)? } else { Target::open(&options.target)? };
    let context = Context {
        vault,
        options,
        target: &target,
        progress,
        problems: ProblemLog::new(progress),
        owners: OwnerRule::new(options.owners, options.owner_map.clone(), options.owner),
        include_attributes,
        exclude_attributes,
        buffers: BufferPool::default(),
        packs_needed,
        files_restored: AtomicU64::new(0),
        files_unchanged: AtomicU64::new(0),
        bytes_written: AtomicU64::new(0),
        is_root: rustix::process::geteuid().is_root(),
    };
    let mut summary = walk::run(&context, includes, excludes, &tree, node)?;
    if options.durable && !options.dry_run {
        // One call for everything: syncing ten thousand files singly takes longer than copying them.
        let synced = target.root().and_then(|root| rustix::fs::syncfs(root.as_fd()));
        synced.map_err(|errno| target.error("sync", Path::new(""), errno.into()))?;
    }
    summary.files_restored = context.files_restored.load(Ordering::Relaxed);
    summary.files_unchanged = context.files_unchanged.load(Ordering::Relaxed);
    summary.bytes_written = context.bytes_written.load(Ordering::Relaxed);
    summary.errors = context.problems.into_problems();
    drop(lock);
    Ok((summary, context.packs_needed))
}
