//! The marks on disk: one small file of sealed records for each closed segment, beside it.
//!
//! So keeping the marks of a segment reads nothing, trimming removes files, and what is damaged or missing costs
//! looking through one segment's log again.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use jiff::Timestamp;
use levee_model::Epoch;
use levee_model::postgres::{Lsn, SegmentSize, SystemIdentifier, TimelineId};

use crate::format::{self, Content, RecordHeader, RunCipher, RunHeader, u32_at, u64_at};
use crate::keys::JournalKeys;
use crate::layout::MarksName;
use crate::marks::{Mark, MarkBlock, MarkKind};
use crate::records::{Item, Records};
use crate::{Error, Lineage, LogJournal, Result, layout};

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
    /// Keeps the marks of a stretch of log, which lies in one segment.
    pub fn keep_marks(
        &self,
        system_identifier: SystemIdentifier,
        timeline: TimelineId,
        epoch: Epoch,
        segment_size: SegmentSize,
        block: &MarkBlock,
    ) -> Result<()> {
        let lineage = Lineage { system_identifier, timeline, epoch, segment_size };
        write(&self.folder(system_identifier, timeline), self.keys(), &lineage, block)
    }

    /// Every block of marks of a timeline that reaches into the log between two positions, and is kept and whole, by
    /// ascending start.
    pub fn marks(
        &self,
        system_identifier: SystemIdentifier,
        timeline: TimelineId,
        from: Lsn,
        to: Lsn,
    ) -> Result<Vec<MarkBlock>> {
        let files = layout::list(&self.folder(system_identifier, timeline))?;
        let mut blocks = Vec::with_capacity(files.marks.len());
        for name in files.marks.into_iter().filter(|name| name.start < to && from < name.end) {
            match read(&name, self.keys()) {
                Ok(Some(block)) => blocks.push(block),
                Ok(None) => tracing::warn!(path = %name.path.display(), "marks are damaged; the log itself tells them"),
                // Trimmed meanwhile.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(blocks)
    }

    /// The stretches of closed log that no kept block of marks covers, by ascending start, each inside one segment.
    /// Tells by the files' names alone.
    pub fn unmarked(&self, system_identifier: SystemIdentifier, timeline: TimelineId) -> Result<Vec<(Lsn, Lsn)>> {
        let files = layout::list(&self.folder(system_identifier, timeline))?;
        let mut unmarked = Vec::new();
        let mut marks = files.marks.iter().peekable();
        for closed in &files.closed {
            let mut from = closed.start;
            while let Some(name) = marks.next_if(|name| name.start < closed.end) {
                if name.start > from {
                    unmarked.push((from, name.start));
                }
                from = from.max(name.end);
            }
            if from < closed.end {
                unmarked.push((from, closed.end));
            }
        }
        Ok(unmarked)
    }
}

/// Writes one block. Not synced: a file that a loss of power leaves torn is found out by its checksums, and what it
/// held is found again from the log.
pub(crate) fn write(folder: &Path, keys: &JournalKeys, lineage: &Lineage, block: &MarkBlock) -> Result<()> {
    let path = layout::marks_path(folder, lineage, block.start, block.end);
    let (key, wrapped_key) = keys.new_data_key()?;
    let run =
        format::encode_run(&RunHeader { content: Content::Marks, lineage: *lineage, start: block.start, wrapped_key });
    let cipher = RunCipher::new(&key, &run);
    let mut bytes = format::encode_preamble(None).to_vec();
    bytes.extend_from_slice(&run);
    let payload = encode_block(block).map_err(Error::io("compress into", &path))?;
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
    // Somebody else may be writing the same.
    let beside = path.with_added_extension(format!("{}.tmp", hex::encode(&cipher.header_hash()[..8])));
    let mut file = File::create(&beside).map_err(Error::io("create", &beside))?;
    file.write_all(&bytes).map_err(Error::io("write", &beside))?;
    fs::rename(&beside, &path).map_err(Error::io("rename", &beside))
}

/// `None` when the file is not whole, or is not what its name says.
fn read(name: &MarksName, keys: &JournalKeys) -> Result<Option<MarkBlock>> {
    let path = &name.path;
    let mut records = match Records::open(path) {
        Err(Error::Damaged { .. }) => return Ok(None),
        records => records?,
    };
    let Item::Run(run, bytes) = records.next()? else { return Ok(None) };
    if run.content != Content::Marks {
        return Ok(None);
    }
    let key = match keys.open_data_key(&run.wrapped_key, path) {
        Err(Error::Damaged { .. }) => return Ok(None),
        key => key?,
    };
    let cipher = RunCipher::new(&key, &bytes);
    let mut payload = Vec::new();
    while let Item::Record(header, head, sealed) = records.next()? {
        let Ok(piece) = cipher.open(&head, sealed) else { return Ok(None) };
        payload.extend_from_slice(&piece);
        if payload.len() as u64 > BLOCK_BYTES_MAX {
            return Ok(None);
        }
        if header.commit {
            return Ok(decode_block(&payload).ok().filter(|block| (block.start, block.end) == (name.start, name.end)));
        }
    }
    Ok(None)
}
