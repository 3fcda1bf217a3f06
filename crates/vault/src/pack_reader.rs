//! Reading many blobs of one pack with few requests.

use std::ops::Range;

use crate::pack::PackedBlob;
use crate::room::empty_with_room;
use crate::vault::BlobOpener;
use crate::{Id, Result, Vault};

/// One request reads at most this much, unless one blob is larger.
const REQUEST_BYTES_MAX: u32 = 16 << 20;
/// A gap up to this is read along: a second request would take longer.
const GAP_BYTES_MAX: u32 = 256 << 10;

/// Reads blobs of a pack, in the order of their offsets, and hands over each as it is stored together
/// with its verified plaintext, or with what is wrong with it.
pub(crate) fn read_blobs(
    vault: &Vault,
    pack: &Id,
    blobs: &mut [PackedBlob],
    mut each: impl FnMut(&PackedBlob, &[u8], Result<&[u8]>) -> Result<()>,
) -> Result<()> {
    blobs.sort_unstable();
    let mut opener = BlobOpener::new(vault)?;
    let (mut stored, mut scratch) = (Vec::new(), Vec::new());
    for range in requests(blobs) {
        let group = &blobs[range];
        let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
        let length = (last.offset - first.offset + last.length) as usize;
        vault.read_pack_part_into(pack, u64::from(first.offset), length, &mut stored)?;
        for blob in group {
            let start = (blob.offset - first.offset) as usize;
            let sealed = &stored[start..start + blob.length as usize];
            empty_with_room(&mut scratch, sealed.len());
            scratch.extend_from_slice(sealed);
            let opened = opener.open(pack, blob, &mut scratch);
            each(blob, sealed, opened)?;
        }
    }
    Ok(())
}

/// Which blobs are read together.
fn requests(blobs: &[PackedBlob]) -> Vec<Range<usize>> {
    let mut requests: Vec<Range<usize>> = Vec::new();
    for (position, blob) in blobs.iter().enumerate() {
        let joins = requests.last().and_then(|request| blobs.get(request.clone())).is_some_and(|group| {
            let (start, last) = (group[0].offset, group[group.len() - 1]);
            // Copies of one entry overlap; they are read once each.
            let gap = blob.offset.checked_sub(last.offset + last.length);
            gap.is_some_and(|gap| gap <= GAP_BYTES_MAX) && blob.offset - start + blob.length <= REQUEST_BYTES_MAX
        });
        match requests.last_mut() {
            Some(request) if joins => request.end = position + 1,
            _ => requests.push(position..position + 1),
        }
    }
    requests
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BlobKind;

    #[test]
    fn neighbours_are_read_together_and_the_far_ones_alone() {
        let check = |places: &[(u32, u32)], expected: &[(usize, usize)]| {
            let blob = |&(offset, length): &(u32, u32)| PackedBlob {
                offset,
                length,
                uncompressed_length: 0,
                kind: BlobKind::Data,
                id: Id::of(b""),
            };
            let blobs: Vec<_> = places.iter().map(blob).collect();
            let found: Vec<_> = requests(&blobs).iter().map(|range| (range.start, range.end)).collect();
            assert_eq!(found, expected, "{places:?}");
        };
        check(&[], &[]);
        check(&[(0, 100), (100, 50), (200, 1)], &[(0, 3)]);
        check(&[(0, 100), (100 + GAP_BYTES_MAX, 5), (106 + 2 * GAP_BYTES_MAX, 5)], &[(0, 2), (2, 3)]);
        check(&[(0, REQUEST_BYTES_MAX - 1), (REQUEST_BYTES_MAX - 1, 1), (REQUEST_BYTES_MAX, 1)], &[(0, 2), (2, 3)]);
        check(&[(0, 100), (50, 100)], &[(0, 1), (1, 2)]);
    }
}
