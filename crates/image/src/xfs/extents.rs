//! Which blocks a file has, and where.

use super::bytes::{u16_at, u64_at, verify_checksum};
use super::inode::{ForkFormat, Inode};
use super::{Faulty, Xfs, damaged};

const RECORD_BYTES: usize = 16;
/// The root in an inode: level and count, then keys, then pointers.
const ROOT_HEADER_BYTES: usize = 4;
const HEADER_BYTES: usize = 24;
const HEADER_BYTES_VERSION_5: usize = 72;
const CHECKSUM_AT: usize = 64;
/// Higher trees are impossible: this one could map all of 2^64 bytes in blocks of 512.
const LEVELS_MAX: u16 = 12;
/// More than any file in use has; half a gigabyte of memory.
const EXTENTS_MAX: usize = 1 << 24;

/// Blocks that lie together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// In blocks of the file.
    pub offset: u64,
    /// The number of the first block on the disk.
    pub start: u64,
    pub blocks: u64,
    /// Allocated, and reads as zeros.
    pub is_unwritten: bool,
}

impl Extent {
    fn parse(record: &[u8]) -> Faulty<Self> {
        let (high, low) = (u64_at(record, 0)?, u64_at(record, 8)?);
        Ok(Self {
            offset: (high & !(1 << 63)) >> 9,
            start: (high & 0x1ff) << 43 | low >> 21,
            blocks: low & 0x1f_ffff,
            is_unwritten: high >> 63 != 0,
        })
    }
}

/// All extents of a file, in the order of their offsets.
pub(super) fn of(xfs: &Xfs, inode: &Inode) -> Faulty<Vec<Extent>> {
    let mut extents = Vec::new();
    match inode.format {
        ForkFormat::Extents => {
            let count = usize::try_from(inode.extents).ok().and_then(|count| count.checked_mul(RECORD_BYTES));
            let Some(records) = count.and_then(|bytes| inode.data_fork().get(..bytes)) else {
                return damaged("more extents than its inode has room for");
            };
            add_records(records, &mut extents)?;
        }
        ForkFormat::Btree => {
            let root = inode.data_fork();
            let (level, count) = (u16_at(root, 0)?, usize::from(u16_at(root, 2)?));
            if level == 0 || level > LEVELS_MAX {
                return damaged(format!("a tree of extents of {level} levels"));
            }
            let room = root.len().saturating_sub(ROOT_HEADER_BYTES) / RECORD_BYTES;
            for child in pointers(root, ROOT_HEADER_BYTES, room, count)? {
                add_block(xfs, inode, child, level - 1, &mut extents)?;
            }
        }
        ForkFormat::Device | ForkFormat::Inline => return damaged("content where none can be"),
    }
    let blocks_max = (i64::MAX as u64) >> xfs.superblock.block_bits;
    if extents.iter().any(|extent| extent.offset + extent.blocks > blocks_max) {
        return damaged("an extent beyond the largest file");
    }
    if extents.windows(2).any(|pair| pair[0].offset + pair[0].blocks > pair[1].offset) {
        return damaged("extents that overlap");
    }
    Ok(extents)
}

fn add_records(records: &[u8], extents: &mut Vec<Extent>) -> Faulty<()> {
    for record in records.chunks_exact(RECORD_BYTES) {
        extents.push(Extent::parse(record)?);
    }
    if extents.len() > EXTENTS_MAX { damaged("more extents than a file can have") } else { Ok(()) }
}

/// Behind the keys, for which there is room for as many.
fn pointers(block: &[u8], header: usize, room: usize, count: usize) -> Faulty<Vec<u64>> {
    if count == 0 || count > room {
        return damaged("a tree of extents whose block claims more than it can hold");
    }
    (0..count).map(|number| u64_at(block, header + room * 8 + number * 8)).collect()
}

fn add_block(xfs: &Xfs, inode: &Inode, block: u64, level: u16, extents: &mut Vec<Extent>) -> Faulty<()> {
    let superblock = &xfs.superblock;
    let bytes = xfs.read(superblock.block_offset(block)?, superblock.block_bytes())?;
    let (magic, header): (&[u8], usize) =
        if superblock.has_checksums { (b"BMA3", HEADER_BYTES_VERSION_5) } else { (b"BMAP", HEADER_BYTES) };
    // The level shrinks with every step, so that no circle of blocks is walked for ever.
    if !bytes.starts_with(magic) || u16_at(&bytes, 4)? != level {
        return damaged("a block that should be of its tree of extents is another one");
    }
    if superblock.has_checksums {
        verify_checksum(&bytes, CHECKSUM_AT)?;
        if u64_at(&bytes, 56)? != inode.number {
            return damaged("a block that should be of its tree of extents belongs to another file");
        }
    }
    let count = usize::from(u16_at(&bytes, 6)?);
    let room = (bytes.len() - header) / RECORD_BYTES;
    if level > 0 {
        for child in pointers(&bytes, header, room, count)? {
            add_block(xfs, inode, child, level - 1, extents)?;
        }
        return Ok(());
    }
    match bytes.get(header..header + count * RECORD_BYTES) {
        Some(records) => add_records(records, extents),
        None => damaged("a tree of extents whose block claims more than it can hold"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_taken_apart_as_the_format_says() {
        // Offset 0x123456789, block 0xabcdef012345, 0x12345 blocks, unwritten.
        let (offset, start, blocks) = (0x1_2345_6789_u128, 0xabcd_ef01_2345_u128, 0x1_2345_u128);
        let record = (1 << 127 | offset << 73 | start << 21 | blocks).to_be_bytes();
        let expected = Extent { offset: offset as u64, start: start as u64, blocks: blocks as u64, is_unwritten: true };
        assert_eq!(Extent::parse(&record).unwrap(), expected);
        assert!(Extent::parse(&record[1..]).is_err());
    }
}
