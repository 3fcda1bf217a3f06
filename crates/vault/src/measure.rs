//! For measurements alone: what computing costs without a disk, and repositories of a size that nobody waits for.

mod synthetic;

use std::io::Read;

pub use synthetic::{SyntheticRepository, make_synthetic};

use crate::chunker::Chunker;
use crate::sealing::BlobSealer;
use crate::{BlobKind, Chunking, Compression, Error, Id, MasterKey, Result};

/// What a backup computes of new content, on one thread and without storing it: chunks, their hashes, compressing,
/// encrypting, and reading each blob back.
pub struct ComputeAlone {
    master_key: MasterKey,
}

impl ComputeAlone {
    pub fn new() -> Result<Self> {
        Ok(Self { master_key: MasterKey::generate()? })
    }

    /// Gives the bytes that a repository would hold of these streams.
    pub fn run(&self, streams: &mut dyn Iterator<Item = &mut dyn Read>) -> Result<u64> {
        let mut sealer = BlobSealer::new(&self.master_key.0, true, Compression::Auto)?;
        let mut chunker = Chunker::new();
        let (mut chunk, mut sealed, mut stored) = (Vec::new(), Vec::new(), 0);
        for stream in streams {
            chunker.reset(Chunking::Content);
            let read = |source| Error::System { action: "read from memory", source };
            while chunker.next(stream, &mut chunk).map_err(read)? {
                sealer.seal(BlobKind::Data, Id::of(&chunk), &chunk, &mut sealed)?;
                stored += sealed.len() as u64;
            }
        }
        Ok(stored)
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
        let stored = ComputeAlone::new().unwrap().run(&mut streams.iter_mut().map(|stream| stream as &mut dyn Read));
        let stored = stored.unwrap();
        assert!(stored > 3 << 20 && stored < 4 << 20, "{stored}");
    }
}
