//! Where in a sorted list each bucket of its entries begins, so that a search looks at one bucket alone.

/// The starts of so many buckets, and the end of the last. `of` gives each entry's bucket.
pub(crate) fn bucket_starts(buckets: usize, of: impl Iterator<Item = usize>) -> Vec<u32> {
    let mut starts = vec![0_u32; buckets + 1];
    for bucket in of {
        starts[bucket + 1] += 1;
    }
    for bucket in 0..buckets {
        starts[bucket + 1] += starts[bucket];
    }
    starts
}
