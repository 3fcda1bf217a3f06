//! Storing images: cut at fixed places, holes never read.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use levee_image::{BackingFiles, Extent, Format, ReadAt, Source, SparseRead};

use super::layout::{DESCRIPTION_NAME, SEGMENT_FILE, segment_name};
use super::read::Image;
use crate::accounts::{Accounts, Whoami};
use crate::backup::{distrust_if_just_changed, find_parent};
use crate::chunker::{ZERO_CHUNK_BYTES, is_hole, zero_chunk_id};
use crate::problem::ProblemLog;
use crate::session::{ClosedContent, Content, Session};
use crate::{
    BackupSummary, BlobKind, Error, Event, FileTime, Id, ImageDescription, ItemChange, Node, NodeKind, NodeMeta,
    Progress, Result, SnapshotId, SnapshotOptions, SnapshotSelection, SnapshotWriter, Tree, Vault,
};

/// Segments whose last chunks are under way while the next one is read.
const SEGMENTS_PENDING: usize = 2;
/// Looked at and read at once; a multiple of every chunk's size, and what restic makes a hole of.
const BLOCK_BYTES: u64 = ZERO_CHUNK_BYTES as u64;

/// Which images to back up, and how.
#[derive(Clone, Debug, Default)]
pub struct ImageBackupOptions {
    /// Raw files, block devices and qcow2 images.
    pub images: Vec<PathBuf>,
    /// What they are, where that is not to be found out from what they begin with.
    pub format: Option<Format>,
    pub backing: BackingFiles,
    /// What to compare with; the newest snapshot of the same host and images when it is not given.
    pub parent: Option<SnapshotId>,
    /// Read everything, whatever the parent says.
    pub force: bool,
    /// `paths` and `parent` are set from the above.
    pub snapshot: SnapshotOptions,
}

/// Makes a snapshot of disk images. What cannot be read ends it without a snapshot.
pub fn backup_images(vault: &Vault, options: &ImageBackupOptions, progress: &dyn Progress) -> Result<BackupSummary> {
    let absolute =
        |path: &PathBuf| std::path::absolute(path).map_err(|source| Error::Source { path: path.clone(), source });
    let paths = options.images.iter().map(absolute).collect::<Result<Vec<_>>>()?;
    // All are looked at before the first is read for hours.
    let open = |path: &PathBuf| Source::open(path, options.format, options.backing);
    let sources = paths.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let host = options.snapshot.host.clone().unwrap_or_else(|| Whoami::now().hostname);
    let among = SnapshotSelection { hosts: vec![host.clone()], paths: paths.clone(), ..SnapshotSelection::default() };
    let parent = find_parent(vault, options.parent, &among)?.map(|(id, _)| id);
    let snapshot = SnapshotOptions { host: Some(host), paths, parent, ..options.snapshot.clone() };
    let mut writer = SnapshotWriter::begin(vault, snapshot)?;
    let bytes = sources.iter().map(ReadAt::size_bytes).sum();
    progress.report(Event::Total { items: sources.len() as u64, bytes });
    let problems = ProblemLog::new(progress);
    for source in &sources {
        let known = parent.and_then(|parent| known_image(vault, &parent, source.path()));
        writer.image(source, known.as_ref(), options.force, progress, &problems)?;
    }
    let mut summary = writer.finish()?;
    summary.errors = problems.into_problems();
    Ok(summary)
}

/// A parent that cannot be read costs reading the image, not the backup.
fn known_image(vault: &Vault, parent: &SnapshotId, path: &Path) -> Option<Image> {
    match Image::open(vault, parent, path) {
        Ok(image) => Some(image),
        Err(Error::ImageNotFound { .. }) => None,
        Err(error) => {
            tracing::warn!(%error, "cannot compare with the parent");
            None
        }
    }
}

impl SnapshotWriter {
    /// Stores an image at its absolute path.
    fn image(
        &mut self,
        source: &Source,
        known: Option<&Image>,
        force: bool,
        progress: &dyn Progress,
        problems: &ProblemLog<'_>,
    ) -> Result<()> {
        let path = source.path();
        let look = || std::fs::metadata(path).map_err(|source| Error::Source { path: path.to_path_buf(), source });
        let (before, read_at) = (look()?, SystemTime::now());
        let mut node = directory_of(&before);
        let size_bytes = source.size_bytes();
        let known_description = known.map(Image::description);
        let description = ImageDescription::new(path, size_bytes, source.format(), known_description);
        let unchanged = known.filter(|image| {
            !force
                && source.times_can_be_trusted()
                && *image.description() == description
                && is_same(image.node(), &node)
        });
        let stored_before = match unchanged {
            Some(image) => segments_of(&self.session, &self.vault, image)?,
            None => None,
        };
        let (segments, change) = match stored_before {
            Some(segments) => {
                progress.report(Event::Bytes(size_bytes));
                (segments, ItemChange::Unmodified)
            }
            None => {
                let mut cutter = Cutter::new(&self.session, source, description.chunk_bytes, progress);
                let segments = (|| {
                    let mut segments = Segments::new(&self.session, description.segments());
                    for number in 0..description.segments() {
                        let start = number * description.segment_bytes;
                        segments.add(cutter.cut(start, start + description.segment_length(number))?)?;
                    }
                    segments.finish()
                })();
                (
                    segments.map_err(|error| self.failure(error))?,
                    if known.is_some() { ItemChange::Changed } else { ItemChange::New },
                )
            }
        };
        if change != ItemChange::Unmodified && source.times_can_be_trusted() && !is_same(&directory_of(&look()?), &node)
        {
            problems.add(
                path,
                "it was written to while it was read: what was stored may be of several moments; stop what uses it, or \
                 take a snapshot of the disk and back up that"
                    .into(),
            );
        }
        distrust_if_just_changed(&mut node, read_at);
        let tree = store_directory(&self.session, &description, segments).map_err(|error| self.failure(error))?;
        self.describe_folders_above(path)?;
        self.insert_image(path, Node { subtree: Some(tree), ..node })?;
        self.count_image(change, size_bytes);
        progress.report(Event::Item { path, change });
        Ok(())
    }

    /// As they are on the disk, so that their trees stay the same from one backup to the next.
    fn describe_folders_above(&mut self, path: &Path) -> Result<()> {
        for folder in path.ancestors().skip(1) {
            let (Ok(metadata), Ok(inside)) = (std::fs::metadata(folder), folder.strip_prefix("/")) else { continue };
            if !inside.as_os_str().is_empty() {
                let node = directory_of(&metadata);
                let Node { uid, gid, user, group, mtime, .. } = node;
                let mode = metadata.mode() & 0o7777;
                self.directory(inside, &NodeMeta { mode, uid, gid, user, group, mtime })?;
            }
        }
        Ok(())
    }
}

/// The directory that an image becomes: with the owner and times of the file, readable by its owner alone.
fn directory_of(metadata: &Metadata) -> Node {
    let accounts = Accounts::load();
    let time = |seconds, nanoseconds| FileTime::new(seconds, u32::try_from(nanoseconds).unwrap_or(0));
    let mtime = time(metadata.mtime(), metadata.mtime_nsec());
    Node {
        uid: metadata.uid(),
        gid: metadata.gid(),
        user: accounts.user(metadata.uid()),
        group: accounts.group(metadata.gid()),
        mtime,
        atime: mtime,
        ctime: time(metadata.ctime(), metadata.ctime_nsec()),
        inode: metadata.ino(),
        device_id: metadata.dev(),
        ..Node::new(OsString::new(), NodeKind::Dir, 0o700)
    }
}

/// Whether the file shows no sign of having been written to.
fn is_same(known: &Node, now: &Node) -> bool {
    known.mtime == now.mtime && known.ctime == now.ctime && known.inode == now.inode
}

/// The trees of an image that was stored before. `None` when something of it is not there to stay.
fn segments_of(session: &Session, vault: &Vault, image: &Image) -> Result<Option<Vec<Id>>> {
    let mut segments = Vec::with_capacity(image.segment_trees().len());
    for (number, id) in (0..).zip(image.segment_trees()) {
        let segment = match image.segment(number) {
            Ok(segment) => segment,
            Err(Error::MissingBlob { .. } | Error::DamagedImage { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let is_there =
            |index: &crate::index::Index| segment.blobs.iter().all(|blob| index.contains_to_stay(BlobKind::Data, blob));
        if !vault.with_index(is_there)? {
            return Ok(None);
        }
        if vault.has_blob_to_stay(BlobKind::Tree, id)? {
            segments.push(*id);
        } else {
            segments.push(session.add_tree(Tree::clone(&*vault.tree(id)?))?);
        }
    }
    Ok(Some(segments))
}

/// Reads a source block by block and hands its chunks to the pipeline.
struct Cutter<'a> {
    session: &'a Session,
    source: &'a Source,
    chunk_bytes: usize,
    progress: &'a dyn Progress,
    /// The blob of a whole block of zeros.
    zeros: Id,
    zeros_are_stored: bool,
    /// What was last heard of where the source has nothing: valid up to the offset.
    extent: (Extent, u64),
    block: Vec<u8>,
}

impl<'a> Cutter<'a> {
    fn new(session: &'a Session, source: &'a Source, chunk_bytes: u32, progress: &'a dyn Progress) -> Self {
        Self {
            session,
            source,
            chunk_bytes: chunk_bytes as usize,
            progress,
            zeros: zero_chunk_id(),
            zeros_are_stored: false,
            extent: (Extent::Data, 0),
            block: Vec::new(),
        }
    }

    /// One segment.
    fn cut(&mut self, start: u64, end: u64) -> Result<ClosedContent> {
        let mut content = Content::new();
        let mut offset = start;
        while offset < end {
            let length = BLOCK_BYTES.min(end - offset);
            if length == BLOCK_BYTES && (self.is_hole(offset)? || self.reads_as_zeros(offset)?) {
                self.add_zeros(&mut content)?;
            } else {
                if length < BLOCK_BYTES {
                    self.read(offset, length)?;
                }
                for chunk in self.block.chunks(self.chunk_bytes) {
                    let mut buffer = self.session.shared.chunk_buffers.take();
                    buffer.clear();
                    buffer.extend_from_slice(chunk);
                    self.session.add_chunk(&mut content, buffer)?;
                }
            }
            self.progress.report(Event::Bytes(length));
            offset += length;
        }
        Ok(content.close())
    }

    fn failed(&self, offset: u64, error: std::io::Error) -> Error {
        let message = format!("at byte {offset}: {error}");
        Error::Source { path: self.source.path().to_path_buf(), source: std::io::Error::new(error.kind(), message) }
    }

    /// Whether the source has nothing in the whole block.
    fn is_hole(&mut self, offset: u64) -> Result<bool> {
        let end = offset + BLOCK_BYTES;
        let mut at = offset;
        while at < end {
            if self.extent.1 <= at {
                self.extent = self.source.extent_at(at).map_err(|error| self.failed(at, error))?;
            }
            if self.extent.0 == Extent::Data || self.extent.1 <= at {
                return Ok(false);
            }
            at = self.extent.1;
        }
        Ok(true)
    }

    fn reads_as_zeros(&mut self, offset: u64) -> Result<bool> {
        self.read(offset, BLOCK_BYTES)?;
        Ok(is_hole(&self.block))
    }

    fn read(&mut self, offset: u64, length: u64) -> Result<()> {
        self.block.resize(length as usize, 0);
        self.source.read_at(&mut self.block, offset).map_err(|error| self.failed(offset, error))
    }

    /// The first block of zeros goes through the pipeline, the others are known by then.
    fn add_zeros(&mut self, content: &mut Content) -> Result<()> {
        if self.zeros_are_stored {
            self.session.repeat_chunk(content, self.zeros, BLOCK_BYTES)
        } else {
            self.zeros_are_stored = true;
            self.session.add_chunk(content, vec![0; ZERO_CHUNK_BYTES])
        }
    }
}

/// Makes trees of segments whose chunks have gone through.
struct Segments<'a> {
    session: &'a Session,
    pending: VecDeque<ClosedContent>,
    done: Vec<Id>,
}

impl<'a> Segments<'a> {
    fn new(session: &'a Session, count: u64) -> Self {
        Self { session, pending: VecDeque::new(), done: Vec::with_capacity(count as usize) }
    }

    fn add(&mut self, content: ClosedContent) -> Result<()> {
        self.pending.push_back(content);
        if self.pending.len() > SEGMENTS_PENDING { self.store_next() } else { Ok(()) }
    }

    fn finish(mut self) -> Result<Vec<Id>> {
        while !self.pending.is_empty() {
            self.store_next()?;
        }
        Ok(self.done)
    }

    fn store_next(&mut self) -> Result<()> {
        let Some(content) = self.pending.pop_front() else { return Ok(()) };
        let (blobs, bytes) = content.wait()?;
        let node = Node { size: bytes, content: Some(blobs), ..plain_file(SEGMENT_FILE) };
        self.done.push(self.session.add_tree(Tree::new(vec![node]))?);
        Ok(())
    }
}

/// A file that says nothing of when and by whom it was stored.
fn plain_file(name: &str) -> Node {
    Node { links: 1, ..Node::new(name.into(), NodeKind::File, 0o600) }
}

fn store_directory(session: &Session, description: &ImageDescription, segments: Vec<Id>) -> Result<Id> {
    let json = crate::vault::to_json(description)?;
    let (id, size) = (Id::of(&json), json.len() as u64);
    session.add_blob(BlobKind::Data, id, json)?;
    let mut nodes = vec![Node { size, content: Some(vec![id]), ..plain_file(DESCRIPTION_NAME) }];
    nodes.extend((0..).zip(segments).map(|(number, tree)| Node {
        subtree: Some(tree),
        ..Node::new(segment_name(number).into(), NodeKind::Dir, 0o700)
    }));
    session.add_tree(Tree::new(nodes))
}
