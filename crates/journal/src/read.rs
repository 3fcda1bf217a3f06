//! Reading a timeline's log beside its writer: closed segments and tails as one unbroken stretch.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use levee_model::postgres::{Lsn, SegmentSize};

use crate::closed::{self, ClosedReader};
use crate::keys::{JournalKeys, SharedKeys};
use crate::layout::{self, Files};
use crate::live::Live;
use crate::records::{Item, Records};
use crate::tail::{self, DurableEnd, TailLog};
use crate::{Error, Extent, Result};

/// How often a listing is taken again because a file had been closed or trimmed meanwhile.
const LISTINGS_MAX: usize = 5;

/// One segment of log.
#[derive(Clone, PartialEq, Eq)]
pub struct SegmentBytes {
    /// As many bytes as a segment has.
    pub bytes: Vec<u8>,
    /// Whether the whole segment is log; otherwise everything behind `log_bytes` is zero.
    pub complete: bool,
    pub log_bytes: u64,
}

/// A file with a durable piece of log in it.
#[derive(Clone, Debug)]
struct Piece {
    path: PathBuf,
    start: Lsn,
    end: Lsn,
    segment_size: SegmentSize,
    kind: PieceKind,
}

#[derive(Clone, Debug)]
enum PieceKind {
    Closed,
    Tail { as_of: Option<jiff::Timestamp> },
}

/// Tries again when a file has gone between listing and opening it: it was closed, or trimmed.
fn with_listing<T>(folder: &Path, mut work: impl FnMut(Files) -> Result<T>) -> Result<T> {
    let mut listings = 1;
    loop {
        match work(layout::list(folder)?) {
            Err(error) if error.is_not_found() && listings < LISTINGS_MAX => listings += 1,
            result => return result,
        }
    }
}

/// The durable pieces of a timeline, in order.
fn pieces(files: Files, live: &Live, wanted: impl Fn(Lsn) -> bool) -> Result<Vec<Piece>> {
    let mut pieces = Vec::with_capacity(files.closed.len() + files.tails.len());
    for closed in files.closed {
        let bytes = closed.end.bytes_since(closed.start);
        let segment_size = SegmentSize::new(bytes)
            .map_err(|error| Error::damaged(&closed.path, 0, format!("its name can't be right: {error}")))?;
        let (path, start, end) = (closed.path, closed.start, closed.end);
        pieces.push(Piece { path, start, end, segment_size, kind: PieceKind::Closed });
    }
    for name in files.tails.into_iter().filter(|name| wanted(name.start)) {
        let durable = match live.end_of(&name.path) {
            Some(durable) => durable,
            None => tail::durable_end(&name.path)?,
        };
        let DurableEnd { end, as_of, segment_size } = durable;
        pieces.push(Piece { path: name.path, start: name.start, end, segment_size, kind: PieceKind::Tail { as_of } });
    }
    pieces.sort_by_key(|piece| piece.start);
    Ok(pieces)
}

pub(crate) fn extents(folder: &Path, keys: &JournalKeys, live: &Live) -> Result<Vec<Extent>> {
    let mut extents = with_listing(folder, |files| {
        let mut extents: Vec<(Extent, Option<PathBuf>)> = Vec::new();
        for piece in pieces(files, live, |_| true)? {
            let (as_of, closed) = match piece.kind {
                PieceKind::Closed => (None, Some(piece.path)),
                PieceKind::Tail { as_of } => (as_of, None),
            };
            match extents.last_mut() {
                Some((extent, newest_closed)) if extent.durable_end == piece.start => {
                    extent.durable_end = piece.end;
                    (extent.as_of, *newest_closed) = (as_of, closed);
                }
                _ => {
                    let (start, durable_end, segment_size) = (piece.start, piece.end, piece.segment_size);
                    extents.push((Extent { start, durable_end, as_of, segment_size }, closed));
                }
            }
        }
        Ok(extents)
    })?;
    // Only the newest stretch's age is asked for, and only a closed file needs a key to tell it.
    if let Some((extent, Some(path))) = extents.last_mut()
        && keys.identity.is_some()
    {
        extent.as_of = closed::read_header(path, keys)?.as_of;
    }
    Ok(extents.into_iter().map(|(extent, _)| extent).collect())
}

pub(crate) fn segment_size(folder: &Path) -> Result<Option<SegmentSize>> {
    with_listing(folder, |files| {
        if let Some(closed) = files.closed.first() {
            return Ok(SegmentSize::new(closed.end.bytes_since(closed.start)).ok());
        }
        let Some(tail) = files.tails.first() else { return Ok(None) };
        match Records::open(&tail.path)?.next()? {
            Item::Run(run, _) => Ok(Some(run.lineage.segment_size)),
            _ => Err(Error::damaged(&tail.path, 0, "it has no run")),
        }
    })
}

pub(crate) fn segment(
    folder: &Path,
    keys: &JournalKeys,
    live: &Live,
    segment_start: Lsn,
) -> Result<Option<SegmentBytes>> {
    with_listing(folder, |mut files| {
        files.closed.retain(|closed| closed.start == segment_start);
        let found = pieces(files, live, |start| start == segment_start)?
            .into_iter()
            .find(|piece| piece.start == segment_start && piece.end > piece.start);
        let Some(piece) = found else { return Ok(None) };
        let mut bytes = Vec::with_capacity(piece.segment_size.bytes() as usize);
        let mut log = PieceLog::open(&piece, keys)?;
        while let Some(part) = log.next(keys)? {
            bytes.extend_from_slice(&part);
        }
        let (log_bytes, size) = (bytes.len() as u64, piece.segment_size.bytes());
        bytes.resize(size as usize, 0);
        Ok(Some(SegmentBytes { bytes, complete: log_bytes == size, log_bytes }))
    })
}

/// The log of one piece, with its length checked.
struct PieceLog {
    source: PieceSource,
    path: PathBuf,
    left: u64,
}

enum PieceSource {
    Closed(Box<ClosedReader>),
    Tail(Box<TailLog>),
}

impl PieceLog {
    fn open(piece: &Piece, keys: &JournalKeys) -> Result<Self> {
        let source = match piece.kind {
            PieceKind::Closed => {
                let reader = ClosedReader::open(&piece.path, keys)?;
                if (reader.header.start, reader.header.end) != (piece.start, piece.end) {
                    return Err(Error::damaged(&piece.path, 0, "its name and its header tell different ranges"));
                }
                PieceSource::Closed(Box::new(reader))
            }
            PieceKind::Tail { .. } => PieceSource::Tail(Box::new(TailLog::open(&piece.path, piece.end, &[])?)),
        };
        Ok(Self { source, path: piece.path.clone(), left: piece.end.bytes_since(piece.start) })
    }

    fn next(&mut self, keys: &JournalKeys) -> Result<Option<Vec<u8>>> {
        let part = match &mut self.source {
            PieceSource::Closed(reader) => reader.next()?,
            PieceSource::Tail(log) => log.next(keys)?.map(|(_, bytes)| bytes),
        };
        let length = part.as_ref().map_or(0, Vec::len) as u64;
        if length > self.left || (part.is_none() && self.left > 0) {
            return Err(Error::damaged(&self.path, 0, "it holds another amount of log than it says"));
        }
        self.left -= length;
        Ok(part)
    }
}

/// The log of one timeline from a position on, as bytes.
pub struct LogReader {
    folder: PathBuf,
    keys: SharedKeys,
    pieces: VecDeque<Piece>,
    current: Option<PieceLog>,
    part: Vec<u8>,
    taken: usize,
    position: Lsn,
    end: Lsn,
}

impl LogReader {
    /// `None` when no durable stretch holds `from`. Its end does: there is just nothing to read yet.
    pub(crate) fn open(folder: PathBuf, keys: SharedKeys, live: &Live, from: Lsn) -> Result<Option<Self>> {
        let all = with_listing(&folder, |files| pieces(files, live, |_| true))?;
        let mut stretch: VecDeque<Piece> = VecDeque::new();
        for piece in all {
            if stretch.back().is_some_and(|last| last.end != piece.start) {
                if stretch.back().is_some_and(|last| from < last.end) {
                    break;
                }
                stretch.clear();
            }
            stretch.push_back(piece);
        }
        let (Some(start), Some(end)) =
            (stretch.front().map(|piece| piece.start), stretch.back().map(|piece| piece.end))
        else {
            return Ok(None);
        };
        if from < start || from > end {
            return Ok(None);
        }
        stretch.retain(|piece| piece.end > from);
        let mut reader = Self {
            position: stretch.front().map_or(from, |piece| piece.start),
            folder,
            keys,
            pieces: stretch,
            current: None,
            part: Vec::new(),
            taken: 0,
            end,
        };
        while reader.position < from {
            let skip = from.bytes_since(reader.position);
            if reader.fill()? == 0 {
                break;
            }
            reader.advance((reader.part.len() - reader.taken).min(skip as usize));
        }
        Ok(Some(reader))
    }

    /// The position of the next byte.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// The durable end when this reader was opened. It reads no further, but for the rest of a segment
    /// that was completed meanwhile.
    pub fn end(&self) -> Lsn {
        self.end
    }

    /// The next piece of log, with its position; `None` at the end. Pieces are of at most a few MiB.
    pub fn next_part(&mut self) -> Result<Option<(Lsn, Vec<u8>)>> {
        if self.fill()? == 0 {
            return Ok(None);
        }
        let (position, part) = (self.position, self.part.split_off(self.taken));
        self.part.clear();
        self.taken = 0;
        self.position = Lsn(position.0 + part.len() as u64);
        Ok(Some((position, part)))
    }

    fn advance(&mut self, bytes: usize) {
        self.taken += bytes;
        self.position = Lsn(self.position.0 + bytes as u64);
    }

    /// Makes sure that a part is there, and says how much of it is left; 0 at the end.
    fn fill(&mut self) -> Result<usize> {
        while self.taken == self.part.len() {
            let next = match &mut self.current {
                Some(log) => log.next(&self.keys)?,
                None => match self.pieces.pop_front() {
                    Some(piece) => {
                        self.current = Some(self.open_piece(piece)?);
                        continue;
                    }
                    None => return Ok(0),
                },
            };
            match next {
                Some(part) => (self.part, self.taken) = (part, 0),
                None => self.current = None,
            }
        }
        Ok(self.part.len() - self.taken)
    }

    fn open_piece(&self, piece: Piece) -> Result<PieceLog> {
        match PieceLog::open(&piece, &self.keys) {
            // The tail was closed since it was listed; the closed file holds at least as much.
            Err(error) if error.is_not_found() => {
                let closed = layout::list(&self.folder)?.closed.into_iter().find(|closed| closed.start == piece.start);
                let Some(closed) = closed else { return Err(error) };
                let whole = Piece { path: closed.path, end: closed.end, kind: PieceKind::Closed, ..piece };
                PieceLog::open(&whole, &self.keys)
            }
            result => result,
        }
    }
}

impl Read for LogReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let there = self.fill().map_err(io::Error::other)?;
        let size = there.min(buffer.len());
        buffer[..size].copy_from_slice(&self.part[self.taken..self.taken + size]);
        self.advance(size);
        Ok(size)
    }
}
