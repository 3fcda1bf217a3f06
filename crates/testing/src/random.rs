//! Numbers and bytes that look random, and are the same for the same seed on every machine and in every run.

/// Bytes that nothing compresses.
pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    // Close seeds must not begin alike.
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut content = Vec::with_capacity(bytes + 8);
    while content.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        content.extend(state.to_le_bytes());
    }
    content.truncate(bytes);
    content
}

/// A source of choices: SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below a bound, which must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    /// A place in what is so long; 0 where it is empty.
    pub fn index(&mut self, length: usize) -> usize {
        self.below(length.max(1) as u64) as usize
    }

    /// Whether something happens that is to happen so often.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_and_another_seed_something_else() {
        let numbers = |seed: u64| {
            let mut random = Random::new(seed);
            [random.number(), random.number(), random.number()]
        };
        assert_eq!(numbers(0), numbers(0));
        assert_ne!(numbers(0), numbers(1));
        // As others have them: what failed with a seed can be repeated later on.
        assert_eq!(numbers(0), [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f]);
        assert_eq!(noise(3, 1000), noise(3, 1000));
        assert_ne!(noise(3, 1000), noise(4, 1000));
        assert_eq!(noise(3, 1003).len(), 1003);
        assert!(noise(3, 1003).starts_with(&noise(3, 1000)));
        assert!(noise(3, 0).is_empty());
    }

    #[test]
    fn noise_has_every_byte_about_as_often() {
        let mut counts = [0_u32; 256];
        for byte in noise(1, 256 << 10) {
            counts[usize::from(byte)] += 1;
        }
        assert!(counts.iter().all(|count| (824..=1224).contains(count)), "{counts:?}");
    }

    #[test]
    fn choices_stay_within_their_bounds_and_reach_all_of_them() {
        let mut random = Random::new(7);
        let mut seen = [false; 5];
        (0..1000).for_each(|_| seen[random.index(5)] = true);
        assert_eq!((seen, random.index(0)), ([true; 5], 0));
        assert!((0..1000).all(|_| random.below(3) < 3));
        assert!(!random.chance(0) && random.chance(100));
    }
}
