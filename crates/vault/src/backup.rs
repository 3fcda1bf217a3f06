//! Making a snapshot of files.

mod files;
mod listing;
mod markers;
mod metadata;
mod scan;
mod targets;
mod trees;
mod walk;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::bounded;
use jiff::Timestamp;
use levee_store::Parallelism;

pub use markers::Marker;
pub(crate) use metadata::distrust_if_just_changed;

use crate::accounts::{Accounts, Whoami};
use crate::file_time::LocalTime;
use crate::forget::GroupBy;
use crate::parallel::compute_threads;
use crate::pattern::Patterns;
use crate::problem::ProblemLog;
use crate::session::{Session, SessionOptions};
use crate::{
    BackupSummary, Compression, Error, Id, Lock, LockMode, Progress, Result, Snapshot, SnapshotId, SnapshotSelection,
    Vault,
};
use targets::Targets;

/// Files that wait for a reader.
const FILES_WAITING: usize = 256;
/// Each reader has a buffer of 16 MiB.
const READERS_MAX: usize = 64;
/// Directories whose files are under way.
const DIRECTORIES_WAITING: usize = 64;

/// What to back up, and how.
#[derive(Clone, Debug, Default)]
pub struct BackupOptions {
    /// Files and directories. An absolute path keeps its place in the snapshot from the root on.
    pub paths: Vec<PathBuf>,
    /// This machine's name when it is not given.
    pub host: Option<String>,
    pub tags: Vec<String>,
    /// One more tag for a snapshot that lacks what could not be read: this, a colon, and how many sources that were.
    pub incomplete_tag: Option<String>,
    /// Patterns as restic's `--exclude` has them.
    pub excludes: Vec<String>,
    /// The same without regard to capitals.
    pub excludes_ignoring_case: Vec<String>,
    /// What is in a directory with one of these is left out, but for the marker itself.
    pub exclude_if_present: Vec<Marker>,
    /// Larger files are left out.
    pub exclude_larger_than: Option<u64>,
    /// What to compare with; the newest snapshot of the same group when it is not given.
    pub parent: Option<SnapshotId>,
    pub group_by: GroupBy,
    /// Count beside the backup what there is to do, and report the total.
    pub scan: bool,
    /// Read every file, whatever the parent says.
    pub force: bool,
    /// Take a file for unchanged although its inode number or its time of status change differs.
    pub ignore_inode: bool,
    /// Take a file for unchanged although its time of status change differs.
    pub ignore_ctime: bool,
    /// How many files are read at once. When it is not given, as many as there are cores, or as suits a disk that
    /// turns.
    pub read_concurrency: Option<usize>,
    /// The snapshot's time; now when it is not given.
    pub time: Option<Timestamp>,
    /// Stay on the file systems of the paths.
    pub one_file_system: bool,
    /// Read and compare, but store nothing.
    pub dry_run: bool,
    /// Make no snapshot when nothing differs from the parent.
    pub skip_if_unchanged: bool,
    /// Store the times of last access, which change with every reading.
    pub with_atime: bool,
    pub compression: Compression,
    /// How long to wait for others' locks.
    pub patience: Duration,
    /// Vaults that new data go to at the same time. `copy` makes the snapshot there.
    pub side_by_side: Vec<Vault>,
}

/// What the threads of one backup share.
struct Context<'a> {
    vault: &'a Vault,
    session: &'a Session,
    options: &'a BackupOptions,
    excludes: Patterns,
    accounts: Accounts,
    progress: &'a dyn Progress,
    problems: ProblemLog<'a>,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    files_new: AtomicU64,
    files_changed: AtomicU64,
    files_unmodified: AtomicU64,
    dirs_new: AtomicU64,
    dirs_changed: AtomicU64,
    dirs_unmodified: AtomicU64,
    total_files: AtomicU64,
    total_bytes: AtomicU64,
}

impl Counts {
    fn add(counter: &AtomicU64, value: u64) {
        counter.fetch_add(value, Ordering::Relaxed);
    }

    fn write_to(&self, summary: &mut BackupSummary) {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        summary.files_new = get(&self.files_new);
        summary.files_changed = get(&self.files_changed);
        summary.files_unmodified = get(&self.files_unmodified);
        summary.dirs_new = get(&self.dirs_new);
        summary.dirs_changed = get(&self.dirs_changed);
        summary.dirs_unmodified = get(&self.dirs_unmodified);
        summary.total_files = get(&self.total_files);
        summary.total_bytes = get(&self.total_bytes);
    }
}

/// Makes a snapshot of files and directories.
///
/// What cannot be read is left out and said in the summary; what vanishes while it is read is left out.
/// Any other failure ends the backup without a snapshot.
pub fn backup(vault: &Vault, options: &BackupOptions, progress: &dyn Progress) -> Result<BackupSummary> {
    let mut summary = BackupSummary::new(Timestamp::now());
    let excludes = Patterns::parse(&options.excludes)?.and_ignoring_case(&options.excludes_ignoring_case)?;
    let whoami = Whoami::now();
    let host = options.host.clone().unwrap_or_else(|| whoami.hostname.clone());
    let paths = options.paths.iter().map(|path| absolute(path)).collect::<Result<Vec<_>>>()?;
    let problems = ProblemLog::new(progress);
    let targets = Targets::look_at(&options.paths, &problems)?;

    let lock = if options.dry_run { None } else { Some(Lock::take_within(vault, LockMode::Shared, options.patience)?) };
    let parent = find_parent(vault, options.parent, &same_origin(options, &host, &paths))?;
    vault.refresh_index()?;
    let session_options = SessionOptions { compression: options.compression, dry_run: options.dry_run };
    let session = Session::begin(vault, session_options, &options.side_by_side)?;
    let context = Context {
        vault,
        session: &session,
        options,
        excludes,
        accounts: Accounts::load(),
        progress,
        problems,
        counts: Counts::default(),
    };
    let parent_tree = parent.as_ref().and_then(|(_, snapshot)| snapshot.tree);
    let stored = store_tree(&context, &targets, parent_tree.filter(|_| !options.force));
    context.counts.write_to(&mut summary);
    summary.errors = context.problems.into_problems();
    let tree = match stored {
        Ok(tree) => tree,
        Err(error) => return Err(session.abort(error)),
    };
    summary.set_added(session.finish()?);
    summary.ended_at = Timestamp::now();
    summary.parent = parent.as_ref().map(|(id, _)| *id);
    let unchanged = parent_tree == Some(tree);
    let Some(lock) = lock.filter(|_| !(options.skip_if_unchanged && unchanged)) else { return Ok(summary) };
    lock.check()?;
    let time = options.time.unwrap_or(summary.started_at);
    let mut tags = options.tags.clone();
    let incomplete_tag = options.incomplete_tag.as_ref().filter(|_| !summary.errors.is_empty());
    tags.extend(incomplete_tag.map(|tag| format!("{tag}:{}", summary.errors.count)));
    let snapshot = Snapshot {
        time,
        offset: LocalTime::offset_here(time),
        parent: summary.parent.map(|id| id.0),
        tree: Some(tree),
        paths: paths.iter().map(|path| path.to_string_lossy().into_owned()).collect(),
        hostname: host,
        username: whoami.username,
        uid: whoami.uid,
        gid: whoami.gid,
        excludes: options.excludes.clone(),
        tags,
        original: None,
        program_version: crate::PROGRAM_VERSION.into(),
        summary: Some(summary.for_snapshot()),
    };
    summary.snapshot_id = Some(vault.write_snapshot(snapshot)?);
    Ok(summary)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|source| Error::Source { path: path.to_path_buf(), source })
}

/// The snapshots of the same origin, among which the newest is compared with.
fn same_origin(options: &BackupOptions, host: &str, paths: &[PathBuf]) -> SnapshotSelection {
    let GroupBy { host: by_host, paths: by_paths, tags: by_tags } = options.group_by;
    SnapshotSelection {
        hosts: if by_host { vec![host.into()] } else { Vec::new() },
        paths: if by_paths { paths.to_vec() } else { Vec::new() },
        tag_lists: if by_tags { vec![options.tags.clone()] } else { Vec::new() },
        ids: Vec::new(),
    }
}

/// The snapshot to compare with: the one that was asked for, or the newest of these.
pub(crate) fn find_parent(
    vault: &Vault,
    wanted: Option<SnapshotId>,
    among: &SnapshotSelection,
) -> Result<Option<(SnapshotId, Snapshot)>> {
    if let Some(id) = wanted {
        return Ok(Some((id, vault.read_snapshot(&id)?)));
    }
    match vault.find_snapshot("latest", among) {
        Ok(found) => Ok(Some(found)),
        Err(Error::SnapshotNotFound { .. }) => Ok(None),
        // A damaged snapshot must not keep new ones from being made: everything is read instead.
        Err(error @ Error::Damaged { .. }) => {
            tracing::warn!(%error, "no parent to compare with");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn readers(options: &BackupOptions) -> usize {
    let suitable = || options.paths.iter().map(|path| Parallelism::of_path(path).readers).min();
    let readers = options.read_concurrency.unwrap_or_else(|| compute_threads().min(suitable().unwrap_or(1)));
    readers.clamp(1, READERS_MAX)
}

/// Walks the sources, reads what has changed, and stores the directories, each in threads of its own.
fn store_tree(context: &Context<'_>, targets: &Targets, parent: Option<Id>) -> Result<Id> {
    let (files, next_file) = bounded(FILES_WAITING);
    let (directories, next_directory) = bounded(DIRECTORIES_WAITING);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        if context.options.scan {
            scope.spawn(|| scan::scan(context, targets, &is_over));
        }
        for _ in 0..readers(context.options) {
            let next_file = next_file.clone();
            scope.spawn(move || files::read_files(context, &next_file));
        }
        drop(next_file);
        let builder = scope.spawn(move || trees::build_trees(context, &next_directory));
        let walked = walk::Walk { context, files, directories }.run(targets, parent);
        is_over.store(true, Ordering::Relaxed);
        let built = builder.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        walked?;
        built
    })
}
