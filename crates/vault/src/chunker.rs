//! Cutting content into blobs.

use std::io::{self, Read};
use std::sync::OnceLock;

use fastcdc::v2020::FastCDC;

use crate::Id;
use crate::room::empty_with_room;

/// Bounds of a content-defined chunk. The average is what the cut condition is tuned for.
pub(crate) const CHUNK_BYTES_MIN: usize = 512 << 10;
const CHUNK_BYTES_AVERAGE: usize = 1 << 20;
pub(crate) const CHUNK_BYTES_MAX: usize = 8 << 20;
/// Read at once. Little, so that what was read is still in the processor's cache when it is cut and copied.
const READ_BYTES: usize = 1 << 20;
/// Most chunks end within so much, and nearly all within twice as much. Where one does not, the largest there can be is
/// looked at.
const LOOK_BYTES: usize = 2 << 20;
/// Runs of zeros are cut out in chunks of this size: restic's `restore --sparse` makes holes of them.
pub(crate) const ZERO_CHUNK_BYTES: usize = 512 << 10;
const PAGE_CHUNK_BYTES_MAX: u32 = 8 << 20;

/// How a file's content is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunking {
    /// Where the content says: an insertion changes only the chunks around it.
    Content,
    /// At fixed positions, for files that are written in pages: a changed page changes its chunk alone.
    /// At most 8 MiB.
    Pages { chunk_bytes: u32 },
}

/// Cuts one stream after the other with the same buffer.
pub(crate) struct Chunker {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    at_end: bool,
    chunking: Chunking,
}

impl Chunker {
    pub fn new() -> Self {
        Self { buffer: Vec::new(), start: 0, end: 0, at_end: false, chunking: Chunking::Content }
    }

    /// Forgets everything and starts on a new stream.
    pub fn reset(&mut self, chunking: Chunking) {
        (self.start, self.end, self.at_end) = (0, 0, false);
        if self.buffer.len() > 2 * LOOK_BYTES + READ_BYTES {
            // Grown for a chunk without a place to cut.
            self.buffer = Vec::new();
        }
        self.chunking = match chunking {
            Chunking::Content => Chunking::Content,
            Chunking::Pages { chunk_bytes } => {
                Chunking::Pages { chunk_bytes: chunk_bytes.clamp(4096, PAGE_CHUNK_BYTES_MAX) }
            }
        };
    }

    /// Puts the next chunk of the stream into `chunk`; `false` at its end.
    pub fn next(&mut self, source: &mut dyn Read, chunk: &mut Vec<u8>) -> io::Result<bool> {
        chunk.clear();
        match self.chunking {
            Chunking::Content => {
                // So much is enough to look at, unless the chunk ends nowhere in there.
                let mut length = 0;
                for look in [LOOK_BYTES, 2 * LOOK_BYTES, CHUNK_BYTES_MAX] {
                    self.refill(source, look)?;
                    length = cut(&self.buffer[self.start..self.end]);
                    if length < self.end - self.start || self.at_end {
                        break;
                    }
                }
                empty_with_room(chunk, length);
                chunk.extend_from_slice(&self.buffer[self.start..self.start + length]);
                self.start += length;
            }
            Chunking::Pages { chunk_bytes } => {
                // Straight into the chunk: there is nothing to look at.
                source.take(u64::from(chunk_bytes)).read_to_end(chunk)?;
            }
        }
        Ok(!chunk.is_empty())
    }

    /// Makes sure that so much is at hand, or all that is left.
    fn refill(&mut self, source: &mut dyn Read, wanted: usize) -> io::Result<()> {
        if self.at_end || self.end - self.start >= wanted {
            return Ok(());
        }
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        if self.buffer.len() < wanted + READ_BYTES {
            self.buffer.resize(wanted + READ_BYTES, 0);
        }
        while self.end < wanted {
            match source.read(&mut self.buffer[self.end..wanted + READ_BYTES]) {
                Ok(0) => {
                    self.at_end = true;
                    break;
                }
                Ok(count) => self.end += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    // Word by word: the compiler makes wide comparisons of it, and other data end it at once.
    let (words, rest) = bytes.as_chunks::<32>();
    words.iter().all(|word| *word == [0; 32]) && rest.iter().all(|byte| *byte == 0)
}

/// The blob that runs of zeros are cut into, by Levee and by restic.
pub(crate) fn zero_chunk_id() -> Id {
    static ID: OnceLock<Id> = OnceLock::new();
    *ID.get_or_init(|| Id::of(&[0; ZERO_CHUNK_BYTES]))
}

/// Whether a blob is nothing but zeros, so that it may become a hole.
pub(crate) fn is_hole(plaintext: &[u8]) -> bool {
    is_zero(plaintext)
}

/// The length of the first chunk of `data`, which is a largest chunk or all that is left.
fn cut(data: &[u8]) -> usize {
    if data.len() >= ZERO_CHUNK_BYTES && is_zero(&data[..ZERO_CHUNK_BYTES]) {
        return ZERO_CHUNK_BYTES;
    }
    let data = &data[..data.len().min(CHUNK_BYTES_MAX)];
    let (_, length) = FastCDC::new(data, CHUNK_BYTES_MIN, CHUNK_BYTES_AVERAGE, CHUNK_BYTES_MAX).cut(0, data.len());
    start_of_zeros(&data[..length]).unwrap_or(length)
}

/// Where a run of zeros begins in a chunk that is long enough to be cut out as chunks of its own.
fn start_of_zeros(chunk: &[u8]) -> Option<usize> {
    // A run of this length covers at least one whole block of half of it, wherever it begins.
    const BLOCK: usize = ZERO_CHUNK_BYTES / 2;
    let block = chunk.chunks_exact(BLOCK).position(is_zero)? * BLOCK;
    let start = chunk[..block].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let long_enough = chunk.get(start..start + ZERO_CHUNK_BYTES).is_some_and(is_zero);
    (start > 0 && long_enough).then_some(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(data: &[u8], chunking: Chunking) -> Vec<Vec<u8>> {
        let mut chunker = Chunker::new();
        chunker.reset(chunking);
        let (mut source, mut chunk, mut chunks) = (data, Vec::new(), Vec::new());
        while chunker.next(&mut source, &mut chunk).unwrap() {
            chunks.push(chunk.clone());
        }
        assert_eq!(chunks.concat(), data);
        chunks
    }

    fn noise(length: usize) -> Vec<u8> {
        levee_testing::random::noise(1, length)
    }

    #[test]
    fn an_insertion_changes_few_chunks() {
        let data = noise(40 << 20);
        let before = chunks(&data, Chunking::Content);
        assert!(before.iter().rev().skip(1).all(|chunk| chunk.len() >= CHUNK_BYTES_MIN));
        assert!((20..80).contains(&before.len()), "{}", before.len());
        let mut changed = data.clone();
        changed.splice(10 << 20..10 << 20, *b"inserted");
        let after = chunks(&changed, Chunking::Content);
        let new = after.iter().filter(|chunk| !before.contains(chunk)).count();
        assert!(new <= 3, "{new} of {}", after.len());
    }

    #[test]
    fn zeros_become_chunks_of_their_own() {
        let mut data = noise(3 << 20);
        data.resize(9 << 20, 0);
        data.extend(noise(1 << 20));
        data.resize(30 << 20, 0);
        let chunks = chunks(&data, Chunking::Content);
        let zeros = chunks.iter().filter(|chunk| chunk.len() == ZERO_CHUNK_BYTES && is_zero(chunk)).count();
        assert!(zeros >= 12 + 40 - 2, "{zeros}");
    }

    #[test]
    fn cuts_do_not_depend_on_how_much_is_read_at_once() {
        struct Pieces<'a>(&'a [u8], usize);
        impl Read for Pieces<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let length = buffer.len().min(self.1);
                self.0.read(&mut buffer[..length])
            }
        }
        // A part without any place to cut, and one of zeros.
        let mut data = noise(11 << 20);
        data.resize(data.len() + (17 << 20), b'x');
        data.extend(noise(5 << 20));
        data.resize(data.len() + (2 << 20), 0);
        data.extend(noise(300_000));
        let mut expected = Vec::new();
        let mut rest = &data[..];
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(cut(rest));
            expected.push(chunk.len());
            rest = after;
        }
        assert!(expected.contains(&CHUNK_BYTES_MAX) && expected.contains(&ZERO_CHUNK_BYTES));
        for piece in [usize::MAX, 1_000_000, 70_001] {
            let mut chunker = Chunker::new();
            chunker.reset(Chunking::Content);
            let (mut source, mut chunk, mut lengths) = (Pieces(&data, piece), Vec::new(), Vec::new());
            while chunker.next(&mut source, &mut chunk).unwrap() {
                lengths.push(chunk.len());
            }
            assert_eq!(lengths, expected, "{piece}");
        }
    }

    #[test]
    fn pages_are_cut_at_fixed_positions() {
        let data = noise(1_000_000);
        let lengths: Vec<_> = chunks(&data, Chunking::Pages { chunk_bytes: 131_072 }).iter().map(Vec::len).collect();
        assert_eq!(lengths, [131_072, 131_072, 131_072, 131_072, 131_072, 131_072, 131_072, 82_496]);
        assert!(chunks(&[], Chunking::Pages { chunk_bytes: 8192 }).is_empty());
        assert!(chunks(&[], Chunking::Content).is_empty());
    }
}
