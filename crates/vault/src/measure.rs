//! For measurements alone: what computing costs without a disk, and repositories of a size that nobody waits for.

mod synthetic;

use std::io::Read;
use std::ops::Range;

pub use synthetic::{SyntheticRepository, make_synthetic};

use crate::chunker::Chunker;
use crate::compress::BlobDecompressor;
use crate::pack::TARGET_BYTES;
use crate::sealing::BlobSealer;
use crate::{BlobKind, Chunking, Compression, Error, Id, MasterKey, Result};

/// What must be computed of content in any case, on one thread and without storing it.
pub struct ComputeAlone {
    master_key: MasterKey,
}

/// What a backup would store of some content, one blob behind the other.
#[derive(Default)]
pub struct Stored {
    bytes: Vec<u8>,
    blobs: Vec<StoredBlob>,
}

struct StoredBlob {
    at: Range<usize>,
    id: Id,
    /// 0 when it is not compressed.
    uncompressed_length: u32,
}

impl Stored {
    pub fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }
}

impl ComputeAlone {
    pub fn new() -> Result<Self> {
        Ok(Self { master_key: MasterKey::generate()? })
    }

    /// What a first backup computes of these streams: chunks, their hashes, compressing, encrypting, and reading each blob
    /// back. `stored` is emptied, and its memory used again: fresh memory is dear.
    pub fn store(&self, streams: &mut dyn Iterator<Item = &mut dyn Read>, stored: &mut Stored) -> Result<()> {
        stored.bytes.clear();
        stored.blobs.clear();
        let mut sealer = BlobSealer::new(&self.master_key.0, true, Compression::Auto)?;
        let mut chunker = Chunker::new();
        let (mut chunk, mut sealed) = (Vec::new(), Vec::new());
        for stream in streams {
            chunker.reset(Chunking::Content);
            let read = |source| Error::System { action: "read from memory", source };
            while chunker.next(stream, &mut chunk).map_err(read)? {
                let id = Id::of(&chunk);
                let uncompressed_length = sealer.seal(BlobKind::Data, id, &chunk, &mut sealed)?;
                let start = stored.bytes.len();
                stored.bytes.extend_from_slice(&sealed);
                stored.blobs.push(StoredBlob { at: start..stored.bytes.len(), id, uncompressed_length });
            }
        }
        Ok(())
    }

    /// What a restore computes of them, and a check: each blob decrypted, decompressed and hashed. What is stored is no
    /// longer as it was afterwards.
    pub fn open(&self, stored: &mut Stored) -> Result<()> {
        let failed = |reason: String| Error::ReadBack { reason };
        let mut decompressor =
            BlobDecompressor::new().map_err(|source| Error::System { action: "start decompressing", source })?;
        let mut plaintext = Vec::new();
        for blob in &stored.blobs {
            let sealed = &mut stored.bytes[blob.at.clone()];
            let opened = self.master_key.0.open_in_place(sealed).map_err(|_| failed("a blob does not open".into()))?;
            let hash = match blob.uncompressed_length {
                0 => Id::of(opened),
                length => {
                    decompressor.decompress(opened, length as usize, &mut plaintext).map_err(failed)?;
                    Id::of(&plaintext)
                }
            };
            if hash != blob.id {
                return Err(failed(format!("blob {}: its hash is another one", blob.id)));
            }
        }
        Ok(())
    }

    /// What a check computes besides: the hash of whole packs.
    pub fn hash_as_packs(&self, stored: &Stored) -> Vec<Id> {
        stored.bytes.chunks(TARGET_BYTES).map(Id::of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_compressed_is_stored_as_it_is() {
        let mut noise = vec![0; 3 << 20];
        getrandom::fill(&mut noise).unwrap();
        let words = b"the same words again ".repeat(200_000);
        let mut streams = [words.as_slice(), noise.as_slice()];
        let alone = ComputeAlone::new().unwrap();
        let mut stored = Stored::default();
        alone.store(&mut streams.iter_mut().map(|stream| stream as &mut dyn Read), &mut stored).unwrap();
        let bytes = stored.size_bytes();
        assert!(bytes > 3 << 20 && bytes < 4 << 20, "{bytes}");
        assert_eq!(alone.hash_as_packs(&stored).len(), 1);
        alone.open(&mut stored).unwrap();
        assert!(alone.open(&mut stored).is_err(), "it is open already");
    }
}
