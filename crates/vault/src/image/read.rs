//! A stored image, read at any position.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use levee_image::ReadAt;

use super::layout::{SEGMENT_FILE, StoredImage, segment_name};
use crate::blob_cache::BlobCache;
use crate::pack::PackedBlob;
use crate::pack_reader::read_blobs;
use crate::parallel::{compute_threads, parallel_map};
use crate::vault::BLOB_BYTES_MAX;
use crate::{BlobKind, Error, Id, ImageDescription, Node, NodeKind, Result, SnapshotId, Vault};

/// Segments whose lists of blobs are kept: 600 KB each at most.
const SEGMENTS_KEPT: usize = 8;

/// An image in a snapshot, opened.
pub struct Image {
    vault: Vault,
    stored: StoredImage,
    /// The tree of each segment's directory.
    segments: Vec<Id>,
    open: Mutex<VecDeque<(u64, Arc<Segment>)>>,
    blobs: Mutex<BlobCache>,
    met_frozen: AtomicBool,
}

/// The blobs of one segment.
pub(super) struct Segment {
    pub blobs: Vec<Id>,
    /// Where each blob ends in the segment.
    ends: Vec<u64>,
}

/// A blob in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub id: Id,
    /// In the image.
    pub offset: u64,
    pub length: u64,
}

fn damaged_segment(image: &Path, number: u64, reason: &str) -> Error {
    Error::DamagedImage { path: image.to_path_buf(), reason: format!("{} {reason}", segment_name(number)) }
}

impl Segment {
    /// From the tree of its directory and the index: nothing of its content is read.
    pub fn load(vault: &Vault, image: &Path, tree: &Id, number: u64) -> Result<Self> {
        let damaged = |reason: &str| damaged_segment(image, number, reason);
        let tree = vault.tree(tree)?;
        let file = tree.find(OsStr::new(SEGMENT_FILE)).filter(|node| node.kind == NodeKind::File);
        let file = file.ok_or_else(|| damaged("has no content"))?;
        let mut end = 0_u64;
        let mut ends = Vec::with_capacity(file.blobs().len());
        for id in file.blobs() {
            let length = vault.blob_location(BlobKind::Data, id)?.blob.plaintext_length();
            // Before memory of that size is asked for.
            if length > BLOB_BYTES_MAX {
                return Err(damaged("has a blob of an impossible length"));
            }
            end += length;
            ends.push(end);
        }
        Ok(Self { blobs: file.blobs().to_vec(), ends })
    }

    pub fn length(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Its blobs with their places in the image, when it begins at `start`.
    pub fn pieces(&self, start: u64) -> Vec<Piece> {
        self.pieces_in(0, u64::MAX).map(|piece| Piece { offset: piece.offset + start, ..piece }).collect()
    }

    /// The blobs that a range of the segment touches, with their places in the segment.
    fn pieces_in(&self, from: u64, to: u64) -> impl Iterator<Item = Piece> {
        let first = self.ends.partition_point(|end| *end <= from);
        let start = first.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let mut offset = start;
        self.blobs[first..].iter().zip(&self.ends[first..]).map_while(move |(id, end)| {
            let piece = Piece { id: *id, offset, length: end - offset };
            offset = *end;
            (piece.offset < to).then_some(piece)
        })
    }
}

/// What is behind these locks is whole after each call.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Image {
    /// Opens the image of this name: its path, or its file name where only one has that.
    pub fn open(vault: &Vault, snapshot: &SnapshotId, name: &Path) -> Result<Self> {
        let stored = vault.find_image(snapshot, name)?;
        // Snapshots before the index: what a snapshot names was indexed before it was written.
        vault.refresh_index()?;
        Self::of(vault, stored)
    }

    pub(super) fn of(vault: &Vault, stored: StoredImage) -> Result<Self> {
        let damaged = |reason: String| Error::DamagedImage { path: stored.path.clone(), reason };
        let Some(tree) = stored.node.subtree else { return Err(damaged("it is no directory".into())) };
        let tree = vault.tree(&tree)?;
        let segment = |number: u64| {
            let name = segment_name(number);
            let node = tree.find(OsStr::new(&name)).and_then(|node| node.subtree);
            node.ok_or_else(|| damaged(format!("{name} is missing")))
        };
        let segments = (0..stored.description.segments()).map(segment).collect::<Result<_>>()?;
        let (open, blobs) = (Mutex::default(), Mutex::default());
        let met_frozen = AtomicBool::new(false);
        Ok(Self { vault: vault.clone(), stored, segments, open, blobs, met_frozen })
    }

    /// Where it is in the snapshot.
    pub fn path(&self) -> &Path {
        &self.stored.path
    }

    pub fn description(&self) -> &ImageDescription {
        &self.stored.description
    }

    pub(super) fn node(&self) -> &Node {
        &self.stored.node
    }

    pub(super) fn segment_trees(&self) -> &[Id] {
        &self.segments
    }

    pub(super) fn segment(&self, number: u64) -> Result<Arc<Segment>> {
        if let Some((_, segment)) = locked(&self.open).iter().find(|(known, _)| *known == number) {
            return Ok(segment.clone());
        }
        let segment = Arc::new(self.load_segment(number)?);
        let mut open = locked(&self.open);
        open.push_back((number, segment.clone()));
        if open.len() > SEGMENTS_KEPT {
            open.pop_front();
        }
        Ok(segment)
    }

    fn load_segment(&self, number: u64) -> Result<Segment> {
        let damaged = |reason: &str| damaged_segment(&self.stored.path, number, reason);
        let tree = usize::try_from(number).ok().and_then(|number| self.segments.get(number));
        let tree = tree.ok_or_else(|| damaged("is missing"))?;
        let segment = Segment::load(&self.vault, &self.stored.path, tree, number)?;
        if segment.length() != self.stored.description.segment_length(number) {
            return Err(damaged(&format!("has {} bytes, which is not its length", segment.length())));
        }
        Ok(segment)
    }

    /// The blobs of a segment with their places in the image.
    pub(super) fn pieces(&self, number: u64) -> Result<Vec<Piece>> {
        let start = number * self.stored.description.segment_bytes;
        Ok(self.segment(number)?.pieces(start))
    }

    /// Whether something that was read of it lies in an archive class and is frozen. Asked where an error has come through
    /// a file system, which says in words of its own why it could not be read.
    pub fn met_frozen(&self) -> bool {
        self.met_frozen.load(Ordering::Relaxed)
    }

    /// The plaintext of blobs, those that lie together fetched together.
    fn fetch(&self, ids: &[Id]) -> Result<HashMap<Id, Arc<Vec<u8>>>> {
        let mut found = HashMap::new();
        let mut packs: HashMap<Id, Vec<PackedBlob>> = HashMap::new();
        for id in ids {
            if found.contains_key(id) {
                continue;
            }
            if let Some(blob) = locked(&self.blobs).get(id) {
                found.insert(*id, blob);
                continue;
            }
            let location = self.vault.blob_location(BlobKind::Data, id)?;
            let wanted = packs.entry(location.pack).or_default();
            if !wanted.contains(&location.blob) {
                wanted.push(location.blob);
            }
        }
        let packs: Vec<_> = packs.into_iter().collect();
        let read = |(pack, wanted): &(Id, Vec<PackedBlob>)| -> Result<Vec<(Id, Vec<u8>)>> {
            let mut blobs = Vec::with_capacity(wanted.len());
            let read = read_blobs(&self.vault, pack, &mut wanted.clone(), |blob, _, plaintext| {
                blobs.push((blob.id, plaintext?.to_vec()));
                Ok(())
            });
            match read {
                Ok(()) => Ok(blobs),
                // Other packs may hold sound copies.
                Err(_) => {
                    wanted.iter().map(|blob| Ok((blob.id, self.vault.read_blob(BlobKind::Data, &blob.id)?))).collect()
                }
            }
        };
        for blobs in parallel_map(compute_threads(), &packs, read) {
            for (id, blob) in blobs? {
                let blob = Arc::new(blob);
                locked(&self.blobs).insert(id, blob.clone());
                found.insert(id, blob);
            }
        }
        Ok(found)
    }

    fn read(&self, mut buffer: &mut [u8], mut offset: u64) -> Result<()> {
        let segment_bytes = self.stored.description.segment_bytes;
        while !buffer.is_empty() {
            let (number, inside) = (offset / segment_bytes, offset % segment_bytes);
            let count = (buffer.len() as u64).min(self.stored.description.segment_length(number) - inside);
            let (part, rest) = buffer.split_at_mut(count as usize);
            let segment = self.segment(number)?;
            let pieces: Vec<Piece> = segment.pieces_in(inside, inside + count).collect();
            let blobs = self.fetch(&pieces.iter().map(|piece| piece.id).collect::<Vec<_>>())?;
            for piece in &pieces {
                let from = piece.offset.max(inside);
                let to = (piece.offset + piece.length).min(inside + count);
                let blob = blobs
                    .get(&piece.id)
                    .and_then(|blob| blob.get((from - piece.offset) as usize..(to - piece.offset) as usize));
                let blob = blob.ok_or_else(|| Error::DamagedImage {
                    path: self.stored.path.clone(),
                    reason: format!("data blob {} is shorter than the index says", piece.id),
                })?;
                part[(from - inside) as usize..(to - inside) as usize].copy_from_slice(blob);
            }
            buffer = rest;
            offset += count;
        }
        Ok(())
    }
}

impl ReadAt for Image {
    fn size_bytes(&self) -> u64 {
        self.stored.description.size_bytes
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.size_bytes()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.read(buffer, offset).map_err(|error| {
            if matches!(error, Error::Store(levee_store::Error::Frozen { .. })) {
                self.met_frozen.store(true, Ordering::Relaxed);
            }
            io::Error::other(error)
        })
    }
}
