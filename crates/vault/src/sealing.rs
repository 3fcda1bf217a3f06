//! From a blob's plaintext to what is stored: compressed, encrypted, and read back.

use crate::compress::{BlobCompressor, BlobDecompressor, Compression};
use crate::crypto::{Key, OVERHEAD, ROOM_FOR_IV};
use crate::room::{CHUNK_ROOM_BYTES, empty_with_room};
use crate::vault::BLOB_BYTES_MAX;
use crate::{BlobKind, Error, Id, Result};

/// Buffers beyond this are not kept: chunks of 8 MiB are rare.
const KEPT_BYTES_MAX: usize = CHUNK_ROOM_BYTES;

/// Seals one blob after the other with the same buffers.
pub(crate) struct BlobSealer<'a> {
    key: &'a Key,
    can_compress: bool,
    compresses_data: bool,
    compressor: BlobCompressor,
    decompressor: BlobDecompressor,
    opened: Vec<u8>,
    read_back: Vec<u8>,
}

impl<'a> BlobSealer<'a> {
    /// `can_compress` is what the repository's version allows.
    pub fn new(key: &'a Key, can_compress: bool, compression: Compression) -> Result<Self> {
        let system = |source| Error::System { action: "start compressing", source };
        Ok(Self {
            key,
            can_compress,
            compresses_data: compression != Compression::Off,
            compressor: BlobCompressor::new(compression.level()).map_err(system)?,
            decompressor: BlobDecompressor::new().map_err(system)?,
            opened: Vec::new(),
            read_back: Vec::new(),
        })
    }

    /// Puts the sealed blob into `sealed`, and gives the length of its plaintext if it is compressed, else 0. What no reader
    /// would take back is refused: a chunk is at most 8 MiB, but a directory is one blob however large it is.
    pub fn seal(&mut self, kind: BlobKind, id: Id, plaintext: &[u8], sealed: &mut Vec<u8>) -> Result<u32> {
        if plaintext.len() as u64 > BLOB_BYTES_MAX {
            return Err(Error::BlobTooLarge { kind, bytes: plaintext.len() as u64 });
        }
        // In one buffer from beginning to end: a chunk is a megabyte, and as it is may be all that is stored.
        empty_with_room(sealed, zstd::zstd_safe::compress_bound(plaintext.len()) + OVERHEAD);
        sealed.resize(ROOM_FOR_IV, 0);
        let compressed = self.can_compress
            && (kind == BlobKind::Tree || self.compresses_data)
            && self
                .compressor
                .compress_onto(plaintext, sealed)
                .map_err(|source| Error::System { action: "compress a blob", source })?;
        if !compressed {
            sealed.extend_from_slice(plaintext);
        }
        self.key.seal_in_place(sealed)?;
        let uncompressed_length = if compressed { plaintext.len() as u32 } else { 0 };
        self.read_back(id, sealed, uncompressed_length)?;
        for buffer in [&mut self.opened, &mut self.read_back] {
            if buffer.capacity() > KEPT_BYTES_MAX {
                *buffer = Vec::new();
            }
        }
        Ok(uncompressed_length)
    }

    /// Opens what was sealed and hashes it again: compressors and memory have failed others before.
    fn read_back(&mut self, id: Id, sealed: &[u8], uncompressed_length: u32) -> Result<()> {
        let failed = |reason: String| Error::ReadBack { reason: format!("blob {id}: {reason}") };
        self.key.open_into(sealed, &mut self.opened).map_err(|_| failed("it does not open".into()))?;
        let plaintext = if uncompressed_length == 0 {
            &self.opened
        } else {
            self.decompressor
                .decompress(&self.opened, uncompressed_length as usize, &mut self.read_back)
                .map_err(failed)?;
            &self.read_back
        };
        if Id::of(plaintext) == id { Ok(()) } else { Err(failed("its hash is another one".into())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(outcome: Result<()>, reason: &str) {
        let Err(Error::ReadBack { reason: said }) = outcome else { panic!("{outcome:?}") };
        assert!(said.contains(reason), "{said}");
    }

    #[test]
    fn what_no_reader_would_take_is_not_sealed() {
        let key = Key::from_slice(&[7; 64]);
        let mut sealer = BlobSealer::new(&key, true, Compression::Auto).unwrap();
        // Untouched memory costs nothing.
        let huge = vec![0; (BLOB_BYTES_MAX + 1) as usize];
        let refused = sealer.seal(BlobKind::Tree, Id::of(b""), &huge, &mut Vec::new()).unwrap_err();
        assert!(matches!(refused, Error::BlobTooLarge { bytes: 1_073_741_825, .. }), "{refused:?}");
    }

    #[test]
    fn whatever_goes_wrong_between_hashing_and_storing_is_found() {
        let key = Key::from_slice(&[7; 64]);
        let plaintext = b"the same line again and again\n".repeat(1000);
        let id = Id::of(&plaintext);
        for compression in [Compression::Auto, Compression::Off] {
            let mut sealer = BlobSealer::new(&key, true, compression).unwrap();
            let mut sealed = Vec::new();
            let length = sealer.seal(BlobKind::Data, id, &plaintext, &mut sealed).unwrap();
            assert_eq!(length != 0, compression == Compression::Auto);

            // A bit of what was hashed turns over before it is sealed.
            let mut other = plaintext.clone();
            other[4711] ^= 4;
            refused(sealer.seal(BlobKind::Data, id, &other, &mut Vec::new()).map(drop), "its hash is another one");
            // One of what was sealed does, and what was compressed is told to be longer than it is.
            let mut flipped = sealed.clone();
            flipped[sealed.len() / 2] ^= 1;
            refused(sealer.read_back(id, &flipped, length), "does not open");
            if length != 0 {
                assert!(matches!(sealer.read_back(id, &sealed, length + 1), Err(Error::ReadBack { .. })));
                refused(sealer.read_back(id, &sealed, 0), "its hash is another one");
            }
            sealer.read_back(id, &sealed, length).unwrap();
        }
    }
}
