//! What blobs there are, in order. In parts by the first byte, of which each grows and is sorted by itself: fifty million
//! entries never lie in memory twice, as one list would when it grows.

use super::{Entry, Prefix};
use crate::buckets::bucket_starts;
use crate::parallel::{SORT_ALONE_BELOW, parallel_each_mut};

const SHARDS: usize = 1 << 8;
/// In a shard entries are looked up from the first of those that share their second byte.
const BUCKETS: usize = 1 << 8;

#[derive(Default)]
struct Shard {
    entries: Vec<Entry>,
    /// What is not in order yet, and not to be found.
    waiting: Vec<Entry>,
    /// Where each bucket begins; empty when nothing is in order.
    starts: Vec<u32>,
}

impl Shard {
    fn settle(&mut self) {
        let order = |entry: &Entry| (entry.key(), entry.number());
        let mut waiting = std::mem::take(&mut self.waiting);
        if waiting.is_empty() {
            return;
        }
        waiting.sort_unstable_by_key(order);
        if self.entries.is_empty() {
            waiting.shrink_to_fit();
            self.entries = waiting;
        } else {
            self.entries.reserve_exact(waiting.len());
            self.entries.append(&mut waiting);
            // Two runs in order are merged.
            self.entries.sort_by_key(order);
        }
        self.starts = bucket_starts(BUCKETS, self.entries.iter().map(|entry| usize::from(entry.prefix[1])));
    }

    fn find(&self, key: &(Prefix, u32)) -> &[Entry] {
        let bucket = usize::from(key.0[1]);
        let Some([start, end]) = self.starts.get(bucket..bucket + 2) else { return &[] };
        let entries = &self.entries[*start as usize..*end as usize];
        let first = entries.partition_point(|entry| entry.key() < *key);
        let count = entries[first..].iter().take_while(|entry| entry.key() == *key).count();
        &entries[first..first + count]
    }
}

/// Entries in the order of their keys, and of their numbers where keys are the same.
pub(super) struct Sorted {
    shards: Vec<Shard>,
}

impl Default for Sorted {
    fn default() -> Self {
        Self { shards: std::iter::repeat_with(Shard::default).take(SHARDS).collect() }
    }
}

impl Sorted {
    /// How many are in order.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.entries.len()).sum()
    }

    /// How many are not to be found before `settle`.
    pub fn waiting(&self) -> usize {
        self.shards.iter().map(|shard| shard.waiting.len()).sum()
    }

    pub fn push(&mut self, entry: Entry) {
        self.shards[usize::from(entry.prefix[0])].waiting.push(entry);
    }

    /// Puts what waits in order.
    pub fn settle(&mut self) {
        if self.len() + self.waiting() < SORT_ALONE_BELOW {
            self.shards.iter_mut().for_each(Shard::settle);
        } else {
            parallel_each_mut(&mut self.shards, Shard::settle);
        }
    }

    /// Takes out what waits.
    pub fn take_waiting(&mut self) -> Vec<Entry> {
        self.shards.iter_mut().flat_map(|shard| std::mem::take(&mut shard.waiting)).collect()
    }

    pub fn find(&self, key: &(Prefix, u32)) -> &[Entry] {
        self.shards[usize::from(key.0[0])].find(key)
    }

    /// Every key in order, once.
    pub fn keys(&self) -> impl Iterator<Item = (Prefix, u32)> {
        let copies = self.shards.iter().flat_map(|shard| shard.entries.chunk_by(|a, b| a.key() == b.key()));
        copies.map(|copies| copies[0].key())
    }
}
