//! The entries of a directory, in its inode or in blocks. What lies behind the entries (hashes, free space) only
//! makes looking up quicker, and is not read.

use super::bytes::{u8_at, u16_at, u32_at, u64_at, verify_checksum};
use super::inode::Inode;
use super::{Directory, Faulty, Xfs, damaged, extents};
use crate::file_system::is_name;

/// Entries lie below this offset in a directory, hashes above.
const HASHES_AT_BYTES: u64 = 32 << 30;
const HEADER_BYTES: usize = 16;
const HEADER_BYTES_VERSION_5: usize = 64;
const CHECKSUM_AT: usize = 4;
/// Marks room that is free.
const FREE: u16 = 0xffff;
/// A directory of one block has its hashes at the end: their number stands in the last 8 bytes.
const TAIL_BYTES: usize = 8;
const HASH_BYTES: usize = 8;

/// All entries but `.` and `..`.
pub(super) fn entries(xfs: &Xfs, inode: &Inode) -> Faulty<Directory> {
    let mut found = Directory::new();
    if let Some(inline) = inode.inline() {
        add_inline(xfs, inline, inode.attributes.size_bytes, &mut found)?;
        return Ok(found);
    }
    let superblock = &xfs.superblock;
    let blocks_in_one = (superblock.directory_block_bytes >> superblock.block_bits) as u64;
    let end = inode.attributes.size_bytes.min(HASHES_AT_BYTES) >> superblock.block_bits;
    if end > superblock.blocks {
        return damaged("a directory that is larger than its file system");
    }
    let extents = extents::of(xfs, inode)?;
    let is_content = |extent: &&extents::Extent| extent.offset < end && !extent.is_unwritten;
    // A block of a directory may lie in several extents.
    let mut block = Vec::new();
    let mut expected = 0;
    for extent in extents.iter().filter(is_content) {
        for number in 0..extent.blocks.min(end - extent.offset) {
            let offset = extent.offset + number;
            if offset != expected && (!block.is_empty() || offset % blocks_in_one != 0) {
                return damaged("a directory that lacks a part of a block");
            }
            block.extend(xfs.read(superblock.block_offset(extent.start + number)?, superblock.block_bytes())?);
            expected = offset + 1;
            if block.len() == superblock.directory_block_bytes {
                add_block(xfs, inode.number, &block, &mut found)?;
                block.clear();
            }
        }
    }
    if block.is_empty() { Ok(found) } else { damaged("a directory that lacks a part of a block") }
}

fn add(name: &[u8], inode: u64, found: &mut Directory) -> Faulty<()> {
    if name == b"." || name == b".." {
        return Ok(());
    }
    if !is_name(name) {
        return damaged("an entry whose name cannot be one");
    }
    match found.insert(name.to_vec(), inode) {
        None => Ok(()),
        Some(_) => damaged("a directory that has one name twice"),
    }
}

/// Entries in the inode itself, with numbers of four bytes unless one of them needs eight.
fn add_inline(xfs: &Xfs, bytes: &[u8], size: u64, found: &mut Directory) -> Faulty<()> {
    let Some(bytes) = usize::try_from(size).ok().and_then(|size| bytes.get(..size)) else {
        return damaged("a directory that is larger than its inode");
    };
    let (small, large) = (u8_at(bytes, 0)?, u8_at(bytes, 1)?);
    let count = if large > 0 { large.max(small) } else { small };
    let number_bytes = if large > 0 { 8 } else { 4 };
    let mut at = 2 + number_bytes;
    for _ in 0..count {
        let name_at = at + 3;
        let name_bytes = usize::from(u8_at(bytes, at)?);
        let Some(name) = bytes.get(name_at..name_at + name_bytes) else {
            return damaged("an entry that is longer than its directory");
        };
        let number_at = name_at + name_bytes + usize::from(xfs.superblock.has_file_types);
        let inode = if large > 0 { u64_at(bytes, number_at)? } else { u64::from(u32_at(bytes, number_at)?) };
        add(name, inode, found)?;
        at = number_at + number_bytes;
    }
    Ok(())
}

fn add_block(xfs: &Xfs, inode: u64, block: &[u8], found: &mut Directory) -> Faulty<()> {
    let (header, is_single) = match (block.get(..4), xfs.superblock.has_checksums) {
        (Some(b"XD2B"), false) => (HEADER_BYTES, true),
        (Some(b"XD2D"), false) => (HEADER_BYTES, false),
        (Some(b"XDB3"), true) => (HEADER_BYTES_VERSION_5, true),
        (Some(b"XDD3"), true) => (HEADER_BYTES_VERSION_5, false),
        _ => return damaged("a block that should be of its directory is another one"),
    };
    if xfs.superblock.has_checksums {
        verify_checksum(block, CHECKSUM_AT)?;
        if u64_at(block, 40)? != inode {
            return damaged("a block that should be of its directory belongs to another one");
        }
    }
    let mut end = block.len();
    if is_single {
        let hashes = u32_at(block, block.len() - TAIL_BYTES)? as usize;
        let tail = hashes.checked_mul(HASH_BYTES).and_then(|bytes| bytes.checked_add(TAIL_BYTES));
        match tail.and_then(|tail| end.checked_sub(tail)).filter(|end| *end >= header) {
            Some(before) => end = before,
            None => return damaged("a directory with more hashes than it has room for"),
        }
    }
    let mut at = header;
    while at < end {
        if u16_at(block, at)? == FREE {
            let length = usize::from(u16_at(block, at + 2)?);
            if length == 0 || length % 8 != 0 {
                return damaged("free room in a directory of an impossible length");
            }
            at += length;
            continue;
        }
        let number = u64_at(block, at)?;
        let name_bytes = usize::from(u8_at(block, at + 8)?);
        // Number, length and name, the type, and where the entry itself begins.
        let length = (8 + 1 + name_bytes + usize::from(xfs.superblock.has_file_types) + 2).next_multiple_of(8);
        match block.get(at + 9..at + 9 + name_bytes) {
            Some(name) if at + length <= end => add(name, number, found)?,
            _ => return damaged("an entry that is longer than its directory"),
        }
        at += length;
    }
    Ok(())
}
