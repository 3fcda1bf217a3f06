use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::read_or_zeros;
use crate::format::QCOW2_MAGIC;
use crate::{Error, Format, Result};

/// Version 3 with the field for the kind of compression.
const HEADER_BYTES: usize = 112;
const HEADER_BYTES_VERSION_2: usize = 72;
/// Of what we make: version 3 without the kind of compression.
const NEW_HEADER_BYTES: u32 = 104;
const NEW_CLUSTER_BITS: u32 = 16;
/// Counts of 16 bits, as everyone has them.
pub(super) const COUNT_ORDER: u32 = 4;
/// One cluster of pointers to blocks of counts is what we make: enough for 16 TiB in the file.
const NEW_COUNT_CLUSTERS: u64 = 1;
/// As QEMU has it.
const FIRST_TABLE_BYTES_MAX: u64 = 32 << 20;
const NAME_BYTES_MAX: u32 = 1023;
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
/// The incompatible features, by bit, and what is to be said of an image that has one.
const INCOMPATIBLE: [Option<&str>; 5] = [
    Some("was not closed by whoever wrote it: end that process, or run `qemu-img check -r leaks` on it"),
    Some("is marked as corrupt: run `qemu-img check` on it"),
    Some(
        "has its data in another file: back up that one as a raw image, or convert it with `qemu-img convert -O qcow2`",
    ),
    None,
    Some("has subclusters (extended_l2), which are not supported: convert it with `qemu-img convert -O qcow2`"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Deflate,
    Zstd,
}

/// What an image says of itself.
#[derive(Clone, Debug)]
pub(super) struct Header {
    version: u32,
    pub cluster_bits: u32,
    pub size_bytes: u64,
    pub first_table_offset: u64,
    pub first_table_entries: u32,
    pub count_table_offset: u64,
    pub count_table_clusters: u32,
    pub compression: Compression,
    count_order: u32,
    backing_offset: u64,
    backing_bytes: u32,
    header_bytes: u32,
    autoclear: u64,
}

impl Header {
    pub fn read(file: &File, path: &Path) -> Result<Self> {
        let mut bytes = vec![0; HEADER_BYTES];
        read_or_zeros(file, &mut bytes, 0).map_err(Error::io("read", path))?;
        let refused = |reason: String| Err(Error::Unsupported { path: path.to_path_buf(), reason });
        if bytes[..4] != QCOW2_MAGIC {
            return refused("does not begin as one: say --image-format raw if that is what it is".into());
        }
        let u32_at = |at: usize| bytes[at..at + 4].iter().fold(0, |value, byte| value << 8 | u32::from(*byte));
        let u64_at = |at: usize| u64::from(u32_at(at)) << 32 | u64::from(u32_at(at + 4));
        let version = u32_at(4);
        if !matches!(version, 2 | 3) {
            return refused(format!("is of version {version}; 2 and 3 are known"));
        }
        if u32_at(32) != 0 {
            return refused("is encrypted: decrypt it with `qemu-img convert`, or back it up as a raw file".into());
        }
        let is_3 = version == 3;
        let incompatible = if is_3 { u64_at(72) } else { 0 };
        for (bit, reason) in INCOMPATIBLE.iter().enumerate() {
            if let Some(reason) = reason.filter(|_| incompatible & 1 << bit != 0) {
                return refused(reason.into());
            }
        }
        if incompatible >> INCOMPATIBLE.len() != 0 {
            return refused(format!("has features that are not known ({incompatible:#x})"));
        }
        let header_bytes = if is_3 { u32_at(100) } else { HEADER_BYTES_VERSION_2 as u32 };
        let compression = match bytes[104] {
            1 if is_3 && header_bytes > 104 => Compression::Zstd,
            0 => Compression::Deflate,
            _ if !is_3 || header_bytes <= 104 => Compression::Deflate,
            other => return refused(format!("is compressed in a way that is not known ({other})")),
        };
        let header = Self {
            version,
            cluster_bits: u32_at(20),
            size_bytes: u64_at(24),
            first_table_offset: u64_at(40),
            first_table_entries: u32_at(36),
            count_table_offset: u64_at(48),
            count_table_clusters: u32_at(56),
            compression,
            count_order: if is_3 { u32_at(96) } else { COUNT_ORDER },
            backing_offset: u64_at(8),
            backing_bytes: u32_at(16),
            header_bytes,
            autoclear: if is_3 { u64_at(88) } else { 0 },
        };
        match header.is_sound() {
            true => Ok(header),
            false => refused("has a damaged header: run `qemu-img check` on it".into()),
        }
    }

    fn is_sound(&self) -> bool {
        (9..=21).contains(&self.cluster_bits)
            && self.size_bytes <= i64::MAX as u64
            && u64::from(self.first_table_entries) * 8 <= FIRST_TABLE_BYTES_MAX
            && u64::from(self.first_table_entries) >= self.first_table_entries_needed()
            && self.is_aligned(self.first_table_offset)
            && self.is_aligned(self.count_table_offset)
    }

    fn first_table_entries_needed(&self) -> u64 {
        self.size_bytes.div_ceil(1 << (2 * self.cluster_bits - 3))
    }

    pub fn is_aligned(&self, offset: u64) -> bool {
        offset & (self.cluster_bytes() as u64 - 1) == 0
    }

    pub fn cluster_bytes(&self) -> usize {
        1 << self.cluster_bits
    }

    /// Entries of one table of the second level.
    pub fn table_entries(&self) -> u64 {
        1 << (self.cluster_bits - 3)
    }

    /// Version 3 marks clusters of zeros.
    pub fn has_zero_clusters(&self) -> bool {
        self.version >= 3
    }

    /// The file that this image stands on, and its format where that is said.
    pub fn backing_file(&self, file: &File, path: &Path) -> Result<Option<(PathBuf, Option<Format>)>> {
        if self.backing_offset == 0 {
            return Ok(None);
        }
        let refused = |reason: &str| Err(Error::Unsupported { path: path.to_path_buf(), reason: reason.into() });
        if self.backing_bytes > NAME_BYTES_MAX {
            return refused("names a backing file in a way that cannot be");
        }
        let mut name = vec![0; self.backing_bytes as usize];
        file.read_exact_at(&mut name, self.backing_offset).map_err(Error::io("read", path))?;
        let name = Path::new(OsStr::from_bytes(name.strip_prefix(b"file:").unwrap_or(&name)));
        let folder = path.parent().unwrap_or(Path::new(""));
        let format = match self.backing_format(file).map_err(Error::io("read", path))?.as_deref() {
            None => None,
            Some(b"raw") => Some(Format::Raw),
            Some(b"qcow2") => Some(Format::Qcow2),
            Some(_) => return refused("stands on a file that is neither raw nor qcow2"),
        };
        Ok(Some((folder.join(name), format)))
    }

    /// From the extensions behind the header: each a kind, a length, and data up to a multiple of eight.
    fn backing_format(&self, file: &File) -> io::Result<Option<Vec<u8>>> {
        let mut at = u64::from(self.header_bytes);
        while at + 8 <= self.cluster_bytes() as u64 {
            let mut head = [0; 8];
            read_or_zeros(file, &mut head, at)?;
            let (kind, length) = (&head[..4], u64::from(u32::from_be_bytes([head[4], head[5], head[6], head[7]])));
            if kind == [0; 4] || length > self.cluster_bytes() as u64 {
                break;
            }
            if kind == EXTENSION_BACKING_FORMAT.to_be_bytes() {
                let mut format = vec![0; length as usize];
                read_or_zeros(file, &mut format, at + 8)?;
                return Ok(Some(format));
            }
            at += 8 + length.next_multiple_of(8);
        }
        Ok(None)
    }

    pub fn check_writable(&self, file: &File, path: &Path) -> Result<()> {
        let refused = |reason: &str| Err(Error::Unsupported { path: path.to_path_buf(), reason: reason.into() });
        if self.backing_file(file, path)?.is_some() {
            return refused("stands on a backing file and is not written to: restore to another name");
        }
        if self.count_order != COUNT_ORDER {
            return refused("counts references in an unusual width and is not written to: restore to another name");
        }
        if self.autoclear != 0 {
            return refused("has bitmaps, which a restore would falsify: remove them, or restore to another name");
        }
        Ok(())
    }

    /// Makes an image without any content: the header, the counts, the first table.
    pub fn write_new(file: &File, size_bytes: u64) -> io::Result<Self> {
        let cluster_bytes = 1_u64 << NEW_CLUSTER_BITS;
        let mut header = Self {
            version: 3,
            cluster_bits: NEW_CLUSTER_BITS,
            size_bytes,
            first_table_offset: (2 + NEW_COUNT_CLUSTERS) * cluster_bytes,
            first_table_entries: 0,
            count_table_offset: cluster_bytes,
            count_table_clusters: NEW_COUNT_CLUSTERS as u32,
            compression: Compression::Deflate,
            count_order: COUNT_ORDER,
            backing_offset: 0,
            backing_bytes: 0,
            header_bytes: NEW_HEADER_BYTES,
            autoclear: 0,
        };
        let entries = header.first_table_entries_needed().max(1);
        let clusters = 2 + NEW_COUNT_CLUSTERS + (entries * 8).div_ceil(cluster_bytes);
        if entries * 8 > FIRST_TABLE_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a qcow2 image cannot be so large: take raw"));
        }
        header.first_table_entries = entries as u32;
        file.set_len(clusters * cluster_bytes)?;
        // One block of counts: each of these clusters once.
        let counts: Vec<u8> = (0..clusters).flat_map(|_| 1_u16.to_be_bytes()).collect();
        file.write_all_at(&counts, (1 + NEW_COUNT_CLUSTERS) * cluster_bytes)?;
        file.write_all_at(&((1 + NEW_COUNT_CLUSTERS) * cluster_bytes).to_be_bytes(), cluster_bytes)?;
        file.write_all_at(&header.to_bytes(), 0)?;
        Ok(header)
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = QCOW2_MAGIC.to_vec();
        bytes.extend(self.version.to_be_bytes());
        bytes.extend([0; 8 + 4]);
        bytes.extend(self.cluster_bits.to_be_bytes());
        bytes.extend(self.size_bytes.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(self.first_table_entries.to_be_bytes());
        bytes.extend(self.first_table_offset.to_be_bytes());
        bytes.extend(self.count_table_offset.to_be_bytes());
        bytes.extend(self.count_table_clusters.to_be_bytes());
        // No snapshots, no features.
        bytes.extend([0; 4 + 8 + 8 + 8 + 8]);
        bytes.extend(self.count_order.to_be_bytes());
        bytes.extend(self.header_bytes.to_be_bytes());
        bytes
    }
}
