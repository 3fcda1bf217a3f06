//! qcow2 images, versions 2 and 3.
//!
//! Source: "The QCOW2 Image Format" in QEMU's documentation. A disk is cut into clusters; a table of two levels says
//! where each lies. Every cluster of the file has a count of who refers to it. Nothing read is trusted: each number is
//! checked against what it lies in.
//!
//! We write as QEMU does, with the order that keeps the image sound when we are stopped: a cluster is counted, filled,
//! and only then referred to. What is left over at worst is a counted cluster that nothing refers to.

mod counts;
mod header;
mod tables;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::read_at::check_range;
use crate::{BackingFiles, Error, Extent, ReadAt, Result, Source};
use counts::Counts;
use header::{Compression, Header};
use tables::{Entry, Tables};

/// Images that stand on each other; more are a circle.
const BACKING_FILES_MAX: u32 = 16;

/// An opened image.
#[derive(Debug)]
pub(crate) struct Qcow2Image {
    file: File,
    header: Header,
    /// Protects the tables and, in a writer, that a cluster is got only once.
    state: Mutex<State>,
    backing: Option<Box<Source>>,
}

#[derive(Debug)]
struct State {
    tables: Tables,
    /// Of an image that is written.
    counts: Option<Counts>,
}

/// What is wrong with a structure in the file.
fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the qcow2 image is damaged: {what}"))
}

impl Qcow2Image {
    /// `depth` counts the images that stand on this one.
    pub fn open_at_depth(path: &Path, follow: BackingFiles, depth: u32) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let header = Header::read(&file, path)?;
        let backing = match (header.backing_file(&file, path)?, follow) {
            (None, _) => None,
            (Some(_), BackingFiles::Refuse) => {
                let reason = "holds only what differs from a backing file: say --follow-backing-files if that file is to \
                              be trusted, or flatten it with `qemu-img convert -O qcow2`";
                return Err(Error::Unsupported { path: path.to_path_buf(), reason: reason.into() });
            }
            (Some(_), BackingFiles::Follow) if depth == BACKING_FILES_MAX => {
                let reason = "stands on more images than can be followed".into();
                return Err(Error::Unsupported { path: path.to_path_buf(), reason });
            }
            (Some((backing, format)), BackingFiles::Follow) => {
                Some(Box::new(Source::open_at_depth(&backing, format, follow, depth + 1)?))
            }
        };
        Self::with(file, header, backing, false).map_err(Error::io("open", path))
    }

    /// For writing. An image over a backing file is not written to.
    pub fn open_for_writing(path: &Path) -> Result<Self> {
        let file = File::options().read(true).write(true).open(path).map_err(Error::io("open for writing", path))?;
        let header = Header::read(&file, path)?;
        header.check_writable(&file, path)?;
        Self::with(file, header, None, true).map_err(Error::io("open for writing", path))
    }

    /// A new image of this virtual size, nothing of it allocated. What is there already is an error.
    pub fn create(path: &Path, size_bytes: u64) -> Result<Self> {
        let file = File::options().create_new(true).read(true).write(true).open(path);
        Self::format(file.map_err(Error::io("create", path))?, path, size_bytes)
    }

    /// Makes an image in an empty file.
    pub fn create_in_empty(path: &Path, size_bytes: u64) -> Result<Self> {
        let file = File::options().read(true).write(true).open(path);
        Self::format(file.map_err(Error::io("open for writing", path))?, path, size_bytes)
    }

    fn format(file: File, path: &Path, size_bytes: u64) -> Result<Self> {
        let header = Header::write_new(&file, size_bytes).map_err(Error::io("create", path))?;
        Self::with(file, header, None, true).map_err(Error::io("create", path))
    }

    fn with(file: File, header: Header, backing: Option<Box<Source>>, writable: bool) -> io::Result<Self> {
        let tables = Tables::read(&file, &header)?;
        let counts = if writable { Some(Counts::read(&file, &header)?) } else { None };
        Ok(Self { file, header, state: Mutex::new(State { tables, counts }), backing })
    }

    pub fn has_backing_file(&self) -> bool {
        self.backing.is_some()
    }

    /// A thread that panicked has left whole tables behind: each change is written before it is kept.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, cluster: u64) -> io::Result<Entry> {
        self.state().tables.entry(&self.file, &self.header, cluster)
    }

    /// What lies at an offset, and up to where.
    pub fn extent_at(&self, offset: u64) -> io::Result<(Extent, u64)> {
        let size = self.header.size_bytes;
        if offset >= size {
            return Ok((Extent::Data, size));
        }
        let kind_of = |entry| match entry {
            Entry::Zero { .. } => Extent::Zero,
            Entry::Absent if self.backing.is_none() => Extent::Zero,
            _ => Extent::Data,
        };
        let mut cluster = offset >> self.header.cluster_bits;
        let kind = kind_of(self.entry(cluster)?);
        loop {
            cluster += 1;
            let end = cluster << self.header.cluster_bits;
            if end >= size {
                return Ok((kind, size));
            }
            if kind_of(self.entry(cluster)?) != kind {
                return Ok((kind, end));
            }
        }
    }

    fn read_cluster_part(&self, entry: Entry, cluster: u64, inside: usize, part: &mut [u8]) -> io::Result<()> {
        match entry {
            Entry::Zero { .. } => part.fill(0),
            Entry::Data { offset, .. } => read_or_zeros(&self.file, part, offset + inside as u64)?,
            Entry::Compressed { offset, length } => {
                let whole = self.decompress(offset, length)?;
                part.copy_from_slice(&whole[inside..inside + part.len()]);
            }
            Entry::Absent => match &self.backing {
                None => part.fill(0),
                Some(backing) => {
                    let offset = (cluster << self.header.cluster_bits) + inside as u64;
                    // A smaller disk below reads as zeros behind its end.
                    let there = backing.size_bytes().saturating_sub(offset).min(part.len() as u64) as usize;
                    part[there..].fill(0);
                    backing.read_at(&mut part[..there], offset)?;
                }
            },
        }
        Ok(())
    }

    fn decompress(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut stored = vec![0; length];
        // The length is counted in sectors, of which the file may lack the last ones.
        read_or_zeros(&self.file, &mut stored, offset)?;
        let cluster_bytes = self.header.cluster_bytes();
        let mut whole = Vec::with_capacity(cluster_bytes);
        let read = match self.header.compression {
            Compression::Deflate => io::Read::read_to_end(
                &mut io::Read::take(flate2::read::DeflateDecoder::new(&stored[..]), cluster_bytes as u64),
                &mut whole,
            ),
            Compression::Zstd => {
                let decoder = zstd::stream::read::Decoder::new(&stored[..])?.single_frame();
                io::Read::read_to_end(&mut io::Read::take(decoder, cluster_bytes as u64), &mut whole)
            }
        };
        match read {
            Ok(_) if whole.len() == cluster_bytes => Ok(whole),
            _ => Err(damaged("a compressed cluster does not decompress to its size")),
        }
    }

    /// Splits a range at the borders of clusters.
    fn parts(&self, offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
        let (bits, cluster_bytes) = (self.header.cluster_bits, self.header.cluster_bytes());
        let mut done = 0;
        std::iter::from_fn(move || {
            let at = offset + done as u64;
            let inside = (at & (cluster_bytes as u64 - 1)) as usize;
            let count = (cluster_bytes - inside).min(length - done);
            let range = done..done + count;
            done += count;
            (count > 0).then_some((at >> bits, inside, range))
        })
    }

    pub fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        check_range(self.header.size_bytes, offset, bytes.len())?;
        for (cluster, inside, range) in self.parts(offset, bytes.len()) {
            self.write_cluster_part(cluster, inside, &bytes[range])?;
        }
        Ok(())
    }

    fn write_cluster_part(&self, cluster: u64, inside: usize, part: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let State { tables, counts } = &mut *state;
        let Some(counts) = counts else { return Err(io::ErrorKind::ReadOnlyFilesystem.into()) };
        let before = tables.entry(&self.file, &self.header, cluster)?;
        if let Entry::Data { offset, is_own: true } = before {
            return self.file.write_all_at(part, offset + inside as u64);
        }
        // The rest of the cluster comes along.
        let mut whole = vec![0; self.header.cluster_bytes()];
        if part.len() < whole.len() {
            let bytes = whole.len();
            self.read_cluster_part(before, cluster, 0, &mut whole[..bytes])?;
        }
        whole[inside..inside + part.len()].copy_from_slice(part);
        let offset = counts.allocate(&self.file, &self.header)?;
        self.file.write_all_at(&whole, offset)?;
        tables.set(&self.file, &self.header, counts, cluster, Entry::Data { offset, is_own: true })?;
        counts.release(&self.file, &self.header, before)
    }

    /// Whole clusters are given back, parts are overwritten.
    pub fn write_zeros(&self, offset: u64, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        check_range(self.header.size_bytes, offset, length)?;
        let cluster_bytes = self.header.cluster_bytes();
        for (cluster, inside, range) in self.parts(offset, length) {
            let entry = self.entry(cluster)?;
            let is_last = (cluster << self.header.cluster_bits) + range.len() as u64 == self.header.size_bytes;
            if matches!(entry, Entry::Absent | Entry::Zero { .. }) {
                continue;
            }
            if inside > 0 || (range.len() < cluster_bytes && !is_last) {
                self.write_cluster_part(cluster, inside, &vec![0; range.len()])?;
                continue;
            }
            let mut state = self.state();
            let State { tables, counts } = &mut *state;
            let Some(counts) = counts else { return Err(io::ErrorKind::ReadOnlyFilesystem.into()) };
            tables.set(&self.file, &self.header, counts, cluster, Entry::Absent)?;
            counts.release(&self.file, &self.header, entry)?;
        }
        Ok(())
    }

    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Lets the system forget what it knows of the file, so that it is read from the disk next.
    pub fn drop_cache(&self) {
        // Advice; without it the cache is read.
        let _ = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed);
    }
}

/// What lies behind the end of the file reads as zeros.
fn read_or_zeros(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match file.read_at(buffer, offset) {
            Ok(0) => {
                buffer.fill(0);
                break;
            }
            Ok(count) => {
                buffer = &mut buffer[count..];
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl ReadAt for Qcow2Image {
    fn size_bytes(&self) -> u64 {
        self.header.size_bytes
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        check_range(self.header.size_bytes, offset, buffer.len())?;
        for (cluster, inside, range) in self.parts(offset, buffer.len()) {
            let entry = self.entry(cluster)?;
            self.read_cluster_part(entry, cluster, inside, &mut buffer[range])?;
        }
        Ok(())
    }
}
