//! Where each cluster of the disk lies: a first table in memory, and tables of the second level as they are needed.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::counts::Counts;
use super::header::Header;
use super::{damaged, read_or_zeros};

/// Nobody else refers to what the entry points to: it may be overwritten.
const OWN: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// Tables of 64 KiB as a rule, each for 512 MiB of the disk.
const TABLES_KEPT: usize = 32;

/// Where one cluster lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// Nowhere here.
    Absent,
    /// Reads as zeros, whatever may be kept for it.
    Zero {
        kept: Option<u64>,
    },
    Data {
        offset: u64,
        is_own: bool,
    },
    /// The length is that of whole sectors.
    Compressed {
        offset: u64,
        length: usize,
    },
}

#[derive(Debug)]
pub(super) struct Tables {
    first: Vec<u64>,
    /// The last that were used, by their place in the first table.
    second: VecDeque<(usize, Vec<u64>)>,
}

fn words(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks::<8>().0.iter().map(|word| u64::from_be_bytes(*word)).collect()
}

impl Tables {
    pub fn read(file: &File, header: &Header) -> io::Result<Self> {
        let mut bytes = vec![0; header.first_table_entries as usize * 8];
        read_or_zeros(file, &mut bytes, header.first_table_offset)?;
        Ok(Self { first: words(&bytes), second: VecDeque::new() })
    }

    /// The place of a cluster in the first table and in one of the second.
    fn place(header: &Header, cluster: u64) -> (usize, usize) {
        ((cluster / header.table_entries()) as usize, (cluster % header.table_entries()) as usize)
    }

    /// The table of the second level, and whether it may be written to. `None` when there is none.
    fn second(&mut self, file: &File, header: &Header, place: usize) -> io::Result<Option<&mut Vec<u64>>> {
        let raw = *self.first.get(place).ok_or_else(|| damaged("its first table is too short"))?;
        let offset = raw & OFFSET_MASK;
        if offset == 0 {
            return Ok(None);
        }
        if let Some(known) = self.second.iter().position(|(known, _)| *known == place) {
            return Ok(self.second.get_mut(known).map(|(_, table)| table));
        }
        if !header.is_aligned(offset) {
            return Err(damaged("a table that does not begin at a cluster"));
        }
        let mut bytes = vec![0; header.cluster_bytes()];
        file.read_exact_at(&mut bytes, offset).map_err(|_| damaged("a table behind the end of the file"))?;
        if self.second.len() == TABLES_KEPT {
            self.second.pop_front();
        }
        self.second.push_back((place, words(&bytes)));
        Ok(self.second.back_mut().map(|(_, table)| table))
    }

    pub fn entry(&mut self, file: &File, header: &Header, cluster: u64) -> io::Result<Entry> {
        let (place, inside) = Self::place(header, cluster);
        let Some(table) = self.second(file, header, place)? else { return Ok(Entry::Absent) };
        decode(header, table[inside])
    }

    /// Changes where a cluster lies, on the disk first. A table that others refer to is copied before.
    pub fn set(
        &mut self,
        file: &File,
        header: &Header,
        counts: &mut Counts,
        cluster: u64,
        entry: Entry,
    ) -> io::Result<()> {
        let (place, inside) = Self::place(header, cluster);
        let raw = *self.first.get(place).ok_or_else(|| damaged("its first table is too short"))?;
        let mut offset = raw & OFFSET_MASK;
        if offset == 0 || raw & OWN == 0 {
            let table = match self.second(file, header, place)? {
                Some(table) => table.clone(),
                None => vec![0; header.table_entries() as usize],
            };
            let bytes: Vec<u8> = table.iter().flat_map(|word| word.to_be_bytes()).collect();
            let copied_from = offset;
            offset = counts.allocate(file, header)?;
            file.write_all_at(&bytes, offset)?;
            file.write_all_at(&(offset | OWN).to_be_bytes(), header.first_table_offset + place as u64 * 8)?;
            self.first[place] = offset | OWN;
            self.second.retain(|(known, _)| *known != place);
            if copied_from != 0 {
                counts.release_cluster(file, header, copied_from)?;
            }
        }
        let word = match entry {
            Entry::Data { offset, is_own: true } => offset | OWN,
            _ => 0,
        };
        file.write_all_at(&word.to_be_bytes(), offset + inside as u64 * 8)?;
        if let Some(table) = self.second(file, header, place)? {
            table[inside] = word;
        }
        Ok(())
    }
}

fn decode(header: &Header, word: u64) -> io::Result<Entry> {
    if word & COMPRESSED != 0 {
        let length_bits = header.cluster_bits - 8;
        let offset_bits = 62 - length_bits;
        let offset = word & ((1 << offset_bits) - 1);
        let sectors = (word >> offset_bits & ((1 << length_bits) - 1)) + 1;
        return Ok(Entry::Compressed { offset, length: (sectors * 512 - offset % 512) as usize });
    }
    let offset = word & OFFSET_MASK;
    if !header.is_aligned(offset) {
        return Err(damaged("a cluster that does not begin at one"));
    }
    if header.has_zero_clusters() && word & ZERO != 0 {
        return Ok(Entry::Zero { kept: (offset != 0).then_some(offset) });
    }
    Ok(match offset {
        0 => Entry::Absent,
        offset => Entry::Data { offset, is_own: word & OWN != 0 },
    })
}
