//! Finding marks (commits, restore points) in a journal's log, and keeping them beside it.

use std::sync::Arc;

use levee_engine::postgres::wal::{self, Decoded, WalDecoder};
use levee_journal::{FindMarks, LogJournal, Mark, MarkBlock, MarkFinder, MarkKind};
use levee_model::Epoch;
use levee_model::postgres::{Lsn, SegmentSize, SystemIdentifier, TimelineId};

use crate::{Error, Result};

fn failed(source: levee_journal::Error) -> Error {
    Error::Journal { doing: "looking through the journal's log", source }
}

/// One timeline's log in a journal.
#[derive(Clone, Copy)]
pub struct Log<'a> {
    pub journal: &'a LogJournal,
    pub system_identifier: SystemIdentifier,
    pub timeline: TimelineId,
    pub segment_size: SegmentSize,
}

/// Finds the marks of each segment while a journal closes it.
pub fn finder() -> MarkFinder {
    Arc::new(|segment_size, start| {
        Box::new(Finding { decoder: WalDecoder::new(segment_size, start), begun_at: start, segment_size })
    })
}

struct Finding {
    decoder: WalDecoder,
    begun_at: Lsn,
    segment_size: SegmentSize,
}

impl FindMarks for Finding {
    fn feed(&mut self, bytes: &[u8], marks: &mut Vec<Mark>) {
        self.decoder.feed(bytes, |decoded| {
            if let Decoded::Mark(mark) = decoded {
                marks.extend(converted(mark));
            }
        });
    }

    fn complete_from(&self) -> Option<Lsn> {
        let first = self.decoder.first_record()?;
        // Where the page's header alone comes before the first record, nothing was missed.
        let header_bytes = wal::PageHeader::size_at(self.begun_at, self.segment_size) as u64;
        Some(if first.0 <= self.begun_at.0 + header_bytes { self.begun_at } else { first })
    }
}

impl Log<'_> {
    /// Finds and keeps the marks of one closed segment, or of a part of one, of which they are missing. False when none
    /// are; that is cheap.
    pub fn index_one(&self, epoch: Epoch) -> Result<bool> {
        let (journal, system, timeline) = (self.journal, self.system_identifier, self.timeline);
        let unmarked = journal.unmarked(system, timeline).map_err(failed)?;
        if unmarked.is_empty() {
            return Ok(false);
        }
        let stretches = journal.extents(system, timeline).map_err(failed)?;
        for (start, end) in unmarked {
            let here = stretches.iter().find(|stretch| stretch.start <= start && end <= stretch.durable_end);
            let Some(stretch) = here else { continue };
            match self.decode(stretch.start, start, end) {
                Ok(marks) => {
                    let block = MarkBlock { start, end, marks };
                    journal.keep_marks(system, timeline, epoch, self.segment_size, &block).map_err(failed)?;
                    return Ok(true);
                }
                // One that can't be read keeps nobody from finding the marks of the others.
                Err(error) => tracing::warn!(%start, %timeline, problem = error.with_causes(), "no marks can be found"),
            }
        }
        Ok(false)
    }

    /// Every mark behind `from` and up to `to`, from what is kept as far as it goes, and from the log itself.
    pub fn marks(&self, from: Lsn, to: Lsn) -> Result<Vec<Mark>> {
        let (journal, system, timeline) = (self.journal, self.system_identifier, self.timeline);
        let mut marks = Vec::new();
        let mut position = from;
        for block in journal.marks(system, timeline, from, to).map_err(failed)? {
            if block.start > position {
                marks.extend(self.decode(from, position, block.start)?);
                position = block.start;
            }
            if block.end > position {
                marks.extend(block.marks.into_iter().filter(|mark| mark.lsn > position && mark.lsn <= to));
                position = block.end;
            }
        }
        if position < to {
            marks.extend(self.decode(from, position, to)?);
        }
        Ok(marks)
    }

    /// Decodes the log and returns the marks whose records end behind `from` and not behind `to`.
    /// `first` is the earliest position that is there: a record may begin in the segment before.
    fn decode(&self, first: Lsn, from: Lsn, to: Lsn) -> Result<Vec<Mark>> {
        let segment = from.segment_start(self.segment_size);
        let before = Lsn(segment.0.saturating_sub(self.segment_size.bytes()));
        let begin = if before >= first.segment_start(self.segment_size) { before } else { segment };
        let mut decoder = WalDecoder::new(self.segment_size, begin);
        let mut reader = self.journal.reader(self.system_identifier, self.timeline, begin).map_err(failed)?;
        let mut marks = Vec::new();
        while decoder.position() < to {
            let Some((_, bytes)) = reader.next_part().map_err(failed)? else { break };
            decoder.feed(&bytes, |decoded| {
                if let Decoded::Mark(mark) = decoded
                    && mark.lsn > from
                    && mark.lsn <= to
                {
                    marks.extend(converted(mark));
                }
            });
        }
        Ok(marks)
    }

    /// Where the last record begins that is whole in the log up to `end`; `None` when there is none in
    /// the last two segments. Recovery stops before a position only when a record begins there or behind.
    pub(super) fn last_record(&self, end: Lsn) -> Result<Option<Lsn>> {
        let last = Lsn(end.0.saturating_sub(1)).segment_start(self.segment_size);
        let before = Lsn(last.0.saturating_sub(self.segment_size.bytes()));
        for begin in [last, before] {
            let Ok(mut reader) = self.journal.reader(self.system_identifier, self.timeline, begin) else { continue };
            let mut bytes = Vec::new();
            while let Some((_, part)) = reader.next_part().map_err(failed)? {
                bytes.extend_from_slice(&part);
            }
            bytes.truncate(end.bytes_since(begin) as usize);
            if let Some(start) = last_record_in(&bytes, begin, self.segment_size) {
                return Ok(Some(start));
            }
        }
        Ok(None)
    }
}

fn converted(mark: wal::Mark) -> Option<Mark> {
    let kind = match mark.kind {
        wal::MarkKind::Commit { xid: Some(xid) } => MarkKind::Commit { xid },
        wal::MarkKind::RestorePoint { name } => MarkKind::RestorePoint { name },
        _ => return None,
    };
    Some(Mark { lsn: mark.lsn, time: mark.time?, kind })
}

/// Walks from record to record by their lengths. `begin` is the start of a segment.
fn last_record_in(bytes: &[u8], begin: Lsn, segment_size: SegmentSize) -> Option<Lsn> {
    let page_size = wal::WAL_PAGE_SIZE as u64;
    let header_at = |lsn: Lsn| wal::PageHeader::size_at(lsn, segment_size) as u64;
    let header = wal::PageHeader::parse(bytes.get(..header_at(begin) as usize)?, begin, segment_size).ok()?;
    // The position behind `length` bytes of records that go on at `from`, page headers skipped.
    let behind = |mut from: Lsn, mut length: u64| {
        while length > 0 {
            if from.0.is_multiple_of(page_size) {
                from.0 += header_at(from);
            }
            let taken = length.min(page_size - from.0 % page_size);
            (from.0, length) = (from.0 + taken, length - taken);
        }
        Lsn(from.0.next_multiple_of(8))
    };
    let end = Lsn(begin.0 + bytes.len() as u64);
    let mut position = behind(begin, u64::from(header.continued_bytes.unwrap_or(0)));
    let mut last = None;
    loop {
        if position.0.is_multiple_of(page_size) {
            position.0 += header_at(position);
        }
        let at = usize::try_from(position.bytes_since(begin)).ok()?;
        let Some(length) = bytes.get(at..at + 4).and_then(|length| length.try_into().ok()).map(u32::from_le_bytes)
        else {
            return last;
        };
        // A switch leaves zeros up to the segment's end.
        if length < 24 {
            let next = Lsn(position.segment_start(segment_size).0 + segment_size.bytes());
            if next >= end {
                return last;
            }
            position = next;
            continue;
        }
        let record_end = behind(position, u64::from(length));
        // The padding behind a record need not have come.
        if record_end.0 > end.0 + 7 {
            return last;
        }
        (last, position) = (Some(position), record_end);
    }
}
