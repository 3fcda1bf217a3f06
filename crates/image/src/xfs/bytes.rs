//! Numbers in a block, with their bounds checked.

use super::{Fault, Faulty, damaged};

fn array<const N: usize>(bytes: &[u8], at: usize) -> Faulty<[u8; N]> {
    let end = at.checked_add(N);
    end.and_then(|end| bytes.get(at..end)?.try_into().ok())
        .ok_or_else(|| Fault::Damaged("a structure that is cut off".into()))
}

pub(super) fn u8_at(bytes: &[u8], at: usize) -> Faulty<u8> {
    array::<1>(bytes, at).map(|[byte]| byte)
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Faulty<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Faulty<u32> {
    array(bytes, at).map(u32::from_be_bytes)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Faulty<u64> {
    array(bytes, at).map(u64::from_be_bytes)
}

/// Checks the CRC-32C that stands little-endian at an offset, and counts as zero itself.
pub(super) fn verify_checksum(bytes: &[u8], at: usize) -> Faulty<()> {
    let stored = u32::from_le_bytes(array(bytes, at)?);
    let checksum = crc32c::crc32c(&bytes[..at]);
    let checksum = crc32c::crc32c_append(checksum, &[0; 4]);
    if crc32c::crc32c_append(checksum, &bytes[at + 4..]) == stored {
        Ok(())
    } else {
        damaged("a block does not have the checksum that it says")
    }
}
