//! What a disk or a partition holds, by what it begins with.

use std::io;

use serde::Serialize;

use crate::ReadAt;

/// What was recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Contents {
    /// ext2, ext3 or ext4.
    Ext4,
    Xfs,
    /// A physical volume of LVM.
    Lvm,
    Luks,
    /// A member of a Linux software RAID.
    Raid,
    Swap,
    Btrfs,
    Ntfs,
    Fat,
    Unknown,
}

impl Contents {
    pub fn as_str(self) -> &'static str {
        match self {
            Contents::Ext4 => "ext4",
            Contents::Xfs => "xfs",
            Contents::Lvm => "lvm",
            Contents::Luks => "luks",
            Contents::Raid => "raid",
            Contents::Swap => "swap",
            Contents::Btrfs => "btrfs",
            Contents::Ntfs => "ntfs",
            Contents::Fat => "fat",
            Contents::Unknown => "unknown",
        }
    }
}

/// Where a mark stands, and what it means.
const MARKS: [(u64, &[u8], Contents); 15] = [
    (0, b"XFSB", Contents::Xfs),
    (1024 + 56, &[0x53, 0xef], Contents::Ext4),
    (0, b"LUKS\xba\xbe", Contents::Luks),
    // The label of LVM is in one of the first four sectors.
    (0, b"LABELONE", Contents::Lvm),
    (512, b"LABELONE", Contents::Lvm),
    (1024, b"LABELONE", Contents::Lvm),
    (1536, b"LABELONE", Contents::Lvm),
    (0, &[0xfc, 0x4e, 0x2b, 0xa9], Contents::Raid),
    (4096, &[0xfc, 0x4e, 0x2b, 0xa9], Contents::Raid),
    (4096 - 10, b"SWAPSPACE2", Contents::Swap),
    (0x10040, b"_BHRfS_M", Contents::Btrfs),
    (3, b"NTFS    ", Contents::Ntfs),
    (54, b"FAT", Contents::Fat),
    (82, b"FAT32", Contents::Fat),
    (3, b"EXFAT   ", Contents::Fat),
];

/// Recognises what is in a disk or partition.
pub fn probe(disk: &dyn ReadAt) -> io::Result<Contents> {
    for (offset, mark, contents) in MARKS {
        if offset + mark.len() as u64 > disk.size_bytes() {
            continue;
        }
        let mut bytes = vec![0; mark.len()];
        disk.read_at(&mut bytes, offset)?;
        if bytes == mark {
            return Ok(contents);
        }
    }
    Ok(Contents::Unknown)
}
