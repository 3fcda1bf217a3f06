//! Which blobs there are and what is known of each, at 25 bytes a blob.
//!
//! Fifty million blobs must fit into a machine's memory beside everything else, so that this is a sorted
//! array of fixed-size records. Of an id only the first 24 bytes are kept: two blobs that share them
//! would take 2^96 tries to make.

use std::collections::HashMap;

use crate::buckets::bucket_starts;
use crate::parallel::parallel_sort;
use crate::{BlobKind, Id};

const PREFIX_BYTES: usize = 24;
/// So many records share a bucket, as ids are spread evenly: a search then stays within a few hundred bytes. At fifty
/// million blobs in no more than 65,536 buckets, looking up was three quarters of a prune.
const RECORDS_PER_BUCKET: usize = 8;
/// More would push each other out of the nearest cache.
pub(crate) const TOUCHED_AT_ONCE: usize = 32;
/// Of the first four bytes of an id.
const BUCKET_BITS_MAX: u32 = 24;

type Prefix = [u8; PREFIX_BYTES];

#[derive(Clone, Copy, PartialEq, Eq)]
struct Record {
    prefix: Prefix,
    flags: u8,
}

const TREE: u8 = 1;

/// What can be noted of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flag {
    /// A snapshot refers to it.
    Used = 2,
    /// The index knows more than one copy.
    Several = 4,
    /// One copy has been chosen to stay, or was taken along.
    Claimed = 8,
    /// A copy stands in a pack that stays.
    Kept = 16,
    /// It is used and a copy stands in a pack that goes, where another one may be no copy at all.
    Risked = 32,
    /// A copy stands in a pack whose used blobs are read and written anew.
    Rewritten = 64,
}

/// All blobs of an index, with flags.
#[derive(Default)]
pub(crate) struct BlobTable {
    /// Sorted by prefix and kind once `sort` has been called.
    records: Vec<Record>,
    /// Where the records begin whose ids share their first bits. Empty before `sort`.
    bucket_starts: Vec<u32>,
    bucket_bits: u32,
    /// What came after the sorting: a few new index files' worth.
    late: HashMap<(Prefix, u8), u8>,
}

/// Where a blob's flags are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Sorted(usize),
    Late(Prefix, u8),
}

fn prefix_of(id: &Id) -> Prefix {
    let mut prefix = [0; PREFIX_BYTES];
    prefix.copy_from_slice(&id.as_bytes()[..PREFIX_BYTES]);
    prefix
}

fn kind_bit(kind: BlobKind) -> u8 {
    if kind == BlobKind::Tree { TREE } else { 0 }
}

impl Record {
    fn key(&self) -> (Prefix, u8) {
        (self.prefix, self.flags & TREE)
    }
}

impl BlobTable {
    /// Takes in a copy of a blob. Before `sort` this is cheap; afterwards it is meant for few.
    pub fn add(&mut self, kind: BlobKind, id: &Id) {
        let (prefix, kind) = (prefix_of(id), kind_bit(kind));
        if self.bucket_starts.is_empty() {
            self.records.push(Record { prefix, flags: kind });
            return;
        }
        match self.place_of((prefix, kind)) {
            Some(place) => self.set_at(place, Flag::Several),
            None => {
                self.late.insert((prefix, kind), kind);
            }
        }
    }

    /// Makes the table ready to be asked.
    pub fn sort(&mut self) {
        parallel_sort(&mut self.records, &|a, b| a.key().cmp(&b.key()));
        self.records.dedup_by(|later, kept| {
            let same = later.key() == kept.key();
            if same {
                kept.flags |= Flag::Several as u8;
            }
            same
        });
        self.records.shrink_to_fit();
        let bits = bucket_bits(self.records.len());
        self.bucket_starts = bucket_starts(1 << bits, self.records.iter().map(|record| bucket(&record.prefix, bits)));
        self.bucket_bits = bits;
    }

    fn place_of(&self, key: (Prefix, u8)) -> Option<Place> {
        let bucket = bucket(&key.0, self.bucket_bits);
        let (start, end) = (*self.bucket_starts.get(bucket)?, *self.bucket_starts.get(bucket + 1)?);
        let (start, end) = (start as usize, end as usize);
        match self.records[start..end].binary_search_by_key(&key, Record::key) {
            Ok(position) => Some(Place::Sorted(start + position)),
            Err(_) => self.late.contains_key(&key).then_some(Place::Late(key.0, key.1)),
        }
    }

    /// Brings close what a search for each of these will look at. One search after the other waits for memory each time; the
    /// loads here wait for none of the others. A group of `TOUCHED_AT_ONCE` stays in the processor's cache until it is used.
    pub fn touch<'i>(&self, wanted: impl Iterator<Item = &'i Id>) {
        let mut middles = [0; TOUCHED_AT_ONCE];
        for (middle, id) in middles.iter_mut().zip(wanted) {
            let bucket = bucket(&prefix_of(id), self.bucket_bits);
            let ends = self.bucket_starts.get(bucket).zip(self.bucket_starts.get(bucket + 1));
            *middle = ends.map_or(0, |(start, end)| start.midpoint(*end) as usize);
        }
        let looked_at = middles.iter().filter_map(|middle| self.records.get(*middle));
        std::hint::black_box(looked_at.fold(0, |all, record| all ^ record.flags));
    }

    /// Where a blob is noted; `None` when no index names it.
    pub fn find(&self, kind: BlobKind, id: &Id) -> Option<Place> {
        self.place_of((prefix_of(id), kind_bit(kind)))
    }

    fn flags_at(&self, place: Place) -> u8 {
        match place {
            Place::Sorted(position) => self.records[position].flags,
            Place::Late(prefix, kind) => self.late.get(&(prefix, kind)).copied().unwrap_or_default(),
        }
    }

    pub fn is(&self, place: Place, flag: Flag) -> bool {
        self.flags_at(place) & flag as u8 != 0
    }

    fn set_at(&mut self, place: Place, flag: Flag) {
        match place {
            Place::Sorted(position) => self.records[position].flags |= flag as u8,
            Place::Late(prefix, kind) => *self.late.entry((prefix, kind)).or_insert(kind) |= flag as u8,
        }
    }

    /// Sets a flag and says whether it was not set before.
    pub fn set(&mut self, place: Place, flag: Flag) -> bool {
        let is_new = !self.is(place, flag);
        self.set_at(place, flag);
        is_new
    }

    /// Takes a flag back from one blob.
    pub fn clear_at(&mut self, place: Place, flag: Flag) {
        let flags = match place {
            Place::Sorted(position) => self.records.get_mut(position).map(|record| &mut record.flags),
            Place::Late(prefix, kind) => self.late.get_mut(&(prefix, kind)),
        };
        if let Some(flags) = flags {
            *flags &= !(flag as u8);
        }
    }

    /// Whether any blob has all of these flags.
    pub fn any(&self, flags: &[Flag]) -> bool {
        self.any_without(flags, &[])
    }

    /// Whether any blob has all of the first flags and none of the others.
    pub fn any_without(&self, flags: &[Flag], without: &[Flag]) -> bool {
        let (wanted, looked_at) = (bits(flags), bits(flags) | bits(without));
        let has = |found: u8| found & looked_at == wanted;
        self.records.iter().any(|record| has(record.flags)) || self.late.values().any(|flags| has(*flags))
    }

    /// Takes flags back from every blob.
    pub fn clear(&mut self, flags: &[Flag]) {
        let left = !bits(flags);
        self.records.iter_mut().for_each(|record| record.flags &= left);
        self.late.values_mut().for_each(|found| *found &= left);
    }
}

fn bits(flags: &[Flag]) -> u8 {
    flags.iter().fold(0, |bits, flag| bits | *flag as u8)
}

fn bucket_bits(records: usize) -> u32 {
    (records / RECORDS_PER_BUCKET).max(1).ilog2().min(BUCKET_BITS_MAX)
}

fn bucket(prefix: &Prefix, bits: u32) -> usize {
    let first = u32::from_be_bytes([prefix[0], prefix[1], prefix[2], prefix[3]]);
    // In 64 bits, where there may be no bit to keep.
    (u64::from(first) >> (u32::BITS - bits)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> Id {
        Id::of(&number.to_le_bytes())
    }

    #[test]
    fn blobs_are_found_with_their_flags_early_and_late() {
        let mut table = BlobTable::default();
        for number in 0..5000 {
            table.add(BlobKind::Data, &id(number));
        }
        table.add(BlobKind::Tree, &id(7));
        table.add(BlobKind::Data, &id(8));
        table.sort();
        assert_eq!(table.records.len(), 5001);
        table.add(BlobKind::Data, &id(6000));
        table.add(BlobKind::Data, &id(9));
        assert_eq!(table.late.len(), 1);
        for number in (0..5000).chain([6000]) {
            let place = table.find(BlobKind::Data, &id(number)).unwrap();
            assert_eq!(table.is(place, Flag::Several), [8, 9].contains(&number), "{number}");
            assert!(table.set(place, Flag::Used));
            assert!(!table.set(place, Flag::Used));
        }
        let tree = table.find(BlobKind::Tree, &id(7)).unwrap();
        assert!(!table.is(tree, Flag::Used));
        assert_eq!(table.find(BlobKind::Tree, &id(8)), None);
        assert_eq!(table.find(BlobKind::Data, &id(5000)), None);
        assert!(table.any(&[Flag::Used, Flag::Several]) && !table.any(&[Flag::Kept]));
    }

    fn resident_bytes() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
    }

    /// With `LEVEE_VAULT_TABLE_BLOBS=50000000` the size that a vault may come to.
    #[test]
    fn a_blob_takes_25_bytes_of_memory() {
        let blobs = std::env::var("LEVEE_VAULT_TABLE_BLOBS").map_or(1_000_000, |value| value.parse().unwrap());
        let (before, started) = (resident_bytes(), std::time::Instant::now());
        let id_of = |number: u64| {
            let mut bytes = [0; Id::LENGTH];
            let mixed = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            bytes[..8].copy_from_slice(&mixed.to_be_bytes());
            bytes[8..16].copy_from_slice(&number.to_be_bytes());
            Id::from_bytes(bytes)
        };
        let mut table = BlobTable::default();
        for number in 0..blobs {
            table.add(BlobKind::Data, &id_of(number));
        }
        table.sort();
        for number in 0..blobs {
            let place = table.find(BlobKind::Data, &id_of(number)).unwrap();
            assert!(table.set(place, Flag::Used), "{number}");
        }
        let taken = resident_bytes().saturating_sub(before);
        println!("{blobs} blobs: {} MiB, {:?}", taken >> 20, started.elapsed());
        assert_eq!(size_of::<Record>(), 25);
        assert!(taken < blobs as usize * 26 + (32 << 20), "{taken} bytes");
    }
}
