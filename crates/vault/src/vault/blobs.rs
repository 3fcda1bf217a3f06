//! Reading blobs, and the directories among them.

use std::sync::Arc;

use levee_store::{FileType, Parallelism};

use super::{Vault, locked};
use crate::cache::PACK_BYTES_MAX;
use crate::compress::BlobDecompressor;
use crate::crypto::OVERHEAD;
use crate::index::Location;
use crate::pack::PackedBlob;
use crate::parallel::{compute_threads, parallel_map};
use crate::{BlobKind, Error, Id, Result, Tree};

/// A blob that claims to be larger is taken for damaged, so that it can't take all memory.
pub(crate) const BLOB_BYTES_MAX: u64 = 1 << 30;
/// Trees lie beside their neighbours; this much is read at once.
const TREE_WINDOW_BYTES: u32 = 1 << 20;
/// So many of them are opened by one thread before it takes the next ones.
const TREES_PER_SHARE: usize = 32;

impl Vault {
    /// Reads a blob and checks that it has the content that its id names.
    pub(crate) fn read_blob(&self, kind: BlobKind, id: &Id) -> Result<Vec<u8>> {
        let locations = self.with_index(|index| index.locations(kind, id))?;
        let mut failure = self.missing_blob(kind, id);
        for Location { pack, blob } in locations {
            let open = |mut sealed: Vec<u8>| {
                let mut opener = BlobOpener::new(self)?;
                opener.open(&pack, &blob, &mut sealed).map(<[u8]>::to_vec)
            };
            let (offset, length) = (u64::from(blob.offset), blob.length as usize);
            if kind == BlobKind::Tree
                && let Some(sealed) = self.cached_part(&pack, offset, length)
                && let Ok(plaintext) = open(sealed)
            {
                return Ok(plaintext);
            }
            let read = self.store().read_range(FileType::Data, &pack.to_hex(), offset, length);
            match read.map_err(Error::from).and_then(open) {
                Ok(plaintext) => return Ok(plaintext),
                // Another pack may hold a sound copy. One that can't be asked for now may be sound: no other's damage hides
                // that.
                Err(error) if failure.is_damage() => failure = error,
                Err(_) => {}
            }
        }
        Err(failure)
    }

    /// Reads a part of a pack, beside no more others than the store serves well.
    pub(crate) fn read_pack_part(&self, pack: &Id, offset: u64, length: usize) -> Result<Vec<u8>> {
        let _inside = self.inner.pack_reading.enter();
        Ok(self.store().read_range(FileType::Data, &pack.to_hex(), offset, length)?)
    }

    /// The same to the beginning of a buffer that is used again.
    pub(crate) fn read_pack_part_into(
        &self,
        pack: &Id,
        offset: u64,
        length: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<()> {
        let _inside = self.inner.pack_reading.enter();
        Ok(self.store().read_range_into(FileType::Data, &pack.to_hex(), offset, length, buffer)?)
    }

    /// How many threads read packs and compute what is in them. Each has a pack or a large piece of one in memory.
    pub(crate) fn pack_threads(&self) -> usize {
        let parallelism = self.parallelism();
        if parallelism.waits_long { compute_threads().max(parallelism.readers) } else { compute_threads() }
    }

    /// How many threads store packs. One for every two cores fills them faster than a disk of its own takes them, and
    /// each has a pack in memory.
    pub(crate) fn pack_uploaders(&self) -> usize {
        let Parallelism { writers, waits_long, .. } = self.parallelism();
        if waits_long { writers } else { writers.min(compute_threads().div_ceil(2)) }
    }

    /// A part of a pack of directories from the cache, into which the whole pack is fetched first. `None`
    /// without a cache, and whenever the store has to be asked after all.
    fn cached_part(&self, pack: &Id, offset: u64, length: usize) -> Option<Vec<u8>> {
        let cache = self.cache()?;
        if let Some(part) = cache.read_pack(pack, offset, length) {
            return Some(part);
        }
        let name = pack.to_hex();
        self.store().size_bytes(FileType::Data, &name).ok().filter(|size| *size <= PACK_BYTES_MAX)?;
        let content = self.store().read(FileType::Data, &name).ok()?;
        if Id::of(&content) == *pack {
            cache.write_pack(pack, &content);
        }
        let from = usize::try_from(offset).ok()?;
        content.get(from..from.checked_add(length)?).map(<[u8]>::to_vec)
    }

    /// Reads a directory.
    pub(crate) fn tree(&self, id: &Id) -> Result<Arc<Tree>> {
        if let Some(tree) = locked(&self.inner.trees).get(id) {
            return Ok(tree);
        }
        if let Some(tree) = self.prefetch_trees(id)? {
            return Ok(tree);
        }
        let json = self.read_blob(BlobKind::Tree, id)?;
        let tree = Tree::from_json(&json).map_err(|reason| self.bad_tree(id, reason))?;
        Ok(self.remember_tree(id, tree, json.len()))
    }

    /// Whether a directory would be had again without reading: not if it is old, or larger than what is kept.
    pub(crate) fn keeps_tree(&self, id: &Id) -> bool {
        locked(&self.inner.trees).contains(id)
    }

    pub(crate) fn bad_tree(&self, id: &Id, reason: String) -> Error {
        Error::Damaged { location: self.location(), file: format!("tree blob {id}"), reason }
    }

    pub(crate) fn remember_tree(&self, id: &Id, tree: Tree, json_bytes: usize) -> Arc<Tree> {
        let tree = Arc::new(tree);
        locked(&self.inner.trees).insert(*id, tree.clone(), json_bytes);
        tree
    }

    /// Reads a tree together with those before it in its pack: a directory is stored behind the
    /// directories in it, so that a walk from the root finds most of what it asks for next. `None` when the tree could not
    /// be had this way: reading the one blob will say what is wrong.
    fn prefetch_trees(&self, id: &Id) -> Result<Option<Arc<Tree>>> {
        let Location { pack, blob } = self.blob_location(BlobKind::Tree, id)?;
        let end = blob.end();
        let start = end.saturating_sub(u64::from(TREE_WINDOW_BYTES.max(blob.length)));
        let neighbours = self.with_index(|index| {
            let inside = |tree: &&_| {
                let tree: &PackedBlob = tree;
                u64::from(tree.offset) >= start && tree.end() <= end
            };
            index.trees_in(&pack).iter().filter(inside).copied().collect::<Vec<_>>()
        })?;
        let Some(first) = neighbours.first() else { return Ok(None) };
        let length = (end - u64::from(first.offset)) as usize;
        let offset = u64::from(first.offset);
        let bytes = self.cached_part(&pack, offset, length);
        let bytes = bytes.or_else(|| self.store().read_range(FileType::Data, &pack.to_hex(), offset, length).ok());
        let Some(bytes) = bytes else { return Ok(None) };
        let open = |trees: &&[PackedBlob]| -> Result<Option<Arc<Tree>>> {
            let mut opener = BlobOpener::new(self)?;
            let mut scratch = Vec::new();
            let mut wanted = None;
            for tree in *trees {
                if tree.id != *id && self.keeps_tree(&tree.id) {
                    continue;
                }
                let from = (tree.offset - first.offset) as usize;
                let Some(sealed) = bytes.get(from..from + tree.length as usize) else { continue };
                scratch.clear();
                scratch.extend_from_slice(sealed);
                let Ok(json) = opener.open(&pack, tree, &mut scratch) else { continue };
                let Ok(parsed) = Tree::from_json(json) else { continue };
                let parsed = self.remember_tree(&tree.id, parsed, json.len());
                if tree.id == *id {
                    wanted = Some(parsed);
                }
            }
            Ok(wanted)
        };
        let shares: Vec<&[PackedBlob]> = neighbours.chunks(TREES_PER_SHARE).collect();
        let opened: Result<Vec<_>> = parallel_map(compute_threads(), &shares, open).into_iter().collect();
        Ok(opened?.into_iter().flatten().next())
    }
}

/// Opens sealed blobs one after the other with the same buffers.
pub(crate) struct BlobOpener<'a> {
    vault: &'a Vault,
    decompressor: BlobDecompressor,
    plaintext: Vec<u8>,
}

impl<'a> BlobOpener<'a> {
    pub fn new(vault: &'a Vault) -> Result<Self> {
        let decompressor =
            BlobDecompressor::new().map_err(|source| Error::System { action: "start decompressing", source })?;
        Ok(Self { vault, decompressor, plaintext: Vec::new() })
    }

    pub fn vault(&self) -> &'a Vault {
        self.vault
    }

    /// Decrypts, decompresses and hashes a blob. `sealed` is used up.
    pub fn open<'b>(&'b mut self, pack: &Id, blob: &PackedBlob, sealed: &'b mut [u8]) -> Result<&'b [u8]> {
        let damaged = |reason: String| {
            let reason = format!("{} blob {} at offset {}: {reason}", blob.kind, blob.id, blob.offset);
            self.vault.damaged(FileType::Data, &pack.to_hex(), reason)
        };
        if sealed.len() < OVERHEAD || blob.plaintext_length() > BLOB_BYTES_MAX {
            return Err(damaged("its length is impossible".into()));
        }
        let opened = match self.vault.key().open_in_place(sealed) {
            Ok(opened) => opened,
            Err(_) => return Err(damaged("it does not open with the repository's key".into())),
        };
        let plaintext: &[u8] = if blob.uncompressed_length == 0 {
            opened
        } else {
            let length = blob.uncompressed_length as usize;
            self.decompressor.decompress(opened, length, &mut self.plaintext).map_err(damaged)?;
            &self.plaintext
        };
        if Id::of(plaintext) == blob.id {
            Ok(plaintext)
        } else {
            Err(damaged("its plaintext does not have the hash that is its id".into()))
        }
    }
}
