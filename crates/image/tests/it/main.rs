//! Images as the stock tools make them, and what the stock tools say of ours.

mod comparing;
mod corrupted;
mod file_systems;
mod partitions;
mod sources;
mod targets;
mod tree;

use levee_testing::random::noise;

/// All that can be read of something.
fn all(image: &dyn levee_image::ReadAt) -> Vec<u8> {
    let mut content = vec![0; image.size_bytes() as usize];
    image.read_at(&mut content, 0).unwrap();
    content
}
