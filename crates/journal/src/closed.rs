//! A closed segment: zstd frames inside the `age` format.
//!
//! Header and trailer are skippable frames, which `zstd -d` passes over: what is left is the native
//! segment. Layout in `docs/formats/journal.md`.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use levee_model::Epoch;
use levee_model::postgres::{Lsn, SegmentSize, SystemIdentifier, TimelineId};
use sha2::{Digest, Sha256};

use crate::format::{i64_at, u32_at, u64_at};
use crate::keys::JournalKeys;
use crate::{Error, Lineage, Result};

/// The bytes of log in one zstd frame.
const FRAME_BYTES: usize = 1 << 20;
/// Three times as small as the log at about 300 MB/s, in the background.
const ZSTD_LEVEL: i32 = 3;

const HEADER_FRAME: u32 = 0x184D_2A5E;
const TRAILER_FRAME: u32 = 0x184D_2A5F;
const ZSTD_FRAME: u32 = 0xFD2F_B528;
const HEADER_MAGIC: [u8; 8] = *b"LEVEEWAL";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 64;
const TRAILER_FIXED_BYTES: usize = 40;

/// What a closed file says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClosedHeader {
    pub lineage: Lineage,
    pub start: Lsn,
    pub end: Lsn,
    pub as_of: Option<Timestamp>,
}

fn encode_header(header: &ClosedHeader) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 + HEADER_BYTES);
    bytes.extend_from_slice(&HEADER_FRAME.to_le_bytes());
    bytes.extend_from_slice(&(HEADER_BYTES as u32).to_le_bytes());
    bytes.extend_from_slice(&HEADER_MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&header.lineage.timeline.0.to_le_bytes());
    bytes.extend_from_slice(&header.lineage.system_identifier.0.to_le_bytes());
    bytes.extend_from_slice(&header.lineage.epoch.0.to_le_bytes());
    bytes.extend_from_slice(&header.start.0.to_le_bytes());
    bytes.extend_from_slice(&header.end.0.to_le_bytes());
    bytes.extend_from_slice(&header.as_of.map_or(i64::MIN, Timestamp::as_microsecond).to_le_bytes());
    bytes.extend_from_slice(&(header.lineage.segment_size.bytes() as u32).to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[8..]);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

fn decode_header(bytes: &[u8]) -> std::result::Result<ClosedHeader, &'static str> {
    if bytes.len() != HEADER_BYTES || bytes[..8] != HEADER_MAGIC {
        return Err("it has no header of a closed segment");
    }
    if crc32c::crc32c(&bytes[..60]) != u32_at(bytes, 60) {
        return Err("the checksum of its header is wrong");
    }
    if u32_at(bytes, 8) != VERSION {
        return Err("it is of a version that this Levee does not know");
    }
    let segment_size = SegmentSize::new(u64::from(u32_at(bytes, 56))).map_err(|_| "its segment size is impossible")?;
    Ok(ClosedHeader {
        lineage: Lineage {
            timeline: TimelineId(u32_at(bytes, 12)),
            system_identifier: SystemIdentifier(u64_at(bytes, 16)),
            epoch: Epoch(u64_at(bytes, 24)),
            segment_size,
        },
        start: Lsn(u64_at(bytes, 32)),
        end: Lsn(u64_at(bytes, 40)),
        as_of: match i64_at(bytes, 48) {
            i64::MIN => None,
            microseconds => Timestamp::from_microsecond(microseconds).ok(),
        },
    })
}

/// Takes a segment's log piece by piece and writes the closed form of it.
pub(crate) struct ClosedWriter<'a> {
    output: age::stream::StreamWriter<BufWriter<File>>,
    path: &'a Path,
    header: ClosedHeader,
    compressor: zstd::bulk::Compressor<'static>,
    frame: Vec<u8>,
    compressed: Vec<u8>,
    frames: Vec<Frame>,
    hash: Sha256,
    taken: u64,
}

/// One frame of a closed file, as it was written.
#[derive(Clone, Copy, Debug)]
struct Frame {
    compressed_bytes: u32,
    log_bytes: u32,
    /// CRC-32C of the log in it.
    checksum: u32,
}

/// What a closed file must say when it is read back.
pub(crate) struct Written {
    header: Vec<u8>,
    frames: Vec<Frame>,
    trailer: Vec<u8>,
}

impl<'a> ClosedWriter<'a> {
    pub(crate) fn create(path: &'a Path, header: ClosedHeader, keys: &JournalKeys) -> Result<Self> {
        let file = BufWriter::new(File::create(path).map_err(Error::io("create", path))?);
        let mut output = keys.encryptor()?.wrap_output(file).map_err(Error::io("write", path))?;
        output.write_all(&encode_header(&header)).map_err(Error::io("write", path))?;
        Ok(Self {
            output,
            path,
            header,
            compressor: compressor().map_err(Error::io("compress into", path))?,
            frame: Vec::with_capacity(FRAME_BYTES),
            compressed: Vec::with_capacity(zstd::zstd_safe::compress_bound(FRAME_BYTES)),
            frames: Vec::new(),
            hash: Sha256::new(),
            taken: 0,
        })
    }

    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let (part, rest) = bytes.split_at(bytes.len().min(FRAME_BYTES - self.frame.len()));
            self.frame.extend_from_slice(part);
            if self.frame.len() == FRAME_BYTES {
                self.end_frame()?;
            }
            bytes = rest;
        }
        Ok(())
    }

    fn end_frame(&mut self) -> Result<()> {
        self.hash.update(&self.frame);
        self.taken += self.frame.len() as u64;
        self.compressed.clear();
        self.compressor
            .compress_to_buffer(&self.frame, &mut self.compressed)
            .map_err(Error::io("compress into", self.path))?;
        self.output.write_all(&self.compressed).map_err(Error::io("write", self.path))?;
        self.frames.push(Frame {
            compressed_bytes: self.compressed.len() as u32,
            log_bytes: self.frame.len() as u32,
            checksum: crc32c::crc32c(&self.frame),
        });
        self.frame.clear();
        Ok(())
    }

    /// Ends the file and syncs it. Answers with what must be in it.
    ///
    /// # Errors
    /// `Damaged` when what came is not exactly the header's range.
    pub(crate) fn finish(mut self) -> Result<Written> {
        if !self.frame.is_empty() {
            self.end_frame()?;
        }
        let expected = self.header.end.bytes_since(self.header.start);
        if self.taken != expected {
            let reason = format!("{} bytes of log came for a segment of {expected}", self.taken);
            return Err(Error::damaged(self.path, self.taken, reason));
        }
        let hash: [u8; 32] = self.hash.finalize().into();
        let mut trailer = Vec::new();
        trailer.extend_from_slice(&TRAILER_FRAME.to_le_bytes());
        trailer.extend_from_slice(&((TRAILER_FIXED_BYTES + 4 * self.frames.len()) as u32).to_le_bytes());
        trailer.extend_from_slice(&hash);
        trailer.extend_from_slice(&(FRAME_BYTES as u32).to_le_bytes());
        trailer.extend_from_slice(&(self.frames.len() as u32).to_le_bytes());
        for frame in &self.frames {
            trailer.extend_from_slice(&frame.compressed_bytes.to_le_bytes());
        }
        self.output.write_all(&trailer).map_err(Error::io("write", self.path))?;
        let file = self.output.finish().map_err(Error::io("write", self.path))?;
        let file = file.into_inner().map_err(|error| Error::io("write", self.path)(error.into_error()))?;
        file.sync_all().map_err(Error::io("sync", self.path))?;
        Ok(Written { header: encode_header(&self.header), frames: self.frames, trailer })
    }
}

/// One for all frames of a file: making one costs as much as compressing some 100 KiB.
fn compressor() -> io::Result<zstd::bulk::Compressor<'static>> {
    let mut compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL)?;
    compressor.include_checksum(true)?;
    Ok(compressor)
}

/// Reads back what has just been written, and compares every byte of it: header and trailer as they are, the log
/// by zstd's checksum of each frame and by ours. That its SHA-256 is that of the trailer need not be found once more.
pub(crate) fn verify(path: &Path, written: &Written, keys: &JournalKeys) -> Result<()> {
    let file = BufReader::new(File::open(path).map_err(Error::io("open", path))?);
    let mut input = keys.decrypt(file, path)?;
    let differs = |at: u64| Error::damaged(path, at, "what was read back is not what was written");
    let expect = |input: &mut dyn Read, expected: &[u8], at: u64| {
        let mut found = vec![0; expected.len()];
        read_exact(input, &mut found, path)?;
        if found == expected { Ok(()) } else { Err(differs(at)) }
    };
    expect(&mut input, &written.header, 0)?;
    let mut decompressor = zstd::bulk::Decompressor::new().map_err(Error::io("read", path))?;
    let (mut compressed, mut log, mut given) = (Vec::new(), Vec::with_capacity(FRAME_BYTES), 0);
    for frame in &written.frames {
        compressed.resize(frame.compressed_bytes as usize, 0);
        read_exact(&mut input, &mut compressed, path)?;
        log.clear();
        decompressor.decompress_to_buffer(&compressed, &mut log).map_err(|_| differs(given))?;
        if log.len() != frame.log_bytes as usize || crc32c::crc32c(&log) != frame.checksum {
            return Err(differs(given));
        }
        given += log.len() as u64;
    }
    expect(&mut input, &written.trailer, given)?;
    match input.read(&mut [0]) {
        Ok(0) => Ok(()),
        _ => Err(differs(given)),
    }
}

/// Reads the header of a closed file.
pub(crate) fn read_header(path: &Path, keys: &JournalKeys) -> Result<ClosedHeader> {
    ClosedReader::open(path, keys).map(|reader| reader.header)
}

/// The log of a closed file, frame by frame, with everything checked on the way.
pub(crate) struct ClosedReader {
    input: BufReader<age::stream::StreamReader<BufReader<File>>>,
    path: PathBuf,
    pub header: ClosedHeader,
    hash: Sha256,
    given: u64,
}

impl ClosedReader {
    pub(crate) fn open(path: &Path, keys: &JournalKeys) -> Result<Self> {
        let file = BufReader::new(File::open(path).map_err(Error::io("open", path))?);
        let mut input = BufReader::with_capacity(128 << 10, keys.decrypt(file, path)?);
        let mut frame = [0; 8 + HEADER_BYTES];
        read_exact(&mut input, &mut frame, path)?;
        if u32_at(&frame, 0) != HEADER_FRAME || u32_at(&frame, 4) as usize != HEADER_BYTES {
            return Err(Error::damaged(path, 0, "it has no header of a closed segment"));
        }
        let header = decode_header(&frame[8..]).map_err(|reason| Error::damaged(path, 0, reason))?;
        Ok(Self { input, path: path.to_path_buf(), header, hash: Sha256::new(), given: 0 })
    }

    /// The next frame's log; `None` at the end, when length and hash have been found right.
    pub(crate) fn next(&mut self) -> Result<Option<Vec<u8>>> {
        let mut magic = [0; 4];
        read_exact(&mut self.input, &mut magic, &self.path)?;
        match u32::from_le_bytes(magic) {
            ZSTD_FRAME => self.frame(&magic).map(Some),
            TRAILER_FRAME => self.trailer().map(|()| None),
            _ => Err(Error::damaged(&self.path, self.given, "a frame begins with something else")),
        }
    }

    /// Reads what follows the log, so that every byte of the file has been authenticated.
    pub(crate) fn end(mut self) -> Result<()> {
        let after = io::copy(&mut self.input, &mut io::sink());
        after
            .map(drop)
            .map_err(|error| Error::damaged(&self.path, self.given, format!("its end can't be read: {error}")))
    }

    fn frame(&mut self, magic: &[u8]) -> Result<Vec<u8>> {
        let (path, given) = (&self.path, self.given);
        let error = |error: io::Error| Error::damaged(path, given, format!("a frame does not decompress: {error}"));
        let mut bytes = Vec::with_capacity(FRAME_BYTES);
        // Reads through the buffer of `input`, so that it stands at the next frame afterwards.
        let mut decoder =
            zstd::stream::read::Decoder::with_buffer(magic.chain(&mut self.input)).map_err(error)?.single_frame();
        decoder.by_ref().take(FRAME_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(error)?;
        drop(decoder);
        if bytes.len() > FRAME_BYTES {
            return Err(Error::damaged(path, given, "a frame is longer than it may be"));
        }
        self.hash.update(&bytes);
        self.given += bytes.len() as u64;
        Ok(bytes)
    }

    fn trailer(&mut self) -> Result<()> {
        let mut fixed = [0; 4 + TRAILER_FIXED_BYTES];
        read_exact(&mut self.input, &mut fixed, &self.path)?;
        let hash: [u8; 32] = std::mem::take(&mut self.hash).finalize().into();
        if fixed[4..36] != hash || self.given != self.header.end.bytes_since(self.header.start) {
            return Err(Error::damaged(&self.path, self.given, "the log in it is not what was written"));
        }
        Ok(())
    }
}

fn read_exact(input: &mut dyn Read, buffer: &mut [u8], path: &Path) -> Result<()> {
    input.read_exact(buffer).map_err(|error| Error::damaged(path, 0, format!("it is cut short: {error}")))
}
