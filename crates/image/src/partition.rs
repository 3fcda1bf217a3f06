//! Partition tables: MBR with logical partitions, and GPT with its copy at the end.
//!
//! Sources: the UEFI specification, chapter 5; the MBR as every boot loader reads it. Nothing here is trusted:
//! a partition that does not lie within the image is left out.

use std::io;

use serde::Serialize;

use crate::ReadAt;

const SECTOR_BYTES: u64 = 512;
/// Disks that count in larger sectors have their GPT at the second one of those.
const GPT_SECTOR_BYTES: [u64; 2] = [512, 4096];
const MBR_ENTRIES_AT: usize = 446;
const MBR_ENTRY_BYTES: usize = 16;
const MBR_PROTECTIVE: u8 = 0xee;
const MBR_EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
/// As Linux counts; a chain that goes on is damaged.
const LOGICAL_PARTITIONS_MAX: u32 = 124;
const GPT_HEADER_BYTES: usize = 92;
/// The specification wants room for 128; more than this is damage.
const GPT_ENTRIES_MAX: u32 = 1024;
const GPT_ENTRY_BYTES_MIN: usize = 128;
const GPT_ENTRY_BYTES_MAX: usize = 4096;

/// What kind of table an image has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TableKind {
    Mbr,
    Gpt,
}

/// A part of a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Partition {
    /// As Linux numbers it: `vda1` is 1.
    pub number: u32,
    pub start_bytes: u64,
    pub size_bytes: u64,
    /// The name that GPT gives it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
}

/// The partitions of a disk; `None` when it has no table.
pub fn partitions(disk: &dyn ReadAt) -> io::Result<Option<(TableKind, Vec<Partition>)>> {
    let Some(sector) = read(disk, 0, SECTOR_BYTES as usize)? else { return Ok(None) };
    let has_mbr = sector[510..] == [0x55, 0xaa];
    let entries = if has_mbr { mbr_entries(&sector) } else { Vec::new() };
    if !has_mbr || entries.iter().any(|entry| entry.kind == MBR_PROTECTIVE) {
        // Without the protective MBR there may still be a sound copy at the end.
        return Ok(gpt(disk)?.map(|partitions| (TableKind::Gpt, partitions)));
    }
    if entries.is_empty() {
        return Ok(None);
    }
    let mut found = Vec::new();
    for entry in &entries {
        if MBR_EXTENDED.contains(&entry.kind) {
            found.extend(logical_partitions(disk, entry.start_bytes)?);
        } else {
            found.push(entry.partition(entry.number, 0));
        }
    }
    found.retain(|partition| is_inside(disk, partition));
    found.sort_by_key(|partition| partition.number);
    Ok(Some((TableKind::Mbr, found)))
}

fn is_inside(disk: &dyn ReadAt, partition: &Partition) -> bool {
    partition.size_bytes > 0 && partition.start_bytes < disk.size_bytes()
}

/// `None` beyond the end.
fn read(disk: &dyn ReadAt, offset: u64, length: usize) -> io::Result<Option<Vec<u8>>> {
    if offset.checked_add(length as u64).is_none_or(|end| end > disk.size_bytes()) {
        return Ok(None);
    }
    let mut bytes = vec![0; length];
    disk.read_at(&mut bytes, offset)?;
    Ok(Some(bytes))
}

struct MbrEntry {
    number: u32,
    kind: u8,
    start_bytes: u64,
    size_bytes: u64,
}

impl MbrEntry {
    fn partition(&self, number: u32, base_bytes: u64) -> Partition {
        let start_bytes = base_bytes + self.start_bytes;
        Partition { number, start_bytes, size_bytes: self.size_bytes, name: String::new() }
    }
}

/// The entries of a sector that are in use. Empty when it is no table but a boot sector that looks alike.
fn mbr_entries(sector: &[u8]) -> Vec<MbrEntry> {
    let entries = &sector[MBR_ENTRIES_AT..MBR_ENTRIES_AT + 4 * MBR_ENTRY_BYTES];
    let u32_at = |entry: &[u8], at: usize| u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]);
    let mut found = Vec::new();
    for (number, entry) in (1..).zip(entries.chunks_exact(MBR_ENTRY_BYTES)) {
        // Only "active" and "not active" are known.
        if entry[0] & 0x7f != 0 {
            return Vec::new();
        }
        let (start, count) = (u64::from(u32_at(entry, 8)), u64::from(u32_at(entry, 12)));
        if entry[4] != 0 && count != 0 {
            let (start_bytes, size_bytes) = (start * SECTOR_BYTES, count * SECTOR_BYTES);
            found.push(MbrEntry { number, kind: entry[4], start_bytes, size_bytes });
        }
    }
    found
}

/// Each lies behind a table of its own: the first entry is the partition, counted from that table, the second
/// the next table, counted from the first.
fn logical_partitions(disk: &dyn ReadAt, first: u64) -> io::Result<Vec<Partition>> {
    let mut found = Vec::new();
    let mut at = first;
    for number in 5..5 + LOGICAL_PARTITIONS_MAX {
        let Some(sector) = read(disk, at, SECTOR_BYTES as usize)? else { break };
        if sector[510..] != [0x55, 0xaa] {
            break;
        }
        let entries = mbr_entries(&sector);
        if let Some(entry) = entries.iter().find(|entry| !MBR_EXTENDED.contains(&entry.kind)) {
            found.push(entry.partition(number, at));
        }
        match entries.iter().find(|entry| MBR_EXTENDED.contains(&entry.kind)) {
            Some(next) if next.start_bytes > 0 => at = first + next.start_bytes,
            _ => break,
        }
    }
    Ok(found)
}

fn gpt(disk: &dyn ReadAt) -> io::Result<Option<Vec<Partition>>> {
    for sector_bytes in GPT_SECTOR_BYTES {
        let copy = (disk.size_bytes() / sector_bytes).saturating_sub(1) * sector_bytes;
        for header_at in [sector_bytes, copy] {
            if let Some(found) = gpt_at(disk, header_at, sector_bytes)? {
                return Ok(Some(found));
            }
        }
    }
    Ok(None)
}

/// `None` where there is no header with a right checksum.
fn gpt_at(disk: &dyn ReadAt, at: u64, sector_bytes: u64) -> io::Result<Option<Vec<Partition>>> {
    let Some(mut header) = read(disk, at, sector_bytes as usize)? else { return Ok(None) };
    let u32_at = |bytes: &[u8], at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let u64_at = |bytes: &[u8], at: usize| u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32;
    let header_bytes = u32_at(&header, 12) as usize;
    if !header.starts_with(b"EFI PART") || !(GPT_HEADER_BYTES..=header.len()).contains(&header_bytes) {
        return Ok(None);
    }
    let checksum = u32_at(&header, 16);
    header[16..20].fill(0);
    if crc32fast::hash(&header[..header_bytes]) != checksum {
        return Ok(None);
    }
    let (count, entry_bytes) = (u32_at(&header, 80), u32_at(&header, 84) as usize);
    if count > GPT_ENTRIES_MAX || !(GPT_ENTRY_BYTES_MIN..=GPT_ENTRY_BYTES_MAX).contains(&entry_bytes) {
        return Ok(None);
    }
    let Some(table_at) = u64_at(&header, 72).checked_mul(sector_bytes) else { return Ok(None) };
    let Some(table) = read(disk, table_at, count as usize * entry_bytes)? else { return Ok(None) };
    if crc32fast::hash(&table) != u32_at(&header, 88) {
        return Ok(None);
    }
    let mut found = Vec::new();
    for (number, entry) in (1..).zip(table.chunks_exact(entry_bytes)) {
        let (first, last) = (u64_at(entry, 32), u64_at(entry, 40));
        let size = last.checked_sub(first).and_then(|count| count.checked_add(1)?.checked_mul(sector_bytes));
        let (Some(size_bytes), Some(start_bytes)) = (size, first.checked_mul(sector_bytes)) else { continue };
        if entry[..16] == [0; 16] {
            continue;
        }
        let units = entry[56..128].as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit));
        let name: String = char::decode_utf16(units.take_while(|unit| *unit != 0))
            .map(|character| character.unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect();
        found.push(Partition { number, start_bytes, size_bytes, name });
    }
    found.retain(|partition| is_inside(disk, partition));
    Ok(Some(found))
}
