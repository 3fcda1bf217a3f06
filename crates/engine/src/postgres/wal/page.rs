use levee_model::postgres::{Lsn, SegmentSize, SystemIdentifier, TimelineId};

/// The size of a page of the log; the only one that Levee works with, and all but everyone's.
pub const WAL_PAGE_SIZE: usize = 8192;

pub(super) const SHORT_HEADER_SIZE: usize = 24;
pub(super) const LONG_HEADER_SIZE: usize = 40;

const FIRST_IS_CONTINUED: u16 = 0x0001;
const LONG_HEADER: u16 = 0x0002;
const FIRST_IS_OVERWRITE: u16 = 0x0008;
const KNOWN_FLAGS: u16 = 0x000F;

/// The heading of a page of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHeader {
    /// 13 to 17.
    pub version: u32,
    pub timeline: TimelineId,
    pub address: Lsn,
    /// The bytes of a record of an earlier page that are still to come, when the page begins with them.
    pub continued_bytes: Option<u32>,
    /// A record of the page before was given up after a crash; a new one begins here.
    pub overwrites_continuation: bool,
    /// On a segment's first page.
    pub first_page: Option<FirstPage>,
}

/// What only the first page of a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstPage {
    pub system_identifier: SystemIdentifier,
    pub segment_size: SegmentSize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    #[error("it is of no version from 13 to 17")]
    Magic,
    #[error("its flags make no sense")]
    Flags,
    #[error("it belongs to another position")]
    Address,
    #[error("its page or segment size is not supported")]
    Sizes,
}

impl PageHeader {
    /// The number of bytes that a header at this position has.
    pub fn size_at(position: Lsn, segment_size: SegmentSize) -> usize {
        if position.segment_start(segment_size) == position { LONG_HEADER_SIZE } else { SHORT_HEADER_SIZE }
    }

    /// Reads the header of the page at `position`, of `size_at` bytes.
    pub fn parse(bytes: &[u8], position: Lsn, segment_size: SegmentSize) -> Result<Self, PageError> {
        let (Some(magic), Some(info)) = (half(bytes, 0), half(bytes, 2)) else { return Err(PageError::Magic) };
        let version = match magic {
            0xD106 => 13,
            0xD10D => 14,
            0xD110 => 15,
            0xD113 => 16,
            0xD116 => 17,
            _ => return Err(PageError::Magic),
        };
        let is_long = Self::size_at(position, segment_size) == LONG_HEADER_SIZE;
        if info & !KNOWN_FLAGS != 0 || (info & LONG_HEADER != 0) != is_long {
            return Err(PageError::Flags);
        }
        let (Some(timeline), Some(address), Some(continued)) = (word(bytes, 4), long(bytes, 8), word(bytes, 16)) else {
            return Err(PageError::Magic);
        };
        if address != position.0 {
            return Err(PageError::Address);
        }
        Ok(Self {
            version,
            timeline: TimelineId(timeline),
            address: position,
            continued_bytes: (info & FIRST_IS_CONTINUED != 0).then_some(continued),
            overwrites_continuation: info & FIRST_IS_OVERWRITE != 0,
            first_page: is_long.then(|| FirstPage::parse(bytes, segment_size)).transpose()?,
        })
    }
}

impl FirstPage {
    fn parse(bytes: &[u8], expected: SegmentSize) -> Result<Self, PageError> {
        let (Some(identifier), Some(segment), Some(page)) = (long(bytes, 24), word(bytes, 32), word(bytes, 36)) else {
            return Err(PageError::Sizes);
        };
        if page as usize != WAL_PAGE_SIZE || u64::from(segment) != expected.bytes() {
            return Err(PageError::Sizes);
        }
        Ok(Self { system_identifier: SystemIdentifier(identifier), segment_size: expected })
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

pub(super) fn half(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

pub(super) fn long(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}
