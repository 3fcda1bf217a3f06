//! Storing what is not on a disk: a stream of files becomes a snapshot.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

use crate::accounts::Whoami;
use crate::chunker::Chunker;
use crate::file_time::LocalTime;
use crate::session::{ClosedContent, Content, Session, SessionOptions};
use crate::{
    BackupSummary, BlobKind, Chunking, Compression, Error, FileTime, Id, ItemChange, Lock, LockMode, Node, NodeKind,
    Result, Snapshot, SnapshotId, Tree, Vault,
};

/// What a snapshot is to say about itself.
#[derive(Clone, Debug, Default)]
pub struct SnapshotOptions {
    /// This machine's name when it is not given.
    pub host: Option<String>,
    pub tags: Vec<String>,
    /// What the snapshot is shown as; nothing is read from there.
    pub paths: Vec<PathBuf>,
    /// Now when it is not given.
    pub time: Option<Timestamp>,
    /// The snapshot that this one was compared with.
    pub parent: Option<SnapshotId>,
    pub compression: Compression,
    /// Read and compare, but store nothing; `finish` then makes no snapshot.
    pub dry_run: bool,
    /// How long to wait for others' locks.
    pub patience: Duration,
    /// Vaults that new data go to at the same time. `copy` makes the snapshot there.
    pub side_by_side: Vec<Vault>,
}

/// Permissions, owner and time of something that is stored from a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeMeta {
    /// At most 0o7777.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub user: String,
    pub group: String,
    pub mtime: FileTime,
}

impl NodeMeta {
    pub fn new(mode: u32, mtime: Timestamp) -> Self {
        Self { mode, uid: 0, gid: 0, user: String::new(), group: String::new(), mtime: mtime.into() }
    }

    fn node(&self, kind: NodeKind) -> Node {
        Node {
            uid: self.uid,
            gid: self.gid,
            user: self.user.clone(),
            group: self.group.clone(),
            mtime: self.mtime,
            atime: self.mtime,
            ctime: self.mtime,
            ..Node::new(OsString::new(), kind, self.mode & 0o7777)
        }
    }
}

/// Permissions of directories that nobody described.
const DIRECTORY_MODE: u32 = 0o755;

/// Stores files as they come, in any order. Without `finish` there is no snapshot.
pub struct SnapshotWriter {
    pub(crate) vault: Vault,
    options: SnapshotOptions,
    pub(crate) session: Session,
    lock: Option<Lock>,
    chunker: Chunker,
    root: Directory,
    summary: BackupSummary,
}

#[derive(Default)]
struct Directory {
    meta: Option<NodeMeta>,
    entries: BTreeMap<OsString, Entry>,
}

enum Entry {
    Directory(Directory),
    File(Node, ClosedContent),
    Other(Node),
}

impl SnapshotWriter {
    /// Takes a shared lock and starts the pipeline.
    pub fn begin(vault: &Vault, options: SnapshotOptions) -> Result<Self> {
        let SnapshotOptions { compression, dry_run, patience, .. } = options;
        let lock = if dry_run { None } else { Some(Lock::take_within(vault, LockMode::Shared, patience)?) };
        vault.refresh_index()?;
        let session = Session::begin(vault, SessionOptions { compression, dry_run }, &options.side_by_side)?;
        let summary = BackupSummary::new(Timestamp::now());
        Ok(Self {
            vault: vault.clone(),
            options,
            session,
            lock,
            chunker: Chunker::new(),
            root: Directory::default(),
            summary,
        })
    }

    /// Describes a directory. The directories above it need not be described.
    pub fn directory(&mut self, path: &Path, meta: &NodeMeta) -> Result<()> {
        let names = names_of(path)?;
        descend(&mut self.root, &names, path)?.meta = Some(meta.clone());
        Ok(())
    }

    /// Stores a file's content and gives its length in bytes. Waits while the pipeline is full.
    pub fn file(&mut self, path: &Path, meta: &NodeMeta, content: &mut dyn Read, chunking: Chunking) -> Result<u64> {
        let names = names_of(path)?;
        // Before anything is read: what stands there already is not stored twice.
        self.place(path, &names)?;
        self.chunker.reset(chunking);
        let mut stored = Content::new();
        let mut bytes = 0;
        loop {
            let mut chunk = self.session.shared.chunk_buffers.take();
            let more = self
                .chunker
                .next(content, &mut chunk)
                .map_err(|source| Error::Source { path: path.to_path_buf(), source })?;
            if !more {
                break;
            }
            bytes += chunk.len() as u64;
            self.session.add_chunk(&mut stored, chunk).map_err(|error| self.failure(error))?;
        }
        let mut node = meta.node(NodeKind::File);
        node.size = bytes;
        node.links = 1;
        self.summary.files_new += 1;
        self.summary.total_files += 1;
        self.summary.total_bytes += bytes;
        self.insert(path, &names, |name| Entry::File(Node { name, ..node }, stored.close()))?;
        Ok(bytes)
    }

    /// Takes a file over as it stands in another snapshot of this vault. False when not all of its data are here to stay:
    /// then it is to be stored anew.
    pub fn known_file(&mut self, path: &Path, known: &Node) -> Result<bool> {
        let names = names_of(path)?;
        for blob in known.blobs() {
            if !self.vault.has_blob_to_stay(BlobKind::Data, blob)? {
                return Ok(false);
            }
        }
        self.insert(path, &names, |name| Entry::Other(Node { name, ..known.clone() }))?;
        self.summary.files_unmodified += 1;
        self.summary.total_files += 1;
        self.summary.total_bytes += known.size;
        Ok(true)
    }

    /// Stores a symbolic link.
    pub fn symlink(&mut self, path: &Path, target: &Path, meta: &NodeMeta) -> Result<()> {
        let names = names_of(path)?;
        let mut node = meta.node(NodeKind::Symlink);
        node.link_target = target.as_os_str().to_os_string();
        node.links = 1;
        self.insert(path, &names, |name| Entry::Other(Node { name, ..node }))
    }

    /// Puts everything together: packs, index and snapshot, each durable before the next.
    pub fn finish(self) -> Result<BackupSummary> {
        let Self { vault, options, session, lock, root, mut summary, .. } = self;
        let tree = match store_directory(&session, root, &mut summary) {
            Ok(tree) => tree,
            Err(error) => return Err(session.abort(error)),
        };
        summary.set_added(session.finish()?);
        summary.ended_at = Timestamp::now();
        summary.parent = options.parent;
        let Some(lock) = lock else { return Ok(summary) };
        lock.check()?;
        let Whoami { hostname, username, uid, gid } = Whoami::now();
        let time = options.time.unwrap_or(summary.started_at);
        let snapshot = Snapshot {
            time,
            offset: LocalTime::offset_here(time),
            parent: options.parent.map(|id| id.0),
            tree: Some(tree),
            paths: options.paths.iter().map(|path| path.to_string_lossy().into_owned()).collect(),
            hostname: options.host.unwrap_or(hostname),
            username,
            uid,
            gid,
            excludes: Vec::new(),
            tags: options.tags,
            original: None,
            program_version: crate::PROGRAM_VERSION.into(),
            summary: Some(summary.for_snapshot()),
        };
        summary.snapshot_id = Some(vault.write_snapshot(snapshot)?);
        Ok(summary)
    }

    /// Puts an image, whose tree is stored, at its absolute path.
    pub(crate) fn insert_image(&mut self, path: &Path, node: Node) -> Result<()> {
        let names = names_of(path.strip_prefix("/").unwrap_or(path))?;
        self.insert(path, &names, |name| Entry::Other(Node { name, ..node }))
    }

    pub(crate) fn count_image(&mut self, change: ItemChange, bytes: u64) {
        match change {
            ItemChange::New => self.summary.files_new += 1,
            ItemChange::Unmodified => self.summary.files_unmodified += 1,
            _ => self.summary.files_changed += 1,
        }
        self.summary.total_files += 1;
        self.summary.total_bytes += bytes;
    }

    /// What ended the pipeline, rather than that it has ended.
    pub(crate) fn failure(&self, error: Error) -> Error {
        self.session.shared.take_failure().unwrap_or(error)
    }

    /// The directory and the name of a new entry.
    fn place(&mut self, path: &Path, names: &[OsString]) -> Result<(&mut Directory, OsString)> {
        let Some((name, above)) = names.split_last() else { return Err(invalid(path, "it has no name")) };
        let directory = descend(&mut self.root, above, path)?;
        if directory.entries.contains_key(name) {
            return Err(invalid(path, "it was already stored"));
        }
        Ok((directory, name.clone()))
    }

    fn insert(&mut self, path: &Path, names: &[OsString], entry: impl FnOnce(OsString) -> Entry) -> Result<()> {
        let (directory, name) = self.place(path, names)?;
        directory.entries.insert(name.clone(), entry(name));
        Ok(())
    }
}

fn invalid(path: &Path, reason: &'static str) -> Error {
    Error::InvalidPath { path: path.to_path_buf(), reason }
}

/// The parts of a relative path.
fn names_of(path: &Path) -> Result<Vec<OsString>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.to_os_string()),
            Component::CurDir => {}
            _ => return Err(invalid(path, "it must be relative and without \"..\"")),
        }
    }
    Ok(names)
}

fn descend<'a>(mut directory: &'a mut Directory, names: &[OsString], path: &Path) -> Result<&'a mut Directory> {
    for name in names {
        let entry = directory.entries.entry(name.clone()).or_insert_with(|| Entry::Directory(Directory::default()));
        directory = match entry {
            Entry::Directory(directory) => directory,
            _ => return Err(invalid(path, "a part of it is a file")),
        };
    }
    Ok(directory)
}

/// Stores a directory and everything below it, the lowest first, and gives its tree.
fn store_directory(session: &Session, directory: Directory, summary: &mut BackupSummary) -> Result<Id> {
    let mut nodes = Vec::with_capacity(directory.entries.len());
    for (name, entry) in directory.entries {
        nodes.push(match entry {
            Entry::Other(node) => node,
            Entry::File(node, content) => {
                let (blobs, _) = content.wait()?;
                Node { content: Some(blobs), ..node }
            }
            Entry::Directory(mut directory) => {
                summary.dirs_new += 1;
                let meta = directory.meta.take().unwrap_or_else(|| NodeMeta::new(DIRECTORY_MODE, summary.started_at));
                let subtree = store_directory(session, directory, summary)?;
                Node { name, subtree: Some(subtree), ..meta.node(NodeKind::Dir) }
            }
        });
    }
    session.add_tree(Tree::new(nodes))
}
