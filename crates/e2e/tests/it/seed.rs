//! Random moments that can be repeated.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{RngExt, SeedableRng};

/// Random moments from a seed, which is printed.
pub struct Moments(StdRng);

impl Moments {
    /// From `LEVEE_E2E_SEED`, or new ones.
    pub fn new() -> Moments {
        let given = std::env::var("LEVEE_E2E_SEED").ok().and_then(|text| text.parse().ok());
        let seed: u64 = given.unwrap_or_else(rand::random);
        println!("LEVEE_E2E_SEED={seed}");
        Moments(StdRng::seed_from_u64(seed))
    }

    pub fn up_to(&mut self, longest_ms: u64) -> Duration {
        Duration::from_millis(self.0.random_range(0..=longest_ms))
    }

    /// So many of the items, at random and in their order.
    pub fn some_of<T>(&mut self, items: impl Iterator<Item = T>, count: usize) -> Vec<T> {
        let mut chosen = items.enumerate().sample(&mut self.0, count);
        chosen.sort_by_key(|(index, _)| *index);
        chosen.into_iter().map(|(_, item)| item).collect()
    }

    pub fn coin(&mut self) -> bool {
        self.0.random()
    }
}
