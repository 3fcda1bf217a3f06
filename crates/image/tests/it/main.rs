//! Images as the stock tools make them, and what the stock tools say of ours.

mod comparing;
mod corrupted;
mod file_systems;
mod partitions;
mod sources;
mod targets;
mod tree;

/// Content that doesn't compress, the same for the same seed.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
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

/// All that can be read of something.
fn all(image: &dyn levee_image::ReadAt) -> Vec<u8> {
    let mut content = vec![0; image.size_bytes() as usize];
    image.read_at(&mut content, 0).unwrap();
    content
}
