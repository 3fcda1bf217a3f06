//! A read-only reader of XFS, versions 4 and 5.
//!
//! Source: "XFS Algorithms & Data Structures", the published description of the format. All numbers are
//! big-endian but the checksums. Nothing on the disk is trusted: every offset and count is checked against what
//! it lies in, every checksum of version 5 is verified, and what is wrong is an error with a name.
//!
//! The log is not replayed: a file system that was not unmounted is read as it stands on the disk.

mod bytes;
mod directory;
mod extents;
mod inode;
mod superblock;

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::file_system::{Attributes, DirEntry, FileKind, FileSystem};
use crate::probe::Contents;
use crate::{Error, ReadAt, Result};
use extents::Extent;
use inode::Inode;
use superblock::Superblock;

/// What is wrong with a structure on the disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("{0}")]
    Damaged(String),
    #[error("{0}")]
    Unsupported(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

pub(crate) type Faulty<T> = std::result::Result<T, Fault>;

fn damaged<T>(what: impl Into<String>) -> Faulty<T> {
    Err(Fault::Damaged(what.into()))
}

/// As Linux counts the links that one path may lead through.
const LINKS_MAX: usize = 40;
/// What a link may say.
const LINK_BYTES_MAX: u64 = 1024;

/// An opened file system.
pub(crate) struct Xfs {
    disk: Arc<dyn ReadAt>,
    superblock: Superblock,
    /// The directories that were read last, by the number of their inode.
    directories: Mutex<VecDeque<(u64, Arc<Directory>)>>,
}

/// The inode of each name.
type Directory = BTreeMap<Vec<u8>, u64>;

/// As many as a path is deep, as a rule.
const DIRECTORIES_KEPT: usize = 16;

impl Xfs {
    pub fn open(disk: Arc<dyn ReadAt>) -> Result<Self> {
        let superblock = Superblock::read(&*disk).map_err(|fault| failed(Path::new("/"), fault))?;
        Ok(Self { disk, superblock, directories: Mutex::default() })
    }

    fn directory(&self, inode: &Inode) -> Faulty<Arc<Directory>> {
        // Each change is one push or pop.
        let kept = || self.directories.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, directory)) = kept().iter().find(|(number, _)| *number == inode.number) {
            return Ok(directory.clone());
        }
        let directory = Arc::new(directory::entries(self, inode)?);
        let mut kept = kept();
        kept.push_back((inode.number, directory.clone()));
        if kept.len() > DIRECTORIES_KEPT {
            kept.pop_front();
        }
        Ok(directory)
    }

    fn read(&self, offset: u64, length: usize) -> Faulty<Vec<u8>> {
        if offset.checked_add(length as u64).is_none_or(|end| end > self.disk.size_bytes()) {
            return damaged(format!("it refers to {length} bytes at {offset}, beyond the end"));
        }
        let mut bytes = vec![0; length];
        self.disk.read_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    fn inode(&self, number: u64) -> Faulty<Inode> {
        let offset = self.superblock.inode_offset(number)?;
        let bytes = self.read(offset, self.superblock.inode_bytes)?;
        Inode::parse(&self.superblock, number, bytes)
    }

    /// The inode at a path. Links on the way are followed, the last component is not.
    fn find(&self, path: &Path) -> Result<Inode> {
        let not_found = || Error::NoSuchFile { path: path.to_path_buf() };
        let faulty = |fault| failed(path, fault);
        let mut left: Vec<OsString> = components_of(path).rev().collect();
        // From the root to where the walk stands.
        let mut walked = vec![self.inode(self.superblock.root_inode).map_err(faulty)?];
        let mut links = 0;
        while let Some(name) = left.pop() {
            if name == ".." {
                if walked.len() > 1 {
                    walked.pop();
                }
                continue;
            }
            let Some(here) = walked.last() else { return Err(not_found()) };
            if here.attributes.kind != FileKind::Dir {
                return Err(not_found());
            }
            let entries = self.directory(here).map_err(faulty)?;
            let number = entries.get(name.as_bytes()).ok_or_else(not_found)?;
            let found = self.inode(*number).map_err(faulty)?;
            if found.attributes.kind != FileKind::Symlink || left.is_empty() {
                walked.push(found);
                continue;
            }
            links += 1;
            if links > LINKS_MAX {
                return Err(faulty(Fault::Damaged("its links lead in circles".into())));
            }
            let target = PathBuf::from(OsString::from_vec(self.link_target(&found).map_err(faulty)?));
            if target.is_absolute() {
                walked.truncate(1);
            }
            left.extend(components_of(&target).rev());
        }
        walked.pop().ok_or_else(not_found)
    }

    fn link_target(&self, inode: &Inode) -> Faulty<Vec<u8>> {
        let size = inode.attributes.size_bytes;
        if size > LINK_BYTES_MAX {
            return damaged(format!("a link of {size} bytes"));
        }
        if let Some(inline) = inode.inline() {
            return match inline.get(..size as usize) {
                Some(target) => Ok(target.to_vec()),
                None => damaged("a link that is longer than its place"),
            };
        }
        let mut target = Vec::new();
        for extent in extents::of(self, inode)? {
            let length = (extent.blocks << self.superblock.block_bits).min(64 << 10) as usize;
            let block = self.read(self.superblock.block_offset(extent.start)?, length)?;
            target.extend_from_slice(if self.superblock.has_checksums {
                remote_link_part(&block, inode.number)?
            } else {
                &block
            });
        }
        if (target.len() as u64) < size {
            return damaged("a link whose blocks are missing");
        }
        target.truncate(size as usize);
        Ok(target)
    }
}

/// In version 5 each extent of a link begins with a header.
fn remote_link_part(block: &[u8], inode: u64) -> Faulty<&[u8]> {
    const HEADER_BYTES: usize = 56;
    let length = bytes::u32_at(block, 8)? as usize;
    if !block.starts_with(b"XSLM") || bytes::u64_at(block, 32)? != inode {
        return damaged("a block that should hold its link is another one");
    }
    bytes::verify_checksum(block, 12)?;
    match block.get(HEADER_BYTES..HEADER_BYTES + length) {
        Some(part) => Ok(part),
        None => damaged("a link that is longer than its block"),
    }
}

fn failed(path: &Path, fault: Fault) -> Error {
    Error::FileSystem { path: path.to_path_buf(), reason: fault.to_string() }
}

fn components_of(path: &Path) -> std::vec::IntoIter<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_os_string()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    names.collect::<Vec<_>>().into_iter()
}

impl FileSystem for Xfs {
    fn contents(&self) -> Contents {
        Contents::Xfs
    }

    fn label(&self) -> String {
        self.superblock.label.clone()
    }

    fn attributes(&self, path: &Path) -> Result<Attributes> {
        Ok(self.find(path)?.attributes)
    }

    fn read_dir(&self, path: &Path) -> Result<Vec<DirEntry>> {
        let faulty = |fault| failed(path, fault);
        let inode = self.find(path)?;
        if inode.attributes.kind != FileKind::Dir {
            return Err(Error::WrongKind { path: path.to_path_buf(), wanted: "folder" });
        }
        let mut entries = Vec::new();
        for (name, inode) in self.directory(&inode).map_err(faulty)?.iter() {
            let name = OsStr::from_bytes(name).to_os_string();
            let attributes = self.inode(*inode).map(|inode| inode.attributes);
            let attributes = attributes.map_err(|fault| failed(&path.join(&name), fault));
            entries.push(DirEntry { name, attributes });
        }
        Ok(entries)
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf> {
        let inode = self.find(path)?;
        if inode.attributes.kind != FileKind::Symlink {
            return Err(Error::WrongKind { path: path.to_path_buf(), wanted: "link" });
        }
        let target = self.link_target(&inode).map_err(|fault| failed(path, fault))?;
        Ok(PathBuf::from(OsString::from_vec(target)))
    }

    fn open(&self, path: &Path) -> Result<Box<dyn Read + '_>> {
        let faulty = |fault| failed(path, fault);
        let inode = self.find(path)?;
        if inode.attributes.kind != FileKind::File {
            return Err(Error::WrongKind { path: path.to_path_buf(), wanted: "file" });
        }
        if inode.is_realtime {
            return Err(faulty(Fault::Unsupported("its content is on a realtime device".into())));
        }
        let extents = extents::of(self, &inode).map_err(faulty)?;
        Ok(Box::new(Content { xfs: self, extents, next: 0, offset: 0, size_bytes: inode.attributes.size_bytes }))
    }
}

/// A file's content as a stream.
struct Content<'a> {
    xfs: &'a Xfs,
    /// In the order of their offsets.
    extents: Vec<Extent>,
    /// The first extent that does not end before the offset.
    next: usize,
    offset: u64,
    size_bytes: u64,
}

impl Content<'_> {
    /// How many bytes from here on are alike, and where they are; `None` for zeros.
    fn run(&mut self) -> Faulty<(u64, Option<u64>)> {
        let superblock = &self.xfs.superblock;
        let left = self.size_bytes - self.offset;
        while let Some(extent) = self.extents.get(self.next) {
            let start = extent.offset << superblock.block_bits;
            let end = start + (extent.blocks << superblock.block_bits);
            if end <= self.offset {
                self.next += 1;
                continue;
            }
            if start > self.offset {
                return Ok((left.min(start - self.offset), None));
            }
            let length = left.min(end - self.offset);
            let at = superblock.block_offset(extent.start)? + (self.offset - start);
            return Ok((length, (!extent.is_unwritten).then_some(at)));
        }
        Ok((left, None))
    }
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.offset >= self.size_bytes || buffer.is_empty() {
            return Ok(0);
        }
        let (length, at) = self.run().map_err(io::Error::other)?;
        let count = length.min(buffer.len() as u64) as usize;
        let part = &mut buffer[..count];
        match at {
            Some(at) => self.xfs.disk.read_at(part, at)?,
            None => part.fill(0),
        }
        self.offset += count as u64;
        Ok(count)
    }
}
