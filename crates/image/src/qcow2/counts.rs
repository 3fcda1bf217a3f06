//! How many refer to each cluster of the file: a table of pointers to blocks of counts.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::FallocateFlags;

use super::header::Header;
use super::tables::Entry;
use super::{damaged, read_or_zeros};

const COUNT_BYTES: u64 = 2;
/// As QEMU has it.
const TABLE_BYTES_MAX: u64 = 8 << 20;

/// The counts of an image that is written. New clusters come at the end of the file.
#[derive(Debug)]
pub(super) struct Counts {
    /// Where each block of counts lies; 0 where there is none.
    blocks: Vec<u64>,
    /// The first cluster behind the end.
    next: u64,
}

impl Counts {
    pub fn read(file: &File, header: &Header) -> io::Result<Self> {
        let length = u64::from(header.count_table_clusters) << header.cluster_bits;
        if length > TABLE_BYTES_MAX {
            return Err(damaged("its table of counts is impossibly large"));
        }
        let mut bytes = vec![0; length as usize];
        read_or_zeros(file, &mut bytes, header.count_table_offset)?;
        let blocks: Vec<u64> = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_be_bytes(*word) & !0x1ff).collect();
        if blocks.iter().any(|block| !header.is_aligned(*block)) {
            return Err(damaged("a block of counts that does not begin at a cluster"));
        }
        let next = file.metadata()?.len().div_ceil(header.cluster_bytes() as u64);
        Ok(Self { blocks, next })
    }

    fn counts_in_block(header: &Header) -> u64 {
        header.cluster_bytes() as u64 / COUNT_BYTES
    }

    /// A cluster at the end of the file, counted once.
    pub fn allocate(&mut self, file: &File, header: &Header) -> io::Result<u64> {
        // A block of counts may have to come first: then its cluster is the next one.
        loop {
            let cluster = self.next;
            let place = usize::try_from(cluster / Self::counts_in_block(header)).map_err(io::Error::other)?;
            match self.blocks.get(place) {
                None => {
                    let message = "the image's table of counts is full: restore to a new image";
                    return Err(io::Error::new(io::ErrorKind::StorageFull, message));
                }
                Some(0) => {
                    let offset = cluster << header.cluster_bits;
                    self.next += 1;
                    file.set_len(self.next << header.cluster_bits)?;
                    // It counts itself, and is zeros otherwise, since it was never written.
                    let inside = cluster % Self::counts_in_block(header);
                    file.write_all_at(&1_u16.to_be_bytes(), offset + inside * COUNT_BYTES)?;
                    file.write_all_at(&offset.to_be_bytes(), header.count_table_offset + place as u64 * 8)?;
                    self.blocks[place] = offset;
                }
                Some(_) => {
                    self.next += 1;
                    self.set(file, header, cluster, 1)?;
                    return Ok(cluster << header.cluster_bits);
                }
            }
        }
    }

    /// Where the count of a cluster stands.
    fn offset_of(&self, header: &Header, cluster: u64) -> Option<u64> {
        let place = usize::try_from(cluster / Self::counts_in_block(header)).ok()?;
        let block = self.blocks.get(place).copied().filter(|block| *block != 0)?;
        Some(block + cluster % Self::counts_in_block(header) * COUNT_BYTES)
    }

    fn set(&self, file: &File, header: &Header, cluster: u64, count: u16) -> io::Result<()> {
        let at = self.offset_of(header, cluster).ok_or_else(|| damaged("a cluster without a count"))?;
        file.write_all_at(&count.to_be_bytes(), at)
    }

    /// One reference less to everything that an entry stood for.
    pub fn release(&self, file: &File, header: &Header, entry: Entry) -> io::Result<()> {
        match entry {
            Entry::Absent | Entry::Zero { kept: None } => Ok(()),
            Entry::Zero { kept: Some(offset) } | Entry::Data { offset, .. } => {
                self.release_cluster(file, header, offset)
            }
            Entry::Compressed { offset, length } => {
                let (first, last) =
                    (offset >> header.cluster_bits, (offset + length as u64 - 1) >> header.cluster_bits);
                (first..=last)
                    .try_for_each(|cluster| self.release_cluster(file, header, cluster << header.cluster_bits))
            }
        }
    }

    pub fn release_cluster(&self, file: &File, header: &Header, offset: u64) -> io::Result<()> {
        let cluster = offset >> header.cluster_bits;
        let at = self.offset_of(header, cluster).ok_or_else(|| damaged("a cluster without a count"))?;
        let mut count = [0; COUNT_BYTES as usize];
        file.read_exact_at(&mut count, at).map_err(|_| damaged("a block of counts behind the end of the file"))?;
        let Some(count) = u16::from_be_bytes(count).checked_sub(1) else {
            return Err(damaged("a cluster in use that is counted as free"));
        };
        self.set(file, header, cluster, count)?;
        if count == 0 {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            // The room stays taken where the file system cannot give it back.
            let _ = rustix::fs::fallocate(file, flags, cluster << header.cluster_bits, header.cluster_bytes() as u64);
        }
        Ok(())
    }
}
