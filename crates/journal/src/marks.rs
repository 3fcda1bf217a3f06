//! Marks: where in a log something happened that an operator can name.
//!
//! The engine that knows the log finds them; here they are only kept, in blocks that each cover a range
//! of the log, so that it is known up to where marks have been looked for.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use jiff::Timestamp;
use levee_model::Epoch;
use levee_model::postgres::{Lsn, SegmentSize, SystemIdentifier, TimelineId};

use crate::format::{self, Content, PREAMBLE_BYTES, RecordHeader, RunCipher, RunHeader, u32_at, u64_at};
use crate::keys::JournalKeys;
use crate::records::{Item, Records};
use crate::{Error, Lineage, LogJournal, Result, durable};

/// Something that happened at a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The position just behind the record: log up to here contains what is marked.
    pub lsn: Lsn,
    /// The source's clock, which may run backwards.
    pub time: Timestamp,
    pub kind: MarkKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MarkKind {
    Commit { xid: u32 },
    RestorePoint { name: String },
}

/// The log between two positions, and every mark in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkBlock {
    pub start: Lsn,
    pub end: Lsn,
    /// By ascending position.
    pub marks: Vec<Mark>,
}

/// The stretch of a timeline that has been looked through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkedRange {
    pub start: Lsn,
    pub end: Lsn,
}

/// A position at which the log reaches a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeCandidate {
    /// Restoring up to here gives everything up to the moment.
    pub lsn: Lsn,
    /// When the last commit before the position was made.
    pub last_commit: Timestamp,
}

/// What the marks say of a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TimeLookup {
    /// There is no commit in the range at all.
    NoCommits,
    /// Every commit is later.
    BeforeFirst {
        first: Timestamp,
    },
    /// Every commit is earlier or at that moment; whether the log reaches so far, only its end can tell.
    AfterLast {
        last: TimeCandidate,
    },
    At(TimeCandidate),
    /// The source's clock ran backwards: it passed the moment more than once. Ask for a position.
    Ambiguous(Vec<TimeCandidate>),
}

impl TimeLookup {
    /// Looks a moment up among marks by ascending position.
    pub fn among<'a>(marks: impl IntoIterator<Item = &'a Mark>, moment: Timestamp) -> Self {
        let commits = marks.into_iter().filter(|mark| matches!(mark.kind, MarkKind::Commit { .. }));
        let mut first = None;
        let mut previous: Option<TimeCandidate> = None;
        let mut crossings = Vec::new();
        for commit in commits {
            first = first.min(Some(commit.time)).or(Some(commit.time));
            match previous {
                Some(before) if before.last_commit <= moment && commit.time > moment => crossings.push(before),
                _ => {}
            }
            previous = Some(TimeCandidate { lsn: commit.lsn, last_commit: commit.time });
        }
        let (Some(first), Some(last)) = (first, previous) else { return TimeLookup::NoCommits };
        let reached_at_end = last.last_commit <= moment;
        match (crossings.len(), reached_at_end) {
            (0, true) => TimeLookup::AfterLast { last },
            (0, false) => TimeLookup::BeforeFirst { first },
            (1, false) => TimeLookup::At(crossings[0]),
            _ => {
                crossings.extend(reached_at_end.then_some(last));
                TimeLookup::Ambiguous(crossings)
            }
        }
    }
}

const BLOCK_FIXED_BYTES: usize = 20;
const MARK_FIXED_BYTES: usize = 24;
/// A segment of 1 GiB full of tiny commits has some 10 million of them.
const BLOCK_BYTES_MAX: u64 = 512 << 20;
const ZSTD_LEVEL: i32 = 3;

fn encode_block(block: &MarkBlock) -> std::io::Result<Vec<u8>> {
    let mut raw = Vec::with_capacity(BLOCK_FIXED_BYTES + block.marks.len() * MARK_FIXED_BYTES);
    raw.extend_from_slice(&block.start.0.to_le_bytes());
    raw.extend_from_slice(&block.end.0.to_le_bytes());
    raw.extend_from_slice(&(block.marks.len() as u32).to_le_bytes());
    for mark in &block.marks {
        raw.extend_from_slice(&mark.lsn.0.to_le_bytes());
        raw.extend_from_slice(&mark.time.as_microsecond().to_le_bytes());
        let (kind, value, name): (u32, u32, &[u8]) = match &mark.kind {
            MarkKind::Commit { xid } => (1, *xid, &[]),
            MarkKind::RestorePoint { name } => (2, name.len() as u32, name.as_bytes()),
        };
        raw.extend_from_slice(&kind.to_le_bytes());
        raw.extend_from_slice(&value.to_le_bytes());
        raw.extend_from_slice(name);
    }
    zstd::bulk::compress(&raw, ZSTD_LEVEL)
}

fn decode_block(compressed: &[u8]) -> std::result::Result<MarkBlock, &'static str> {
    let mut raw = Vec::new();
    zstd::stream::read::Decoder::new(compressed)
        .and_then(|decoder| decoder.take(BLOCK_BYTES_MAX).read_to_end(&mut raw))
        .map_err(|_| "a block of marks does not decompress")?;
    let cut = "a block of marks is cut short";
    if raw.len() < BLOCK_FIXED_BYTES {
        return Err(cut);
    }
    let count = u32_at(&raw, 16) as usize;
    let mut rest = &raw[BLOCK_FIXED_BYTES..];
    let mut marks = Vec::with_capacity(count.min(rest.len() / MARK_FIXED_BYTES));
    for _ in 0..count {
        let (mark, after) = rest.split_at_checked(MARK_FIXED_BYTES).ok_or(cut)?;
        let value = u32_at(mark, 20);
        let (kind, after) = match u32_at(mark, 16) {
            1 => (MarkKind::Commit { xid: value }, after),
            2 => {
                let (name, after) = after.split_at_checked(value as usize).ok_or(cut)?;
                (MarkKind::RestorePoint { name: String::from_utf8_lossy(name).into_owned() }, after)
            }
            _ => return Err("a mark is of a kind that this Levee does not know"),
        };
        let time = Timestamp::from_microsecond(u64_at(mark, 8) as i64).map_err(|_| "a mark's time is impossible")?;
        marks.push(Mark { lsn: Lsn(u64_at(mark, 0)), time, kind });
        rest = after;
    }
    Ok(MarkBlock { start: Lsn(u64_at(&raw, 0)), end: Lsn(u64_at(&raw, 8)), marks })
}

impl LogJournal {
    /// Keeps the marks of a stretch of log. A stretch that begins anywhere but at the end of what was
    /// looked through before begins anew: blocks follow each other only where the log does.
    pub fn append_marks(
        &self,
        system_identifier: SystemIdentifier,
        timeline: TimelineId,
        epoch: Epoch,
        block: &MarkBlock,
    ) -> Result<()> {
        let folder = self.folder(system_identifier, timeline);
        durable::create_folder(&folder)?;
        // The segment's size means nothing for marks.
        let lineage = Lineage { system_identifier, timeline, epoch, segment_size: SegmentSize::DEFAULT };
        append(&folder.join("marks"), self.keys(), &lineage, block)
    }

    /// Every block of marks of a timeline, in the order in which they were kept.
    pub fn marks(&self, system_identifier: SystemIdentifier, timeline: TimelineId) -> Result<Vec<MarkBlock>> {
        read(&self.folder(system_identifier, timeline).join("marks"), self.keys())
    }

    /// The newest unbroken stretch that has been looked through; `None` when there is none.
    pub fn marked(&self, system_identifier: SystemIdentifier, timeline: TimelineId) -> Result<Option<MarkedRange>> {
        let mut marked: Option<MarkedRange> = None;
        for block in self.marks(system_identifier, timeline)? {
            match &mut marked {
                Some(range) if range.end == block.start => range.end = block.end,
                _ => marked = Some(MarkedRange { start: block.start, end: block.end }),
            }
        }
        Ok(marked)
    }
}

/// Each block is a run of its own: one that was torn by a crash costs nothing but itself.
fn append(path: &Path, keys: &JournalKeys, lineage: &Lineage, block: &MarkBlock) -> Result<()> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .map_err(Error::io("open", path))?;
    let length = file.metadata().map_err(Error::io("read", path))?.len();
    let mut offset = PREAMBLE_BYTES as u64;
    if length < offset {
        file.write_all_at(&format::encode_preamble(None), 0).map_err(Error::io("write", path))?;
    } else {
        let mut records = Records::open(path)?;
        while let Item::Run(..) | Item::Record(..) = records.next()? {
            offset = records.offset;
        }
        file.set_len(offset).map_err(Error::io("cut", path))?;
    }
    let (key, wrapped_key) = keys.new_data_key()?;
    let run =
        format::encode_run(&RunHeader { content: Content::Marks, lineage: *lineage, start: block.start, wrapped_key });
    let cipher = RunCipher::new(&key, &run);
    let mut bytes = run;
    let payload = encode_block(block).map_err(Error::io("compress into", path))?;
    let pieces: Vec<&[u8]> = payload.chunks(format::PAYLOAD_BYTES_MAX).collect();
    let mut lsn = block.start;
    for (counter, piece) in pieces.iter().enumerate() {
        let header = RecordHeader {
            length: piece.len() as u32,
            commit: counter + 1 == pieces.len(),
            lsn,
            acknowledged: Lsn(0),
            as_of: None,
            counter: counter as u64,
        };
        cipher.seal(&header, piece, &mut bytes).map_err(|reason| Error::Seal { reason: reason.to_string() })?;
        lsn = header.end();
    }
    file.write_all_at(&bytes, offset).map_err(Error::io("write", path))?;
    file.sync_all().map_err(Error::io("sync", path))?;
    durable::sync_folder_of(path)
}

fn read(path: &Path, keys: &JournalKeys) -> Result<Vec<MarkBlock>> {
    let mut records = match Records::open(path) {
        Err(error) if error.is_not_found() => return Ok(Vec::new()),
        records => records?,
    };
    let mut blocks = Vec::new();
    let mut cipher = None;
    let mut payload = Vec::new();
    loop {
        let at = records.offset;
        let damaged = |reason| Error::damaged(path, at, reason);
        match records.next()? {
            Item::Run(run, bytes) => {
                cipher = Some(RunCipher::new(&keys.open_data_key(&run.wrapped_key, path)?, &bytes));
                payload.clear();
            }
            Item::Record(header, head, sealed) => {
                let cipher = cipher.as_ref().ok_or_else(|| damaged("its first record comes before any run"))?;
                payload.extend_from_slice(&cipher.open(&head, &sealed).map_err(damaged)?);
                if header.commit {
                    blocks.push(decode_block(&payload).map_err(damaged)?);
                }
            }
            // Marks can be found again from the log: a torn end costs nothing.
            Item::End | Item::Damage(_) => return Ok(blocks),
        }
    }
}

/// Drops the blocks whose log is gone.
pub(crate) fn drop_below(folder: &Path, keep_from: Lsn) -> Result<()> {
    let path = folder.join("marks");
    let mut records = match Records::open(&path) {
        Err(error) if error.is_not_found() => return Ok(()),
        records => records?,
    };
    let mut kept = format::encode_preamble(None).to_vec();
    let content = fs::read(&path).map_err(Error::io("read", &path))?;
    // A run is one block. Its range is sealed, but its start is not: a block goes when the next begins
    // at or below what is kept.
    let mut starts: Vec<(Lsn, usize)> = Vec::new();
    let mut at = records.offset as usize;
    let mut end = at;
    loop {
        match records.next()? {
            Item::Run(run, _) => starts.push((run.start, at)),
            Item::Record(..) => end = records.offset as usize,
            Item::End | Item::Damage(_) => break,
        }
        at = records.offset as usize;
    }
    for (index, (start, from)) in starts.iter().enumerate() {
        let (next, until) = starts.get(index + 1).map_or((Lsn(u64::MAX), end), |(next, from)| (*next, *from));
        if *start >= keep_from || next > keep_from {
            kept.extend_from_slice(content.get(*from..until).unwrap_or_default());
        }
    }
    durable::write(&path, &kept)
}
