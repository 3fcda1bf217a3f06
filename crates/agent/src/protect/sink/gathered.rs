//! Pieces of log that go on in one message: each message wakes the threads at both ends, whatever its size.

use bytes::Bytes;
use jiff::Timestamp;
use levee_database::postgres::LogChunk;
use levee_model::postgres::Lsn;
use levee_wire::log as wire;

/// Pieces of log that follow each other.
pub struct Gathered {
    lsn: Lsn,
    pieces: Vec<Bytes>,
    length: usize,
    source_time: Timestamp,
    source_end: Lsn,
}

impl Gathered {
    pub fn first(chunk: &LogChunk<'_>) -> Self {
        let (source_time, source_end) = (chunk.source_time, chunk.source_end);
        Self { lsn: chunk.lsn, pieces: Vec::new(), length: 0, source_time, source_end }
    }

    /// Takes the next piece. Returns how much there is now.
    pub fn add(&mut self, chunk: &LogChunk<'_>) -> usize {
        self.length += chunk.bytes.len();
        self.pieces.push(chunk.bytes.clone());
        (self.source_time, self.source_end) = (chunk.source_time, chunk.source_end);
        self.length
    }

    pub fn message(mut self, may_wait: bool) -> wire::LogChunk {
        let bytes = match self.pieces.len() {
            1 => self.pieces.remove(0),
            _ => Bytes::from(self.pieces.concat()),
        };
        let Self { lsn, source_time, source_end, .. } = self;
        wire::LogChunk { lsn, bytes, source_time, source_end, may_wait }
    }
}
