//! The kernel's questions, and where their answers come from.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::convert::Infallible;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags,
    ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyXattr, Request,
};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::MountOptions;
use super::attributes::{file_type, made_up, of_node};
use super::inodes::{Inodes, Item};
use super::large_trees::LargeTrees;
use super::layout::{Layout, Place};
use crate::blob_cache::BlobCache;
use crate::{BlobKind, Error, Id, Node, NodeKind, Result, Tree, Vault};

/// Snapshots never change, so that the kernel may keep what it knows of them.
const FOR_LONG: Duration = Duration::from_secs(3600);
/// The directories above them do.
const FOR_NOW: Duration = Duration::from_secs(1);
/// How often it is looked for new snapshots.
const REFRESH_EVERY: Duration = Duration::from_secs(10);
/// A number for entries that were listed and not looked up, as libfuse has it.
const UNKNOWN: u64 = 0xffff_ffff;

pub(super) struct VaultFilesystem {
    vault: Vault,
    options: MountOptions,
    mounted_at: Timestamp,
    layout: Mutex<(Instant, Arc<Layout>)>,
    inodes: Mutex<Inodes>,
    /// Files that are open: their blobs with the offsets where each ends.
    files: Mutex<HashMap<u64, Arc<OpenFile>>>,
    next_file: AtomicU64,
    blobs: Mutex<BlobCache>,
    large_trees: Mutex<LargeTrees>,
    /// Nothing is sent: the other end sees when nobody is served any more.
    _serving: Sender<Infallible>,
}

struct OpenFile {
    blobs: Vec<Id>,
    ends: Vec<u64>,
}

/// A thread that panicked has left the maps behind these locks whole: each change is one insertion.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the kernel is told of an error; the log has the rest.
fn errno(error: &Error) -> Errno {
    match error {
        Error::SnapshotNotFound { .. } | Error::PathNotFound { .. } => Errno::ENOENT,
        error => {
            tracing::warn!(%error, "the mounted vault cannot be read");
            Errno::EIO
        }
    }
}

impl VaultFilesystem {
    /// `serving` is held for as long as something may be asked.
    pub fn new(vault: Vault, options: &MountOptions, serving: Sender<Infallible>) -> Result<Self> {
        let filesystem = Self {
            vault,
            options: options.clone(),
            mounted_at: Timestamp::now(),
            layout: Mutex::new((Instant::now(), Arc::default())),
            inodes: Mutex::new(Inodes::new()),
            files: Mutex::new(HashMap::new()),
            next_file: AtomicU64::new(1),
            blobs: Mutex::new(BlobCache::default()),
            large_trees: Mutex::default(),
            _serving: serving,
        };
        *locked(&filesystem.layout) = (Instant::now(), filesystem.new_layout()?);
        Ok(filesystem)
    }

    fn new_layout(&self) -> Result<Arc<Layout>> {
        let mut snapshots = self.vault.list_snapshots()?.readable;
        snapshots.retain(|(_, snapshot)| self.options.selection.matches(snapshot));
        let MountOptions { templates, time_template, .. } = &self.options;
        Ok(Arc::new(Layout::new(&snapshots, templates, time_template, &TimeZone::system())))
    }

    fn layout(&self) -> Arc<Layout> {
        let mut layout = locked(&self.layout);
        if layout.0.elapsed() >= REFRESH_EVERY {
            match self.new_layout() {
                Ok(new) => layout.1 = new,
                // What is known stays readable while the store is not.
                Err(error) => tracing::warn!(%error, "cannot look for new snapshots"),
            }
            layout.0 = Instant::now();
        }
        layout.1.clone()
    }

    fn item(&self, number: INodeNo) -> Result<Item, Errno> {
        locked(&self.inodes).item(number.0).ok_or(Errno::ENOENT)
    }

    fn tree(&self, id: &Id) -> Result<Arc<Tree>, Errno> {
        if let Some(tree) = locked(&self.large_trees).get(id) {
            return Ok(tree);
        }
        let tree = self.vault.tree(id).map_err(|error| errno(&error))?;
        if !self.vault.keeps_tree(id) {
            locked(&self.large_trees).insert(*id, tree.clone());
        }
        Ok(tree)
    }

    /// What is wanted of an entry of a tree. The whole is not copied: the list of a large file's blobs is long.
    fn of_entry<T>(&self, tree: &Id, name: &OsStr, wanted: impl FnOnce(&Node) -> T) -> Result<T, Errno> {
        let tree = self.tree(tree)?;
        tree.find(name).map(wanted).ok_or(Errno::ENOENT)
    }

    fn of_number<T>(&self, number: INodeNo, wanted: impl FnOnce(&Node) -> T) -> Result<T, Errno> {
        match self.item(number)? {
            Item::Node { tree, name } => self.of_entry(&tree, &name, wanted),
            _ => Err(Errno::ENODATA),
        }
    }

    /// The tree of a directory in a snapshot; `None` for those above.
    fn tree_of(&self, item: &Item) -> Result<Option<Id>, Errno> {
        match item {
            Item::Above(_) => Ok(None),
            Item::Link(_) => Err(Errno::ENOTDIR),
            Item::Snapshot(id) => self.vault.root_of(id).map(Some).map_err(|error| errno(&error)),
            Item::Node { tree, name } => {
                self.of_entry(tree, name, |node| node.subtree)?.map(Some).ok_or(Errno::ENOTDIR)
            }
        }
    }

    fn attributes(&self, number: u64, item: &Item) -> Result<FileAttr, Errno> {
        match item {
            Item::Above(_) => Ok(made_up(number, FileType::Directory, 0, self.mounted_at)),
            Item::Link(to) => Ok(made_up(number, FileType::Symlink, to.len() as u64, self.mounted_at)),
            Item::Snapshot(id) => {
                let snapshot = self.vault.read_snapshot(id).map_err(|error| errno(&error))?;
                Ok(made_up(number, FileType::Directory, 0, snapshot.time))
            }
            Item::Node { tree, name } => {
                let attributes = |node: &Node| self.node_attributes(number, node);
                self.of_entry(tree, name, attributes)?.ok_or(Errno::ENOENT)
            }
        }
    }

    /// `None` for what cannot be shown.
    fn node_attributes(&self, number: u64, node: &Node) -> Option<FileAttr> {
        let size = match node.kind {
            NodeKind::Symlink => node.link_target.len() as u64,
            _ => node.size,
        };
        of_node(number, node, size, self.options.owner_root)
    }

    /// An entry of a directory, with attributes that lack its number: it is given out when all else is known, so that an
    /// entry that cannot be shown gets none.
    fn child(&self, parent: &Item, name: &OsStr) -> Result<(Item, FileAttr), Errno> {
        if let Some(tree) = self.tree_of(parent)? {
            // Both at once: in a large directory each search counts.
            let attributes = self.of_entry(&tree, name, |node| self.node_attributes(UNKNOWN, node))?;
            return Ok((Item::Node { tree, name: name.to_os_string() }, attributes.ok_or(Errno::ENOENT)?));
        }
        let Item::Above(path) = parent else { return Err(Errno::ENOTDIR) };
        let (layout, name) = (self.layout(), name.to_str().ok_or(Errno::ENOENT)?);
        let item = match layout.directory(path).and_then(|directory| directory.get(name)).ok_or(Errno::ENOENT)? {
            Place::Directory if path.is_empty() => Item::Above(name.into()),
            Place::Directory => Item::Above(format!("{path}/{name}")),
            Place::Snapshot(id) => Item::Snapshot(*id),
            Place::Link(to) => Item::Link(to.clone()),
        };
        let attributes = self.attributes(UNKNOWN, &item)?;
        Ok((item, attributes))
    }

    /// Hands on the entries of a directory from a position on, until `add` says that it is enough.
    fn list(
        &self,
        item: &Item,
        from: usize,
        mut add: impl FnMut(usize, FileType, &OsStr) -> bool,
    ) -> Result<(), Errno> {
        if let Some(tree) = self.tree_of(item)? {
            let tree = self.tree(&tree)?;
            let mut nodes = tree.nodes().iter().enumerate().skip(from);
            nodes.any(|(position, node)| file_type(node.kind).is_some_and(|kind| add(position, kind, &node.name)));
            return Ok(());
        }
        let Item::Above(path) = item else { return Err(Errno::ENOTDIR) };
        let layout = self.layout();
        let mut places = layout.directory(path).ok_or(Errno::ENOENT)?.iter().enumerate().skip(from);
        let kind = |place: &Place| match place {
            Place::Directory | Place::Snapshot(_) => FileType::Directory,
            Place::Link(_) => FileType::Symlink,
        };
        places.any(|(position, (name, place))| add(position, kind(place), OsStr::new(name)));
        Ok(())
    }

    fn open_file(&self, number: INodeNo) -> Result<OpenFile, Errno> {
        let blobs = |node: &Node| (node.kind == NodeKind::File).then(|| node.blobs().to_vec());
        let blobs = self.of_number(number, blobs)?.ok_or(Errno::EISDIR)?;
        let mut ends = Vec::with_capacity(blobs.len());
        let mut end = 0_u64;
        for id in &blobs {
            let location = self.vault.blob_location(BlobKind::Data, id).map_err(|error| errno(&error))?;
            end = end.saturating_add(location.blob.plaintext_length());
            ends.push(end);
        }
        Ok(OpenFile { blobs, ends })
    }

    fn blob(&self, id: &Id) -> Result<Arc<Vec<u8>>, Errno> {
        if let Some(blob) = locked(&self.blobs).get(id) {
            return Ok(blob);
        }
        let blob = Arc::new(self.vault.read_blob(BlobKind::Data, id).map_err(|error| errno(&error))?);
        locked(&self.blobs).insert(*id, blob.clone());
        Ok(blob)
    }

    fn read_file(&self, file: &OpenFile, offset: u64, size: usize) -> Result<Vec<u8>, Errno> {
        let mut content = Vec::with_capacity(size.min(1 << 20));
        let mut position = offset;
        let first = file.ends.partition_point(|end| *end <= offset);
        for (number, id) in file.blobs.iter().enumerate().skip(first) {
            if content.len() >= size {
                break;
            }
            let start = number.checked_sub(1).map_or(0, |before| file.ends[before]);
            let blob = self.blob(id)?;
            let from = usize::try_from(position - start).unwrap_or(usize::MAX).min(blob.len());
            let count = (size - content.len()).min(blob.len() - from);
            content.extend_from_slice(&blob[from..from + count]);
            position = file.ends[number];
        }
        Ok(content)
    }

    fn attribute(&self, number: INodeNo, name: &OsStr) -> Result<Vec<u8>, Errno> {
        let value = |node: &Node| {
            let found = node.extended_attributes.iter().find(|attribute| attribute.name == name);
            found.map(|attribute| attribute.value.clone())
        };
        self.of_number(number, value)?.ok_or(Errno::ENODATA)
    }

    fn attribute_names(&self, number: INodeNo) -> Result<Vec<u8>, Errno> {
        let names = |node: &Node| {
            let mut names = Vec::new();
            for attribute in &node.extended_attributes {
                names.extend_from_slice(attribute.name.as_bytes());
                names.push(0);
            }
            names
        };
        match self.of_number(number, names) {
            Err(Errno::ENODATA) => Ok(Vec::new()),
            names => names,
        }
    }
}

/// The kernel asks first how long an answer is, and then for the answer.
fn reply_sized(content: Result<Vec<u8>, Errno>, size: u32, reply: ReplyXattr) {
    match content {
        Err(errno) => reply.error(errno),
        Ok(content) if size == 0 => reply.size(content.len() as u32),
        Ok(content) if content.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(content) => reply.data(&content),
    }
}

impl Filesystem for VaultFilesystem {
    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.item(parent).and_then(|above| self.child(&above, name)) {
            Ok((item, mut attributes)) => {
                let known_for = if matches!(item, Item::Node { .. }) { FOR_LONG } else { FOR_NOW };
                attributes.ino = INodeNo(locked(&self.inodes).look_up(parent.0, name, item));
                reply.entry(&known_for, &attributes, Generation(0));
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn forget(&self, _request: &Request, number: INodeNo, lookups: u64) {
        locked(&self.inodes).forget(number.0, lookups);
    }

    fn getattr(&self, _request: &Request, number: INodeNo, _file: Option<FileHandle>, reply: ReplyAttr) {
        match self.item(number).and_then(|item| self.attributes(number.0, &item)) {
            Ok(attributes) => reply.attr(&FOR_NOW, &attributes),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, _request: &Request, number: INodeNo, reply: ReplyData) {
        match self.item(number) {
            Ok(Item::Link(to)) => reply.data(to.as_bytes()),
            Ok(Item::Node { tree, name }) => {
                let target = |node: &Node| (node.kind == NodeKind::Symlink).then(|| node.link_target.clone());
                match self.of_entry(&tree, &name, target) {
                    Ok(Some(target)) => reply.data(target.as_bytes()),
                    Ok(None) => reply.error(Errno::EINVAL),
                    Err(errno) => reply.error(errno),
                }
            }
            Ok(_) => reply.error(Errno::EINVAL),
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, _request: &Request, number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.open_file(number) {
            Ok(file) => {
                let handle = self.next_file.fetch_add(1, Ordering::Relaxed);
                locked(&self.files).insert(handle, Arc::new(file));
                reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _request: &Request,
        _number: INodeNo,
        file: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let file = locked(&self.files).get(&file.0).cloned();
        match file.ok_or(Errno::EBADF).and_then(|file| self.read_file(&file, offset, size as usize)) {
            Ok(content) => reply.data(&content),
            Err(errno) => reply.error(errno),
        }
    }

    fn release(
        &self,
        _request: &Request,
        _number: INodeNo,
        file: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        locked(&self.files).remove(&file.0);
        reply.ok();
    }

    fn readdir(&self, _request: &Request, number: INodeNo, _file: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        // Each entry's position is that of the one behind it, the first two are the dots.
        const DOTS: usize = 2;
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let parent = locked(&self.inodes).parent(number.0);
        for (position, (number, name)) in [(number.0, "."), (parent, "..")].into_iter().enumerate().skip(from) {
            if reply.add(INodeNo(number), position as u64 + 1, FileType::Directory, name) {
                return reply.ok();
            }
        }
        let mut add = |position: usize, kind: FileType, name: &OsStr| {
            reply.add(INodeNo(UNKNOWN), (position + DOTS + 1) as u64, kind, name)
        };
        match self.item(number).and_then(|item| self.list(&item, from.saturating_sub(DOTS), &mut add)) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn getxattr(&self, _request: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        reply_sized(self.attribute(number, name), size, reply);
    }

    fn listxattr(&self, _request: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        reply_sized(self.attribute_names(number), size, reply);
    }
}
