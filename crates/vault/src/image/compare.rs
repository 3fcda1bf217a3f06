//! What of an image a target lacks.

use std::collections::HashMap;
use std::io;

use levee_image::{Extent, SparseRead};

use super::read::Piece;
use crate::Id;
use crate::chunker::is_hole;

/// What is to be done to one segment of a target.
#[derive(Debug, Default)]
pub(super) struct Lacking {
    /// Blobs to be written.
    pub blobs: Vec<Piece>,
    /// Ranges that must become zeros.
    pub zeros: Vec<(u64, u64)>,
}

impl Lacking {
    pub fn bytes(&self) -> u64 {
        let zeros: u64 = self.zeros.iter().map(|(_, length)| length).sum();
        self.blobs.iter().map(|piece| piece.length).sum::<u64>() + zeros
    }

    pub fn append(&mut self, mut other: Self) {
        self.blobs.append(&mut other.blobs);
        for (offset, length) in other.zeros {
            self.add_zeros(offset, length);
        }
    }

    /// The ranges that are to be written, in their order, those that touch as one: where each begins, and where it ends.
    pub fn ranges(&self) -> Vec<(u64, u64)> {
        let blobs = self.blobs.iter().map(|piece| (piece.offset, piece.offset + piece.length));
        let zeros = self.zeros.iter().map(|(offset, length)| (*offset, offset + length));
        let mut all: Vec<(u64, u64)> = blobs.chain(zeros).collect();
        all.sort_unstable();
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for (start, end) in all {
            match ranges.last_mut() {
                Some((_, before)) if *before == start => *before = end,
                _ => ranges.push((start, end)),
            }
        }
        ranges
    }

    fn add_zeros(&mut self, offset: u64, length: u64) {
        match self.zeros.last_mut() {
            Some((start, before)) if *start + *before == offset => *before += length,
            _ => self.zeros.push((offset, length)),
        }
    }
}

/// The ids of blobs that are nothing but zeros, by their length: they need not be fetched.
pub(super) struct ZeroBlobs(HashMap<u64, Id>);

impl ZeroBlobs {
    pub fn new() -> Self {
        Self(HashMap::new())
    }

    /// Learns the lengths of these pieces.
    pub fn learn(&mut self, pieces: &[Piece]) {
        for Piece { length, .. } in pieces {
            self.0.entry(*length).or_insert_with(|| Id::of(&vec![0; *length as usize]));
        }
    }

    pub fn contain(&self, piece: &Piece) -> bool {
        self.0.get(&piece.length) == Some(&piece.id)
    }
}

/// What a target that reads as zeros lacks.
pub(super) fn of_fresh(pieces: &[Piece], zeros: &ZeroBlobs) -> Lacking {
    let blobs = pieces.iter().filter(|piece| !zeros.contain(piece)).copied().collect();
    Lacking { blobs, zeros: Vec::new() }
}

/// Reads what is there, but for holes, and finds what differs.
pub(super) fn with_target(pieces: &[Piece], zeros: &ZeroBlobs, target: &dyn SparseRead) -> io::Result<Lacking> {
    let mut lacking = Lacking::default();
    let mut buffer = Vec::new();
    let mut extent = (Extent::Data, 0);
    for piece in pieces {
        if extent.1 <= piece.offset {
            extent = target.extent_at(piece.offset)?;
        }
        let end = piece.offset + piece.length;
        let is_hole_there = extent.0 == Extent::Zero && extent.1 >= end;
        match (is_hole_there, zeros.contain(piece)) {
            (true, true) => continue,
            (true, false) => lacking.blobs.push(*piece),
            (false, is_zero) => {
                buffer.resize(piece.length as usize, 0);
                target.read_at(&mut buffer, piece.offset)?;
                if is_zero {
                    if !is_hole(&buffer) {
                        lacking.add_zeros(piece.offset, piece.length);
                    }
                } else if Id::of(&buffer) != piece.id {
                    lacking.blobs.push(*piece);
                }
            }
        }
    }
    Ok(lacking)
}

#[cfg(test)]
mod tests {
    use super::*;
    use levee_image::ReadAt;

    /// A target in memory, with a hole up to an offset.
    struct Disk(Vec<u8>, u64);

    impl ReadAt for Disk {
        fn size_bytes(&self) -> u64 {
            self.0.size_bytes()
        }

        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
            assert!(offset >= self.1, "holes are not read");
            self.0.read_at(buffer, offset)
        }
    }

    impl SparseRead for Disk {
        fn extent_at(&self, offset: u64) -> io::Result<(Extent, u64)> {
            Ok(if offset < self.1 { (Extent::Zero, self.1) } else { (Extent::Data, self.size_bytes()) })
        }
    }

    #[test]
    fn only_what_differs_is_lacking_and_holes_are_not_read() {
        let content: Vec<u8> = [[0; 100], [1; 100], [0; 100], [2; 100], [0; 100], [0; 100]].concat();
        let piece = |number: usize| Piece {
            id: Id::of(&content[number * 100..][..100]),
            offset: number as u64 * 100,
            length: 100,
        };
        let pieces: Vec<Piece> = (0..6).map(piece).collect();
        let mut zeros = ZeroBlobs::new();
        zeros.learn(&pieces);
        let check = |disk: Disk, blobs: &[usize], ranges: &[(u64, u64)]| {
            let lacking = with_target(&pieces, &zeros, &disk).unwrap();
            assert_eq!(lacking.blobs, blobs.iter().map(|number| piece(*number)).collect::<Vec<_>>());
            assert_eq!(lacking.zeros, ranges);
            assert_eq!(lacking.bytes(), (blobs.len() * 100) as u64 + ranges.iter().map(|range| range.1).sum::<u64>());
        };
        check(Disk(content.clone(), 0), &[], &[]);
        check(Disk(content.clone(), 100), &[], &[]);
        check(Disk(vec![0; 600], 600), &[1, 3], &[]);
        check(Disk(vec![0; 600], 0), &[1, 3], &[]);
        check(Disk(vec![2; 600], 0), &[1], &[(0, 100), (200, 100), (400, 200)]);
        assert_eq!(of_fresh(&pieces, &zeros).blobs, [piece(1), piece(3)]);
        let ranges = |disk: Disk| with_target(&pieces, &zeros, &disk).unwrap().ranges();
        assert!(ranges(Disk(content.clone(), 0)).is_empty());
        assert_eq!(ranges(Disk(vec![2; 600], 0)), [(0, 300), (400, 600)]);
        assert_eq!(ranges(Disk(vec![0; 600], 0)), [(100, 200), (300, 400)]);
    }
}
