//! Random moments that can be repeated.

use std::time::Duration;

use rand::rngs::StdRng;
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

    pub fn coin(&mut self) -> bool {
        self.0.random()
    }
}
