//! Where blobs lie, by their numbers: 8 bytes for each, and what is known of each pack.

use std::collections::HashMap;

use super::Location;
use crate::pack::PackedBlob;
use crate::{BlobKind, Id};

/// Of so many blobs one has its offset noted, so that never more than these lengths are added up.
const NOTED_EVERY: u32 = 64;

#[derive(Clone, Copy)]
struct Lengths {
    stored: u32,
    uncompressed: u32,
}

struct Pack {
    id: Id,
    /// The number of its first blob.
    first: u32,
}

#[derive(Default)]
pub(super) struct Places {
    packs: Vec<Pack>,
    lengths: Vec<Lengths>,
    /// The offsets of the blobs 0, `NOTED_EVERY`, twice that, …, each in its pack.
    noted: Vec<u32>,
    /// The offsets in packs, by the number of their first blob, whose blobs do not lie one behind the other: an
    /// index may say only a part of a pack, or lie.
    scattered: HashMap<u32, Vec<u32>>,
}

impl Places {
    /// Takes in a pack and gives the number of its first blob; the others follow.
    pub fn add(&mut self, id: Id, blobs: &[PackedBlob]) -> u32 {
        // 2^31 blobs would need an index of a hundred gigabytes.
        let first = self.lengths.len() as u32;
        self.packs.push(Pack { id, first });
        let mut end = 0_u64;
        let mut is_scattered = false;
        for (number, blob) in (first..).zip(blobs) {
            if number % NOTED_EVERY == 0 {
                self.noted.push(blob.offset);
            }
            self.lengths.push(Lengths { stored: blob.length, uncompressed: blob.uncompressed_length });
            is_scattered |= u64::from(blob.offset) != end;
            end = blob.end();
        }
        if is_scattered {
            self.scattered.insert(first, blobs.iter().map(|blob| blob.offset).collect());
        }
        first
    }

    /// How many blobs were taken in.
    pub fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Where a blob lies that was taken in under this number.
    pub fn location(&self, number: u32, kind: BlobKind, id: &Id) -> Location {
        let pack = &self.packs[self.packs.partition_point(|pack| pack.first <= number) - 1];
        let Lengths { stored, uncompressed } = self.lengths[number as usize];
        let offset = match self.scattered.get(&pack.first) {
            Some(offsets) => offsets[(number - pack.first) as usize],
            None => self.offset_of(number, pack.first),
        };
        let blob = PackedBlob { offset, length: stored, uncompressed_length: uncompressed, kind, id: *id };
        Location { pack: pack.id, blob }
    }

    fn offset_of(&self, number: u32, first_in_pack: u32) -> u32 {
        let noted = number / NOTED_EVERY;
        let (from, offset) = match noted * NOTED_EVERY {
            from if from >= first_in_pack => (from, self.noted[noted as usize]),
            _ => (first_in_pack, 0),
        };
        let before = &self.lengths[from as usize..number as usize];
        before.iter().fold(offset, |offset, lengths| offset + lengths.stored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_are_where_they_were_said_to_be() {
        let mut places = Places::default();
        let mut all = Vec::new();
        for number in 0..200_u32 {
            let pack = Id::of(&number.to_le_bytes());
            let mut offset = 0;
            let blobs: Vec<_> = (0..number % 150)
                .map(|place| {
                    // Some packs begin behind a gap, or have one.
                    offset += if number % 7 == 3 && place % 5 == 0 { 10 } else { 0 };
                    let length = 40 + place * 3 + number;
                    let blob = PackedBlob {
                        offset,
                        length,
                        uncompressed_length: place % 2 * 1000,
                        kind: BlobKind::Data,
                        id: Id::of(&[number as u8, place as u8]),
                    };
                    offset += length;
                    blob
                })
                .collect();
            let first = places.add(pack, &blobs);
            all.extend((first..).zip(blobs).map(|(number, blob)| (number, Location { pack, blob })));
        }
        for (number, location) in all {
            assert_eq!(places.location(number, BlobKind::Data, &location.blob.id), location, "{number}");
        }
    }
}
