//! Packs: many blobs in one file, a sealed list of them at its end.
//!
//! ```text
//! blob ‖ blob ‖ … ‖ sealed header ‖ length of the sealed header (u32, little-endian)
//! header entry:  type (u8) ‖ stored length (u32) ‖ [plaintext length (u32), types 2 and 3] ‖ id (32)
//! type:          0 data, 1 tree, 2 compressed data, 3 compressed tree
//! ```
//! Blobs lie without a gap from offset 0. Source: restic's design document, "Pack Format".

use crate::crypto::{Key, OVERHEAD};
use crate::{BlobKind, Id, Result};

/// A pack is finished when it has reached this size.
pub(crate) const TARGET_BYTES: usize = 16 << 20;
/// The last blob, and the header, as a rule.
const SLACK_BYTES: usize = 2 << 20;
/// Keeps the sealed header far below the 16 MiB that readers accept.
const ENTRIES_MAX: usize = 100_000;
const HEADER_BYTES_MAX: usize = 16 << 20;
const LENGTH_BYTES: usize = 4;
const PLAIN_ENTRY: usize = 1 + 4 + Id::LENGTH;
const COMPRESSED_ENTRY: usize = PLAIN_ENTRY + 4;

/// Where a blob lies in a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PackedBlob {
    pub offset: u32,
    /// As it is stored, sealed.
    pub length: u32,
    /// The length of the plaintext, when it is compressed; else 0.
    pub uncompressed_length: u32,
    pub kind: BlobKind,
    pub id: Id,
}

impl PackedBlob {
    /// Where the blob ends in its pack. An index may claim what no pack can hold, hence the wider type.
    pub fn end(&self) -> u64 {
        u64::from(self.offset) + u64::from(self.length)
    }

    pub fn plaintext_length(&self) -> u64 {
        match self.uncompressed_length {
            0 => u64::from(self.length).saturating_sub(OVERHEAD as u64),
            length => u64::from(length),
        }
    }

    /// What it takes of a pack: itself, and its entry in the header.
    pub fn bytes_in_pack(&self) -> u64 {
        u64::from(self.length) + self.entry_length() as u64
    }

    fn entry_length(&self) -> usize {
        if self.uncompressed_length == 0 { PLAIN_ENTRY } else { COMPRESSED_ENTRY }
    }
}

/// The size of a pack that holds exactly these blobs.
pub(crate) fn pack_bytes(blobs: &[PackedBlob]) -> u64 {
    let stored: u64 = blobs.iter().map(|blob| u64::from(blob.length)).sum();
    let header: usize = blobs.iter().map(PackedBlob::entry_length).sum();
    stored + (header + OVERHEAD + LENGTH_BYTES) as u64
}

/// What is compared of two lists of blobs, each in its order.
pub(crate) fn fingerprint(sorted: &[PackedBlob]) -> Id {
    let mut bytes = Vec::new();
    for blob in sorted {
        bytes.extend(blob.id.as_bytes());
        bytes.extend(blob.offset.to_le_bytes());
        bytes.extend(blob.length.to_le_bytes());
        bytes.extend(blob.uncompressed_length.to_le_bytes());
        bytes.push(blob.kind as u8);
    }
    Id::of(&bytes)
}

/// A pack that is ready to be stored.
pub(crate) struct FinishedPack {
    pub id: Id,
    pub content: Vec<u8>,
    pub blobs: Vec<PackedBlob>,
}

/// Collects sealed blobs of one kind.
pub(crate) struct PackWriter {
    content: Vec<u8>,
    blobs: Vec<PackedBlob>,
}

impl PackWriter {
    pub fn new() -> Self {
        // At once: growing step by step would leave holes in memory as large as the pack. What is not used takes none.
        Self { content: Vec::with_capacity(TARGET_BYTES + SLACK_BYTES), blobs: Vec::new() }
    }

    pub fn add(&mut self, kind: BlobKind, id: Id, sealed: &[u8], uncompressed_length: u32) {
        // A pack is finished far below 4 GiB, so that both fit.
        let (offset, length) = (self.content.len() as u32, sealed.len() as u32);
        self.blobs.push(PackedBlob { offset, length, uncompressed_length, kind, id });
        self.content.extend_from_slice(sealed);
    }

    pub fn is_empty(&self) -> bool {
        self.blobs.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.content.len() >= TARGET_BYTES || self.blobs.len() >= ENTRIES_MAX
    }

    /// Ends the pack and hashes it.
    pub fn finish(mut self, key: &Key) -> Result<FinishedPack> {
        let header = key.seal(&encode_header(&self.blobs))?;
        self.content.extend_from_slice(&header);
        self.content.extend_from_slice(&(header.len() as u32).to_le_bytes());
        Ok(FinishedPack { id: Id::of(&self.content), content: self.content, blobs: self.blobs })
    }
}

pub(crate) fn encode_header(blobs: &[PackedBlob]) -> Vec<u8> {
    let mut header = Vec::with_capacity(blobs.len() * COMPRESSED_ENTRY);
    for blob in blobs {
        let compressed = blob.uncompressed_length != 0;
        header.push(u8::from(blob.kind == BlobKind::Tree) | u8::from(compressed) << 1);
        header.extend(blob.length.to_le_bytes());
        if compressed {
            header.extend(blob.uncompressed_length.to_le_bytes());
        }
        header.extend(blob.id.as_bytes());
    }
    header
}

/// The blobs that an opened header names, with their offsets.
pub(crate) fn decode_header(mut header: &[u8]) -> Result<Vec<PackedBlob>, String> {
    let mut blobs = Vec::new();
    let mut offset = 0_u32;
    while let Some((&kind, rest)) = header.split_first() {
        let u32_of = |bytes: &[u8; 4]| u32::from_le_bytes(*bytes);
        let entry = |header: &[u8]| -> Option<(u32, u32, Id, usize)> {
            let (length, rest) = header.split_first_chunk()?;
            let (uncompressed, rest, used) = match kind {
                0 | 1 => (0, rest, PLAIN_ENTRY),
                _ => {
                    let (uncompressed, rest) = rest.split_first_chunk()?;
                    (u32_of(uncompressed), rest, COMPRESSED_ENTRY)
                }
            };
            let id = Id::from_bytes(*rest.first_chunk()?);
            Some((u32_of(length), uncompressed, id, used))
        };
        if kind > 3 {
            return Err(format!("its header names the unknown blob type {kind}"));
        }
        let (length, uncompressed_length, id, used) = entry(rest).ok_or("its header ends within an entry")?;
        let kind = if kind & 1 == 0 { BlobKind::Data } else { BlobKind::Tree };
        blobs.push(PackedBlob { offset, length, uncompressed_length, kind, id });
        offset = offset.checked_add(length).ok_or("its header names more than 4 GiB of blobs")?;
        header = &header[used..];
    }
    Ok(blobs)
}

/// Reads the list of a pack's blobs. `read(offset, length)` reads a part of the pack.
pub(crate) fn read_header(
    key: &Key,
    size_bytes: u64,
    read: impl Fn(u64, usize) -> Result<Vec<u8>>,
) -> Result<Result<Vec<PackedBlob>, String>> {
    /// Long enough for the headers of most packs, so that one read does.
    const FIRST_READ: u64 = 16 << 10;
    let tail_length = size_bytes.min(FIRST_READ);
    let mut tail = read(size_bytes - tail_length, tail_length as usize)?;
    let Some(length) = tail.last_chunk::<LENGTH_BYTES>().map(|bytes| u32::from_le_bytes(*bytes) as usize) else {
        return Ok(Err("it is too short for a pack".into()));
    };
    let whole = length + LENGTH_BYTES;
    if !(OVERHEAD..=HEADER_BYTES_MAX).contains(&length) || whole as u64 > size_bytes {
        return Ok(Err(format!("its header cannot be {length} bytes long")));
    }
    if whole > tail.len() {
        tail = read(size_bytes - whole as u64, whole)?;
    }
    let end = tail.len() - LENGTH_BYTES;
    Ok(match key.open_in_place(&mut tail[end - length..end]) {
        Ok(header) => decode_header(header).and_then(|blobs| match pack_bytes(&blobs) {
            expected if expected == size_bytes => Ok(blobs),
            expected => Err(format!("it is {size_bytes} bytes long, its header speaks of {expected}")),
        }),
        Err(_) => Err("its header does not open with the repository's key".into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> Key {
        Key::from_slice(&[9; 64])
    }

    fn read(pack: &[u8]) -> Result<Vec<PackedBlob>, String> {
        read_header(&key(), pack.len() as u64, |offset, length| Ok(pack[offset as usize..][..length].to_vec())).unwrap()
    }

    #[test]
    fn a_header_has_these_bytes() {
        let id = Id::from_bytes([0xab; 32]);
        let blobs = [
            PackedBlob { offset: 0, length: 0x01020304, uncompressed_length: 0, kind: BlobKind::Data, id },
            PackedBlob { offset: 0x01020304, length: 33, uncompressed_length: 7, kind: BlobKind::Tree, id },
        ];
        let id = "ab".repeat(32);
        assert_eq!(hex::encode(encode_header(&blobs)), format!("0004030201{id}032100000007000000{id}"));
        assert_eq!(decode_header(&encode_header(&blobs)).unwrap(), blobs);
    }

    #[test]
    fn packs_read_back_and_damage_is_seen() {
        for count in [1, 3, 1000] {
            let mut writer = PackWriter::new();
            for number in 0..count {
                let sealed = key().seal(&[number as u8; 10]).unwrap();
                writer.add(BlobKind::Data, Id::of(&[number as u8; 10]), &sealed, 0);
            }
            let pack = writer.finish(&key()).unwrap();
            assert_eq!(pack.id, Id::of(&pack.content));
            assert_eq!(pack.content.len() as u64, pack_bytes(&pack.blobs));
            assert_eq!(read(&pack.content).unwrap(), pack.blobs);
            let last = pack.content.len() - 1;
            for position in [last, last - 3, last - 10] {
                let mut damaged = pack.content.clone();
                damaged[position] ^= 1;
                assert!(read(&damaged).is_err(), "byte {position} of {last}");
            }
            assert!(read(&pack.content[1..]).is_err());
            assert!(read(&pack.content[..3]).is_err());
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_header(&bytes);
            let _ = read(&bytes);
        }
    }
}
