//! What blobs there are, in order. In parts by the first byte, of which each grows and is sorted by itself: fifty million
//! entries never lie in memory twice, as one list would when it grows.

use super::{Entry, Prefix};
use crate::parallel::compute_threads;

const SHARDS: usize = 1 << 8;
/// In a shard entries are looked up from the first of those that share their second byte.
const BUCKETS: usize = 1 << 8;
/// Below this a second thread costs more than it saves.
const ALONE_BELOW: usize = 1 << 16;

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
        let mut starts = vec![0_u32; BUCKETS + 1];
        for entry in &self.entries {
            starts[usize::from(entry.prefix[1]) + 1] += 1;
        }
        for bucket in 0..BUCKETS {
            starts[bucket + 1] += starts[bucket];
        }
        self.starts = starts;
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
    settled: usize,
    waiting: usize,
}

impl Default for Sorted {
    fn default() -> Self {
        Self { shards: std::iter::repeat_with(Shard::default).take(SHARDS).collect(), settled: 0, waiting: 0 }
    }
}

impl Sorted {
    /// How many are in order.
    pub fn len(&self) -> usize {
        self.settled
    }

    /// How many are not to be found before `settle`.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    pub fn push(&mut self, entry: Entry) {
        self.shards[usize::from(entry.prefix[0])].waiting.push(entry);
        self.waiting += 1;
    }

    /// Puts what waits in order.
    pub fn settle(&mut self) {
        if self.settled + self.waiting < ALONE_BELOW {
            self.shards.iter_mut().for_each(Shard::settle);
        } else {
            let part = SHARDS.div_ceil(compute_threads());
            std::thread::scope(|scope| {
                for shards in self.shards.chunks_mut(part) {
                    scope.spawn(|| shards.iter_mut().for_each(Shard::settle));
                }
            });
        }
        self.settled += std::mem::take(&mut self.waiting);
    }

    /// Takes out what waits.
    pub fn take_waiting(&mut self) -> Vec<Entry> {
        self.waiting = 0;
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
