use super::bytes::{u8_at, u16_at, u32_at, u64_at, verify_checksum};
use super::superblock::Superblock;
use super::{Faulty, damaged};
use crate::file_system::{Attributes, FileKind, Moment};

const CHECKSUM_AT: usize = 100;
/// Where the forks begin.
const FORKS_AT: usize = 100;
const FORKS_AT_VERSION_3: usize = 176;
const FLAG_REALTIME: u16 = 1;
const FLAG2_BIG_TIME: u64 = 1 << 3;
const FLAG2_MANY_EXTENTS: u64 = 1 << 4;
/// Times of the larger kind count nanoseconds from here.
const BIG_TIME_EPOCH_S: i64 = -(1 << 31);

/// How a fork holds what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ForkFormat {
    /// The number of a device.
    Device,
    Inline,
    Extents,
    Btree,
}

/// A file, directory or anything else.
#[derive(Clone, Debug)]
pub(super) struct Inode {
    pub number: u64,
    pub attributes: Attributes,
    pub format: ForkFormat,
    pub extents: u64,
    pub is_realtime: bool,
    data_fork: Vec<u8>,
}

impl Inode {
    pub fn parse(superblock: &Superblock, number: u64, bytes: Vec<u8>) -> Faulty<Self> {
        let version = u8_at(&bytes, 4)?;
        let wanted = if superblock.has_checksums { 3..=3 } else { 1..=2 };
        if !bytes.starts_with(b"IN") || !wanted.contains(&version) {
            return damaged(format!("there is no inode {number}"));
        }
        if superblock.has_checksums {
            verify_checksum(&bytes, CHECKSUM_AT)?;
            if u64_at(&bytes, 152)? != number {
                return damaged(format!("where inode {number} should be is another one"));
            }
        }
        let flags2 = if version == 3 { u64_at(&bytes, 120)? } else { 0 };
        let mode = u32::from(u16_at(&bytes, 2)?);
        let Some(kind) = FileKind::of_mode(mode) else {
            return damaged(format!("inode {number} is of no kind (mode {mode:o})"));
        };
        let time = |at| -> Faulty<Moment> {
            let raw = u64_at(&bytes, at)?;
            if flags2 & FLAG2_BIG_TIME != 0 {
                let seconds = BIG_TIME_EPOCH_S + (raw / 1_000_000_000) as i64;
                return Ok(Moment { seconds, nanoseconds: (raw % 1_000_000_000) as u32 });
            }
            let seconds = i64::from((raw >> 32) as u32 as i32);
            Ok(Moment { seconds, nanoseconds: (raw as u32).min(999_999_999) })
        };
        let format = match u8_at(&bytes, 5)? {
            0 => ForkFormat::Device,
            1 => ForkFormat::Inline,
            2 => ForkFormat::Extents,
            3 => ForkFormat::Btree,
            other => return damaged(format!("inode {number} has a fork of an unknown kind ({other})")),
        };
        let extents =
            if flags2 & FLAG2_MANY_EXTENTS != 0 { u64_at(&bytes, 24)? } else { u64::from(u32_at(&bytes, 76)?) };
        let forks_at = if version == 3 { FORKS_AT_VERSION_3 } else { FORKS_AT };
        let attribute_fork_at = forks_at + usize::from(u8_at(&bytes, 82)?) * 8;
        let end = if attribute_fork_at > forks_at { attribute_fork_at } else { bytes.len() };
        let Some(data_fork) = bytes.get(forks_at..end) else {
            return damaged(format!("inode {number} has forks that reach beyond it"));
        };
        let is_device = matches!(kind, FileKind::Dev | FileKind::CharDev);
        let device = match is_device && format == ForkFormat::Device {
            true => Some(u32_at(data_fork, 0)?).map(|number| (number >> 18 & 0x3fff, number & 0x3ffff)),
            false => None,
        };
        let size_bytes = u64_at(&bytes, 56)?;
        if size_bytes > i64::MAX as u64 {
            return damaged(format!("inode {number} has an impossible size"));
        }
        let attributes = Attributes {
            kind,
            mode: mode & 0o7777,
            uid: u32_at(&bytes, 8)?,
            gid: u32_at(&bytes, 12)?,
            size_bytes,
            mtime: time(40)?,
            atime: time(32)?,
            device,
        };
        let is_realtime = u16_at(&bytes, 90)? & FLAG_REALTIME != 0;
        Ok(Self { number, attributes, format, extents, is_realtime, data_fork: data_fork.to_vec() })
    }

    pub fn data_fork(&self) -> &[u8] {
        &self.data_fork
    }

    /// What lies in the inode itself.
    pub fn inline(&self) -> Option<&[u8]> {
        (self.format == ForkFormat::Inline).then_some(&self.data_fork)
    }
}
