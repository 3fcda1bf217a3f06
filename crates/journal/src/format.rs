//! The byte layout of files that are sealed record by record: the open tail and the marks.
//!
//! Layout and reasons are in `docs/formats/journal.md`. Pure functions on bytes; all numbers little-endian.

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce, Tag};
use jiff::Timestamp;
use levee_model::Epoch;
use levee_model::postgres::{Lsn, SegmentSize, SystemIdentifier, TimelineId};
use sha2::{Digest, Sha256};

use crate::Lineage;
use crate::keys::DataKey;

pub(crate) const MAGIC: [u8; 8] = *b"LEVEELOG";
pub(crate) const VERSION: u32 = 1;
/// One sector, so that rewriting the slot in it can't tear.
pub(crate) const PREAMBLE_BYTES: usize = 512;
pub(crate) const SLOT_OFFSET: usize = 16;
pub(crate) const SLOT_BYTES: usize = 20;

pub(crate) const RUN_MAGIC: [u8; 4] = *b"LRUN";
pub(crate) const RUN_FIXED_BYTES: usize = 52;
/// An `age` header takes about 100 bytes for each recipient; this bounds what a damaged length can ask for.
pub(crate) const WRAPPED_KEY_BYTES_MAX: usize = 1 << 20;

pub(crate) const RECORD_MAGIC: [u8; 4] = *b"LREC";
pub(crate) const RECORD_HEADER_BYTES: usize = 48;
pub(crate) const TAG_BYTES: usize = 16;
/// The largest payload of a record, to bound what a reader must hold.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 4 << 20;

const FLAG_COMMIT: u32 = 1;
const NO_TIME: i64 = i64::MIN;

/// Why bytes were refused.
pub(crate) type Refused = &'static str;

/// The note at the start of a tail: how far it was acknowledged, and how fresh that was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub acknowledged: Lsn,
    pub as_of: Option<Timestamp>,
}

/// What a file's records are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Log,
    Marks,
}

/// What stands before the records of one writing session: its key, and whose log it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RunHeader {
    pub content: Content,
    pub lineage: Lineage,
    pub start: Lsn,
    /// An `age` file that holds the run's key.
    pub wrapped_key: Vec<u8>,
}

/// What stands before each sealed payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    /// Length of the payload before sealing.
    pub length: u32,
    /// The last record of a flush.
    pub commit: bool,
    pub lsn: Lsn,
    /// What was durable before this record was written.
    pub acknowledged: Lsn,
    pub as_of: Option<Timestamp>,
    /// Counts the records of the run from 0; it is the nonce.
    pub counter: u64,
}

impl RecordHeader {
    /// The position behind the payload.
    pub(crate) fn end(&self) -> Lsn {
        Lsn(self.lsn.0.saturating_add(u64::from(self.length)))
    }
}

fn time_to_bytes(time: Option<Timestamp>) -> [u8; 8] {
    time.map_or(NO_TIME, Timestamp::as_microsecond).to_le_bytes()
}

fn time_from(microseconds: i64) -> Option<Timestamp> {
    // What lies outside jiff's years counts as unknown.
    if microseconds == NO_TIME { None } else { Timestamp::from_microsecond(microseconds).ok() }
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|part| part.try_into().ok()).map_or(0, u32::from_le_bytes)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|part| part.try_into().ok()).map_or(0, u64::from_le_bytes)
}

pub(crate) fn i64_at(bytes: &[u8], at: usize) -> i64 {
    u64_at(bytes, at) as i64
}

pub(crate) fn encode_slot(slot: &Slot) -> [u8; SLOT_BYTES] {
    let mut bytes = [0; SLOT_BYTES];
    bytes[..8].copy_from_slice(&slot.acknowledged.0.to_le_bytes());
    bytes[8..16].copy_from_slice(&time_to_bytes(slot.as_of));
    let checksum = crc32c::crc32c(&bytes[..16]);
    bytes[16..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn decode_slot(bytes: &[u8]) -> Option<Slot> {
    // An unset slot is all zeros, whose checksum is not zero.
    (crc32c::crc32c(&bytes[..16]) == u32_at(bytes, 16))
        .then(|| Slot { acknowledged: Lsn(u64_at(bytes, 0)), as_of: time_from(i64_at(bytes, 8)) })
}

pub(crate) fn encode_preamble(slot: Option<&Slot>) -> [u8; PREAMBLE_BYTES] {
    let mut bytes = [0; PREAMBLE_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[..12]);
    bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    if let Some(slot) = slot {
        bytes[SLOT_OFFSET..SLOT_OFFSET + SLOT_BYTES].copy_from_slice(&encode_slot(slot));
    }
    bytes
}

/// Checks a preamble and reads its slot; a slot that was never set, or is torn, is `None`.
pub(crate) fn decode_preamble(bytes: &[u8; PREAMBLE_BYTES]) -> Result<Option<Slot>, Refused> {
    if bytes[..8] != MAGIC {
        return Err("it does not begin with LEVEELOG");
    }
    if crc32c::crc32c(&bytes[..12]) != u32_at(bytes, 12) {
        return Err("the checksum of its first bytes is wrong");
    }
    if u32_at(bytes, 8) != VERSION {
        return Err("it is of a version that this Levee does not know");
    }
    Ok(decode_slot(&bytes[SLOT_OFFSET..SLOT_OFFSET + SLOT_BYTES]))
}

pub(crate) fn encode_run(run: &RunHeader) -> Vec<u8> {
    let length = RUN_FIXED_BYTES + run.wrapped_key.len();
    let mut bytes = vec![0; RUN_FIXED_BYTES];
    bytes[..4].copy_from_slice(&RUN_MAGIC);
    bytes[8..12].copy_from_slice(&(length as u32).to_le_bytes());
    let content: u16 = match run.content {
        Content::Log => 1,
        Content::Marks => 2,
    };
    bytes[12..14].copy_from_slice(&content.to_le_bytes());
    bytes[16..24].copy_from_slice(&run.lineage.system_identifier.0.to_le_bytes());
    bytes[24..28].copy_from_slice(&run.lineage.timeline.0.to_le_bytes());
    bytes[28..32].copy_from_slice(&(run.lineage.segment_size.bytes() as u32).to_le_bytes());
    bytes[32..40].copy_from_slice(&run.lineage.epoch.0.to_le_bytes());
    bytes[40..48].copy_from_slice(&run.start.0.to_le_bytes());
    bytes[48..52].copy_from_slice(&(run.wrapped_key.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&run.wrapped_key);
    let checksum = crc32c::crc32c(&bytes[8..]);
    bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// The whole length of the run header whose fixed part is given.
pub(crate) fn run_length(fixed: &[u8]) -> Result<usize, Refused> {
    let (length, key) = (u32_at(fixed, 8) as usize, u32_at(fixed, 48) as usize);
    if key > WRAPPED_KEY_BYTES_MAX || length != RUN_FIXED_BYTES + key {
        return Err("the length of a run's header is impossible");
    }
    Ok(length)
}

pub(crate) fn decode_run(bytes: &[u8]) -> Result<RunHeader, Refused> {
    if bytes.len() < RUN_FIXED_BYTES || bytes[..4] != RUN_MAGIC || run_length(bytes)? != bytes.len() {
        return Err("a run's header is cut short");
    }
    if crc32c::crc32c(&bytes[8..]) != u32_at(bytes, 4) {
        return Err("the checksum of a run's header is wrong");
    }
    let content = match u32_at(bytes, 12) {
        1 => Content::Log,
        2 => Content::Marks,
        _ => return Err("a run is of a kind that this Levee does not know"),
    };
    let segment_size =
        SegmentSize::new(u64::from(u32_at(bytes, 28))).map_err(|_| "a run's segment size is impossible")?;
    let lineage = Lineage {
        system_identifier: SystemIdentifier(u64_at(bytes, 16)),
        timeline: TimelineId(u32_at(bytes, 24)),
        epoch: Epoch(u64_at(bytes, 32)),
        segment_size,
    };
    Ok(RunHeader { content, lineage, start: Lsn(u64_at(bytes, 40)), wrapped_key: bytes[RUN_FIXED_BYTES..].to_vec() })
}

/// The header of a record, its checksum not yet looked at.
pub(crate) fn decode_record_header(bytes: &[u8; RECORD_HEADER_BYTES]) -> Result<RecordHeader, Refused> {
    if bytes[..4] != RECORD_MAGIC {
        return Err("neither a record nor a run begins here");
    }
    let (length, flags) = (u32_at(bytes, 8), u32_at(bytes, 12));
    if length as usize > PAYLOAD_BYTES_MAX || flags & !FLAG_COMMIT != 0 {
        return Err("a record's header is impossible");
    }
    Ok(RecordHeader {
        length,
        commit: flags & FLAG_COMMIT != 0,
        lsn: Lsn(u64_at(bytes, 16)),
        acknowledged: Lsn(u64_at(bytes, 24)),
        as_of: time_from(i64_at(bytes, 32)),
        counter: u64_at(bytes, 40),
    })
}

/// Whether the checksum of a record (its header and what is sealed) holds.
pub(crate) fn record_is_whole(header: &[u8; RECORD_HEADER_BYTES], sealed: &[u8]) -> bool {
    crc32c::crc32c_append(crc32c::crc32c(&header[8..]), sealed) == u32_at(header, 4)
}

fn encode_record_header(header: &RecordHeader) -> [u8; RECORD_HEADER_BYTES] {
    let mut bytes = [0; RECORD_HEADER_BYTES];
    bytes[..4].copy_from_slice(&RECORD_MAGIC);
    bytes[8..12].copy_from_slice(&header.length.to_le_bytes());
    bytes[12..16].copy_from_slice(&u32::from(header.commit).to_le_bytes());
    bytes[16..24].copy_from_slice(&header.lsn.0.to_le_bytes());
    bytes[24..32].copy_from_slice(&header.acknowledged.0.to_le_bytes());
    bytes[32..40].copy_from_slice(&time_to_bytes(header.as_of));
    bytes[40..48].copy_from_slice(&header.counter.to_le_bytes());
    bytes
}

/// Seals and opens the records of one run.
pub(crate) struct RunCipher {
    cipher: ChaCha20Poly1305,
    /// SHA-256 of the run's header: binds every record to its lineage.
    header_hash: [u8; 32],
}

impl RunCipher {
    pub(crate) fn new(key: &DataKey, header_bytes: &[u8]) -> Self {
        let key: &[u8; 32] = key;
        Self { cipher: ChaCha20Poly1305::new(&Key::from(*key)), header_hash: Sha256::digest(header_bytes).into() }
    }

    pub(crate) fn header_hash(&self) -> [u8; 32] {
        self.header_hash
    }

    fn nonce(counter: u64) -> Nonce {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&counter.to_le_bytes());
        nonce.into()
    }

    fn associated(&self, header: &[u8; RECORD_HEADER_BYTES]) -> [u8; 32 + RECORD_HEADER_BYTES - 8] {
        let mut associated = [0; 32 + RECORD_HEADER_BYTES - 8];
        associated[..32].copy_from_slice(&self.header_hash);
        associated[32..].copy_from_slice(&header[8..]);
        associated
    }

    /// Appends a whole record to `out`. `header.length` must be that of `payload`.
    pub(crate) fn seal(&self, header: &RecordHeader, payload: &[u8], out: &mut Vec<u8>) -> Result<(), Refused> {
        debug_assert_eq!(header.length as usize, payload.len());
        let mut head = encode_record_header(header);
        let associated = self.associated(&head);
        let begin = out.len();
        out.reserve(RECORD_HEADER_BYTES + payload.len() + TAG_BYTES);
        out.extend_from_slice(&head);
        out.extend_from_slice(payload);
        let tag = self
            .cipher
            .encrypt_inout_detached(
                &Self::nonce(header.counter),
                &associated,
                out[begin + RECORD_HEADER_BYTES..].as_mut().into(),
            )
            .map_err(|_| "the record is too long to seal")?;
        out.extend_from_slice(&tag);
        let checksum = crc32c::crc32c(&out[begin + 8..]);
        head[4..8].copy_from_slice(&checksum.to_le_bytes());
        out[begin..begin + RECORD_HEADER_BYTES].copy_from_slice(&head);
        Ok(())
    }

    /// Opens what is sealed in the place where it lies.
    pub(crate) fn open(&self, head: &[u8; RECORD_HEADER_BYTES], mut sealed: Vec<u8>) -> Result<Vec<u8>, Refused> {
        let refused = "a record does not open with the run's key: it was changed, or belongs to another file";
        let (length, associated) = (sealed.len().checked_sub(TAG_BYTES).ok_or(refused)?, self.associated(head));
        let (payload, tag) = sealed.split_at_mut(length);
        let tag: Tag = (&*tag).try_into().map_err(|_| refused)?;
        self.cipher
            .decrypt_inout_detached(&Self::nonce(u64_at(head, 40)), &associated, payload.into(), &tag)
            .map_err(|_| refused)?;
        sealed.truncate(length);
        Ok(sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run() -> RunHeader {
        RunHeader {
            content: Content::Log,
            lineage: Lineage {
                system_identifier: SystemIdentifier(0x0102_0304_0506_0708),
                timeline: TimelineId(2),
                epoch: Epoch(3),
                segment_size: SegmentSize::DEFAULT,
            },
            start: Lsn(0x0300_0000),
            wrapped_key: b"age".to_vec(),
        }
    }

    fn record(length: u32) -> RecordHeader {
        RecordHeader {
            length,
            commit: true,
            lsn: Lsn(0x0300_0000),
            acknowledged: Lsn(0x0200_0000),
            as_of: Some(Timestamp::from_microsecond(1_700_000_000_000_001).unwrap()),
            counter: 5,
        }
    }

    /// Version 1, byte for byte. A change here is a change of the format.
    #[test]
    fn golden_bytes_of_version_1() {
        let slot = Slot { acknowledged: Lsn(0x0300_0010), as_of: record(0).as_of };
        let preamble = encode_preamble(Some(&slot));
        assert_eq!(hex::encode(&preamble[..40]), GOLDEN_PREAMBLE);
        assert!(preamble[40..].iter().all(|byte| *byte == 0));
        let run_bytes = encode_run(&run());
        assert_eq!(hex::encode(&run_bytes), GOLDEN_RUN);
        let cipher = RunCipher::new(&DataKey::new([7; 32]), &run_bytes);
        let mut sealed = Vec::new();
        cipher.seal(&record(5), b"hello", &mut sealed).unwrap();
        assert_eq!(hex::encode(&sealed), GOLDEN_RECORD);
    }

    const GOLDEN_PREAMBLE: &str = "4c455645454c4f47010000001dd47404100000030000000001401e18240a0600f24d6b0700000000";
    const GOLDEN_RUN: &str = "4c52554ea028ebb93700000001000000080706050403020102000000000000010300000000000000000000030000000003000000616765";
    const GOLDEN_RECORD: &str = "4c524543eaeb435b05000000010000000000000300000000000000020000000001401e18240a0600050000000000000024ff4c44ae318f8575a553b81e453685504639cee6";

    #[test]
    fn what_is_written_reads_back() {
        let slot = Slot { acknowledged: Lsn(9), as_of: None };
        assert_eq!(decode_preamble(&encode_preamble(Some(&slot))), Ok(Some(slot)));
        assert_eq!(decode_preamble(&encode_preamble(None)), Ok(None));
        let bytes = encode_run(&run());
        assert_eq!(decode_run(&bytes), Ok(run()));
        let cipher = RunCipher::new(&DataKey::new([7; 32]), &bytes);
        let mut sealed = Vec::new();
        cipher.seal(&record(5), b"hello", &mut sealed).unwrap();
        let head: [u8; RECORD_HEADER_BYTES] = sealed[..RECORD_HEADER_BYTES].try_into().unwrap();
        assert_eq!(decode_record_header(&head), Ok(record(5)));
        assert!(record_is_whole(&head, &sealed[RECORD_HEADER_BYTES..]));
        assert_eq!(cipher.open(&head, sealed[RECORD_HEADER_BYTES..].to_vec()).unwrap(), b"hello");
    }

    #[test]
    fn a_record_opens_only_in_its_own_run() {
        let other = RunHeader { start: Lsn(0x0400_0000), ..run() };
        let key = DataKey::new([7; 32]);
        let (here, there) = (RunCipher::new(&key, &encode_run(&run())), RunCipher::new(&key, &encode_run(&other)));
        let mut sealed = Vec::new();
        here.seal(&record(5), b"hello", &mut sealed).unwrap();
        let head: [u8; RECORD_HEADER_BYTES] = sealed[..RECORD_HEADER_BYTES].try_into().unwrap();
        assert!(there.open(&head, sealed[RECORD_HEADER_BYTES..].to_vec()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
            let _ = decode_run(&bytes);
            if let Some(head) = bytes.first_chunk() {
                let _ = decode_record_header(head);
            }
            if let Some(preamble) = bytes.first_chunk() {
                let _ = decode_preamble(preamble);
            }
        }

        #[test]
        fn a_flipped_bit_is_noticed(at in 0usize..69 * 8) {
            let cipher = RunCipher::new(&DataKey::new([7; 32]), &encode_run(&run()));
            let mut sealed = Vec::new();
            cipher.seal(&record(5), b"hello", &mut sealed).unwrap();
            sealed[at / 8] ^= 1 << (at % 8);
            let head: [u8; RECORD_HEADER_BYTES] = sealed[..RECORD_HEADER_BYTES].try_into().unwrap();
            prop_assert!(decode_record_header(&head).is_err() || !record_is_whole(&head, &sealed[RECORD_HEADER_BYTES..]));
        }
    }
}
