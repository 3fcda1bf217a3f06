use levee_model::postgres::{Lsn, SegmentSize};

use super::page::{LONG_HEADER_SIZE, PageHeader, WAL_PAGE_SIZE};
use super::record::{RECORD_HEADER_SIZE, RECORD_SIZE_MAX, RecordHeader, checksum_with_header, total_size};
use super::{Decoded, LostSync};

/// How much of a wanted record is kept. A commit's time is at its start; only the number of a prepared transaction
/// with tens of thousands of subtransactions lies beyond.
const BODY_KEPT_MAX: usize = 256 << 10;

/// Follows the log as its bytes arrive, in pieces of any size.
///
/// ```text
///               header read         remainder skipped
///  SkipToSegment ───────▶ Skip ────────────────────────▶ Between ◀──────────────┐
///       ▲                                                   │ first byte        │ record complete
///       │ sync lost, at any point                           ▼                   │
///       └──────────────────────────────────────────────── Header ───────────▶ Body
/// ```
///
/// Page headers interrupt every state; they are read beside it.
pub struct WalDecoder {
    segment_size: SegmentSize,
    /// Of the next byte.
    position: Lsn,
    state: State,
    page_header: Vec<u8>,
    version: u32,
    /// Where the record before began, once one is known.
    previous: Option<Lsn>,
    first_record: Option<Lsn>,
}

enum State {
    /// Nothing is understood until the next segment begins (or, at the very start, the next page).
    SkipToSegment,
    SkipToPage,
    /// The rest of a record whose start was not seen.
    Skip {
        left: u32,
    },
    /// Between records: alignment, then the next one.
    Between,
    Header {
        start: Lsn,
        bytes: [u8; RECORD_HEADER_SIZE],
        filled: usize,
    },
    Body {
        start: Lsn,
        bytes: [u8; RECORD_HEADER_SIZE],
        header: RecordHeader,
        left: u32,
        checksum: u32,
        kept: Vec<u8>,
    },
    /// After a switch: zeros up to the segment's end.
    Switched,
}

impl WalDecoder {
    /// Starts at `start`. In the middle of a page, decoding begins at the next one; records that began before
    /// `start` are not seen.
    pub fn new(segment_size: SegmentSize, start: Lsn) -> Self {
        Self {
            segment_size,
            position: start,
            state: State::SkipToPage,
            page_header: Vec::with_capacity(LONG_HEADER_SIZE),
            version: 0,
            previous: None,
            first_record: None,
        }
    }

    /// Where the first record begins that was seen from its start; `None` as long as there was none.
    pub fn first_record(&self) -> Option<Lsn> {
        self.first_record
    }

    /// Where the next byte is expected.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// Takes the next bytes of the log.
    pub fn feed(&mut self, mut bytes: &[u8], mut on: impl FnMut(Decoded)) {
        while !bytes.is_empty() {
            let in_page = (self.position.0 % WAL_PAGE_SIZE as u64) as usize;
            let taken = match self.page_header_left(in_page) {
                Some(left) => self.take_page_header(&bytes[..left.min(bytes.len())], &mut on),
                None => {
                    let end = (WAL_PAGE_SIZE - in_page).min(bytes.len());
                    self.take(&bytes[..end], &mut on)
                }
            };
            self.position.0 = self.position.0.wrapping_add(taken as u64);
            bytes = &bytes[taken..];
        }
    }

    /// How many bytes of the current page's header are still to come.
    fn page_header_left(&self, in_page: usize) -> Option<usize> {
        if in_page == 0 && self.page_header.is_empty() {
            return Some(PageHeader::size_at(self.position, self.segment_size));
        }
        if self.page_header.is_empty() {
            return None;
        }
        let page = Lsn(self.position.0 - in_page as u64);
        Some(PageHeader::size_at(page, self.segment_size) - in_page).filter(|left| *left > 0)
    }

    fn take_page_header(&mut self, bytes: &[u8], on: &mut impl FnMut(Decoded)) -> usize {
        let in_page = self.position.0 % WAL_PAGE_SIZE as u64;
        let page = Lsn(self.position.0 - in_page);
        self.page_header.extend_from_slice(bytes);
        if self.page_header.len() == PageHeader::size_at(page, self.segment_size) {
            let parsed = PageHeader::parse(&self.page_header, page, self.segment_size);
            self.page_header.clear();
            let begins_segment = page.segment_start(self.segment_size) == page;
            let is_skipped = match self.state {
                State::SkipToSegment => !begins_segment,
                // The pages after a switch have headers, or are all zeros; both are fine.
                State::Switched => !begins_segment,
                _ => false,
            };
            if !is_skipped {
                match parsed {
                    Ok(header) => self.enter_page(header, page, on),
                    Err(error) => self.lose_sync(page, error.into(), on),
                }
            }
        }
        bytes.len()
    }

    fn enter_page(&mut self, header: PageHeader, page: Lsn, on: &mut impl FnMut(Decoded)) {
        self.version = header.version;
        let continued = header.continued_bytes;
        let is_continued_well = match &self.state {
            State::SkipToSegment | State::SkipToPage | State::Switched => {
                self.previous = None;
                self.state = continued.map_or(State::Between, |left| State::Skip { left });
                return;
            }
            State::Between => continued.is_none(),
            State::Skip { left } => continued == Some(*left),
            State::Header { filled, bytes, .. } => {
                continued.is_some_and(|left| total_size(bytes) == left.checked_add(*filled as u32))
            }
            State::Body { left, .. } => continued == Some(*left),
        };
        if is_continued_well {
            return;
        }
        if header.overwrites_continuation && continued.is_none() {
            // After a crash the server gave the record up and wrote on from here.
            self.previous = None;
            self.state = State::Between;
        } else {
            self.lose_sync(page, LostSync::Continuation, on);
        }
    }

    /// Takes bytes of one page behind its header, and says how many.
    fn take(&mut self, bytes: &[u8], on: &mut impl FnMut(Decoded)) -> usize {
        match &mut self.state {
            State::SkipToSegment | State::SkipToPage | State::Switched => bytes.len(),
            State::Skip { left } => {
                let taken = bytes.len().min(*left as usize);
                *left -= taken as u32;
                if *left == 0 {
                    self.state = State::Between;
                }
                taken
            }
            State::Between => {
                let padding = ((8 - self.position.0 % 8) % 8) as usize;
                if padding == 0 {
                    self.first_record = self.first_record.or(Some(self.position));
                    self.state = State::Header { start: self.position, bytes: [0; RECORD_HEADER_SIZE], filled: 0 };
                }
                padding.min(bytes.len())
            }
            State::Header { bytes: header, filled, .. } => {
                let taken = bytes.len().min(RECORD_HEADER_SIZE - *filled);
                header[*filled..*filled + taken].copy_from_slice(&bytes[..taken]);
                *filled += taken;
                self.header_grew(on);
                taken
            }
            State::Body { left, checksum, kept, header, .. } => {
                let taken = bytes.len().min(*left as usize);
                *checksum = crc32c::crc32c_append(*checksum, &bytes[..taken]);
                if header.is_wanted() {
                    let room = BODY_KEPT_MAX - kept.len().min(BODY_KEPT_MAX);
                    kept.extend_from_slice(&bytes[..taken.min(room)]);
                }
                *left -= taken as u32;
                if *left == 0 {
                    let end = Lsn(self.position.0.wrapping_add(taken as u64));
                    self.record_complete(end, on);
                }
                taken
            }
        }
    }

    fn header_grew(&mut self, on: &mut impl FnMut(Decoded)) {
        let State::Header { start, bytes, filled } = &self.state else { return };
        let (start, bytes, filled) = (*start, *bytes, *filled);
        // The length never crosses a page, and is judged first: zeros there are the log's end.
        let Some(size) = total_size(&bytes).filter(|_| filled >= 4) else { return };
        if size == 0 {
            return self.lose_sync(start, LostSync::Zeros, on);
        }
        if (size as usize) < RECORD_HEADER_SIZE || size > RECORD_SIZE_MAX {
            return self.lose_sync(start, LostSync::RecordLength, on);
        }
        if filled < RECORD_HEADER_SIZE {
            return;
        }
        let Some(header) = RecordHeader::parse(&bytes) else { return };
        if header.previous >= start || self.previous.is_some_and(|previous| previous != header.previous) {
            return self.lose_sync(start, LostSync::RecordOrder, on);
        }
        let left = size - RECORD_HEADER_SIZE as u32;
        self.state = State::Body { start, bytes, header, left, checksum: 0, kept: Vec::new() };
        if left == 0 {
            self.record_complete(Lsn(start.0.wrapping_add(size.into())), on);
        }
    }

    fn record_complete(&mut self, end: Lsn, on: &mut impl FnMut(Decoded)) {
        let State::Body { start, bytes, header, checksum, kept, .. } =
            std::mem::replace(&mut self.state, State::Between)
        else {
            return;
        };
        if checksum_with_header(checksum, &bytes) != header.checksum {
            return self.lose_sync(start, LostSync::RecordChecksum, on);
        }
        self.previous = Some(start);
        // Recovery counts a record's end with its alignment.
        let end = Lsn(end.0.wrapping_add(7) & !7);
        if header.is_wanted()
            && let Some(mark) = header.mark(&kept, end, self.version)
        {
            on(Decoded::Mark(mark));
        }
        if header.is_switch() {
            self.state = State::Switched;
        }
    }

    fn lose_sync(&mut self, at: Lsn, reason: LostSync, on: &mut impl FnMut(Decoded)) {
        self.state = State::SkipToSegment;
        self.previous = None;
        on(Decoded::LostSync { at, reason });
    }
}
