use super::bytes::{u8_at, u16_at, u32_at, u64_at, verify_checksum};
use super::{Fault, Faulty, damaged};
use crate::ReadAt;

const SECTOR_BYTES_MIN: usize = 512;
const SECTOR_BYTES_MAX: usize = 32 << 10;
const CHECKSUM_AT: usize = 224;
/// Version 4: directories of the second kind, which alone are known.
const VERSION_DIRV2: u16 = 0x2000;
/// Version 4: directories say what their entries are.
const FEATURES2_FILE_TYPE: u32 = 0x200;
/// Version 5, the features that a reader must know.
const INCOMPAT_FILE_TYPE: u32 = 1;
const INCOMPAT_NEEDS_REPAIR: u32 = 0x10;
/// File types, sparse inodes, a second UUID, times after 2038, many extents, exchange of ranges, parent pointers.
const INCOMPAT_KNOWN: u32 = 0xff;

/// What there is to know of the whole file system.
#[derive(Clone, Debug)]
pub(super) struct Superblock {
    pub block_bits: u32,
    pub inode_bytes: usize,
    pub root_inode: u64,
    pub label: String,
    /// Version 5.
    pub has_checksums: bool,
    pub has_file_types: bool,
    pub directory_block_bytes: usize,
    pub blocks: u64,
    group_blocks: u32,
    groups: u32,
    group_bits: u32,
    inodes_in_block_bits: u32,
}

impl Superblock {
    pub fn read(disk: &dyn ReadAt) -> Faulty<Self> {
        let mut bytes = vec![0; SECTOR_BYTES_MIN];
        disk.read_at(&mut bytes, 0)?;
        let sector_bytes = usize::from(u16_at(&bytes, 102)?);
        if !bytes.starts_with(b"XFSB") || !(SECTOR_BYTES_MIN..=SECTOR_BYTES_MAX).contains(&sector_bytes) {
            return damaged("its superblock is damaged");
        }
        bytes.resize(sector_bytes, 0);
        disk.read_at(&mut bytes, 0)?;
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> Faulty<Self> {
        let version = u16_at(bytes, 100)?;
        let has_checksums = match version & 0xf {
            5 => true,
            4 if version & VERSION_DIRV2 != 0 => false,
            other => return Err(Fault::Unsupported(format!("XFS of version {other}; 4 and 5 are known"))),
        };
        let incompat = u32_at(bytes, 216)?;
        if has_checksums {
            verify_checksum(bytes, CHECKSUM_AT)?;
            if incompat & !INCOMPAT_KNOWN != 0 {
                return Err(Fault::Unsupported(format!("XFS with features that are not known ({incompat:#x})")));
            }
            if incompat & INCOMPAT_NEEDS_REPAIR != 0 {
                return damaged("it is marked for xfs_repair: restore the image and run that first");
            }
        }
        let block_bits = u32::from(u8_at(bytes, 120)?);
        let inode_bits = u32::from(u8_at(bytes, 122)?);
        let superblock = Self {
            block_bits,
            inode_bytes: usize::from(u16_at(bytes, 104)?),
            root_inode: u64_at(bytes, 56)?,
            label: String::from_utf8_lossy(&bytes[108..120]).trim_end_matches('\0').into(),
            has_checksums,
            has_file_types: if has_checksums {
                incompat & INCOMPAT_FILE_TYPE != 0
            } else {
                u32_at(bytes, 200)? & FEATURES2_FILE_TYPE != 0
            },
            directory_block_bytes: 1_usize.checked_shl(block_bits + u32::from(u8_at(bytes, 192)?)).unwrap_or_default(),
            blocks: u64_at(bytes, 8)?,
            group_blocks: u32_at(bytes, 84)?,
            groups: u32_at(bytes, 88)?,
            group_bits: u32::from(u8_at(bytes, 124)?),
            inodes_in_block_bits: u32::from(u8_at(bytes, 123)?),
        };
        let is_sound = (9..=16).contains(&block_bits)
            && u32_at(bytes, 4)? == 1 << block_bits
            && (8..=11).contains(&inode_bits)
            && superblock.inode_bytes == 1 << inode_bits
            && superblock.inodes_in_block_bits + inode_bits == block_bits
            && (superblock.inode_bytes..=64 << 10).contains(&superblock.directory_block_bytes)
            && superblock.groups > 0
            && superblock.group_blocks > 0
            && superblock.group_bits < 32
            && u64::from(superblock.group_blocks) <= 1 << superblock.group_bits;
        if is_sound { Ok(superblock) } else { damaged("its superblock does not add up") }
    }

    pub fn block_bytes(&self) -> usize {
        1 << self.block_bits
    }

    /// Where a block of a group begins.
    fn offset_in(&self, group: u64, block: u64) -> Faulty<u64> {
        let at = group.saturating_mul(u64::from(self.group_blocks)).saturating_add(block);
        if group >= u64::from(self.groups) || block >= u64::from(self.group_blocks) || at >= self.blocks {
            return damaged(format!("it refers to block {block} of group {group}, which does not exist"));
        }
        at.checked_mul(1 << self.block_bits).ok_or_else(|| Fault::Damaged("a block beyond all disks".into()))
    }

    /// Where a block begins; its number has the group in the high bits.
    pub fn block_offset(&self, block: u64) -> Faulty<u64> {
        self.offset_in(block >> self.group_bits, block & ((1 << self.group_bits) - 1))
    }

    /// Where an inode begins; its number has the group, the block in it, and the place in that.
    pub fn inode_offset(&self, inode: u64) -> Faulty<u64> {
        let block = inode >> self.inodes_in_block_bits;
        let place = inode & ((1 << self.inodes_in_block_bits) - 1);
        Ok(self.block_offset(block)? + place * self.inode_bytes as u64)
    }
}
