//! zstd as the format has it: whole frames for blobs; a version byte in front for other files.

use std::io::{Read, Write};

use zstd::bulk::{Compressor, Decompressor};

use crate::room::try_empty_with_room;

/// How hard to try to make new data smaller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Data are stored as they are. Directories, indexes and snapshots are compressed all the same.
    Off,
    /// For data that are soon replaced, such as base backups: as fast as can be.
    Fastest,
    #[default]
    Auto,
    /// As small as reasonable, at a tenth of the speed.
    Max,
}

impl Compression {
    pub(crate) fn level(self) -> i32 {
        match self {
            Compression::Off | Compression::Fastest => 1,
            Compression::Auto => 3,
            Compression::Max => 15,
        }
    }
}

/// The first byte of a compressed index, snapshot or lock file.
const COMPRESSED_FILE: u8 = 2;
/// A bound on what a decompressed index, snapshot or lock file may take in memory.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// What is compared at once.
const PIECE_BYTES: usize = 64 << 10;
/// Below this a blob is compressed without asking.
const PROBE_FROM_BYTES: usize = 64 << 10;
/// How much of a blob is looked at to see whether compressing it is worth anything.
const PROBE_BYTES: usize = 8 << 10;
const PROBE_SAMPLES: usize = 3;
/// Less than a fiftieth saved is not worth the time of every reader.
const WORTH_IT: usize = 50;

/// A reusable compressor of blobs.
pub(crate) struct BlobCompressor {
    compressor: Compressor<'static>,
    prober: Compressor<'static>,
    probe: Vec<u8>,
}

impl BlobCompressor {
    pub fn new(level: i32) -> std::io::Result<Self> {
        Ok(Self { compressor: Compressor::new(level)?, prober: Compressor::new(1)?, probe: Vec::new() })
    }

    /// Compresses behind what `out` holds; `false`, and nothing is added, when the blob had better be stored as it is.
    pub fn compress_onto(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> std::io::Result<bool> {
        if plaintext.is_empty() || (plaintext.len() >= PROBE_FROM_BYTES && !self.looks_compressible(plaintext)?) {
            return Ok(false);
        }
        let start = out.len();
        out.resize(start + zstd::zstd_safe::compress_bound(plaintext.len()), 0);
        let length = self.compressor.compress_to_buffer(plaintext, &mut out[start..])?;
        let is_worth_it = length < plaintext.len() - plaintext.len() / WORTH_IT;
        out.truncate(if is_worth_it { start + length } else { start });
        Ok(is_worth_it)
    }

    fn looks_compressible(&mut self, plaintext: &[u8]) -> std::io::Result<bool> {
        let step = (plaintext.len() - PROBE_BYTES) / (PROBE_SAMPLES - 1);
        for sample in 0..PROBE_SAMPLES {
            let sample = &plaintext[sample * step..][..PROBE_BYTES];
            self.probe.clear();
            self.probe.reserve(zstd::zstd_safe::compress_bound(PROBE_BYTES));
            self.prober.compress_to_buffer(sample, &mut self.probe)?;
            if self.probe.len() < PROBE_BYTES - PROBE_BYTES / WORTH_IT {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// A reusable decompressor of blobs.
pub(crate) struct BlobDecompressor(Decompressor<'static>);

impl BlobDecompressor {
    pub fn new() -> std::io::Result<Self> {
        Ok(Self(Decompressor::new()?))
    }

    /// Decompresses a blob whose plaintext has exactly this length into `out`.
    pub fn decompress(&mut self, frame: &[u8], length: usize, out: &mut Vec<u8>) -> Result<(), String> {
        try_empty_with_room(out, length).map_err(|_| format!("no memory for its {length} bytes"))?;
        self.0.decompress_to_buffer(frame, out).map_err(|error| format!("it does not decompress: {error}"))?;
        if out.len() == length {
            Ok(())
        } else {
            Err(format!("it decompresses to {} bytes instead of {length}", out.len()))
        }
    }
}

/// Puts behind `out` what an index, snapshot or lock file of version 2 holds before it is sealed.
pub(crate) fn compress_file_onto(json: &[u8], out: &mut Vec<u8>) -> std::io::Result<()> {
    if json.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other("it is larger than the 1 GiB that readers take"));
    }
    out.push(COMPRESSED_FILE);
    let mut encoder = zstd::stream::write::Encoder::new(out, 3)?;
    encoder.set_pledged_src_size(Some(json.len() as u64))?;
    encoder.write_all(json)?;
    encoder.finish()?;
    Ok(())
}

/// Whether an opened file of either version holds this JSON. An index is megabytes, so it is compared piece by piece.
pub(crate) fn file_holds(content: &[u8], json: &[u8]) -> std::io::Result<bool> {
    let Some(frame) = content.strip_prefix(&[COMPRESSED_FILE]) else { return Ok(content == json) };
    let mut decoder = zstd::stream::read::Decoder::new(frame)?;
    let (mut piece, mut left) = (vec![0; PIECE_BYTES], json);
    loop {
        let length = decoder.read(&mut piece)?;
        match left.strip_prefix(&piece[..length]) {
            Some(after) if length > 0 => left = after,
            Some(after) => return Ok(after.is_empty()),
            None => return Ok(false),
        }
    }
}

/// The JSON of an opened file of either version.
pub(crate) fn decompress_file(content: Vec<u8>) -> Result<Vec<u8>, String> {
    match content.first() {
        Some(b'{' | b'[') => Ok(content),
        Some(&COMPRESSED_FILE) => {
            let failed = |error: std::io::Error| format!("it does not decompress: {error}");
            let mut json = Vec::new();
            let decoder = zstd::stream::read::Decoder::new(&content[1..]).map_err(failed)?;
            decoder.take(FILE_BYTES_MAX + 1).read_to_end(&mut json).map_err(failed)?;
            if json.len() as u64 > FILE_BYTES_MAX { Err("it is larger than 1 GiB".into()) } else { Ok(json) }
        }
        Some(first) => Err(format!("it starts with an unknown encoding byte {first}")),
        None => Err("it is empty".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_come_back_and_noise_is_left_alone() {
        let mut compressor = BlobCompressor::new(3).unwrap();
        let mut decompressor = BlobDecompressor::new().unwrap();
        let (mut packed, mut back) = (Vec::new(), Vec::new());
        let text = b"the same words again and again; ".repeat(10_000);
        assert!(compressor.compress_onto(&text, &mut packed).unwrap());
        decompressor.decompress(&packed, text.len(), &mut back).unwrap();
        assert_eq!(back, text);
        assert!(decompressor.decompress(&packed, text.len() - 1, &mut back).is_err());
        assert!(decompressor.decompress(&packed, text.len() + 1, &mut back).is_err());

        let mut noise = vec![0; 200_000];
        getrandom::fill(&mut noise).unwrap();
        packed.truncate(5);
        let before = packed.clone();
        assert!(!compressor.compress_onto(&noise, &mut packed).unwrap());
        assert!(!compressor.compress_onto(&[], &mut packed).unwrap());
        assert_eq!(packed, before, "what stands before it stays, and nothing is added");
        noise[100_000..].fill(0);
        assert!(compressor.compress_onto(&noise, &mut packed).unwrap());
        assert!(packed.starts_with(&before));
        decompressor.decompress(&packed[5..], noise.len(), &mut back).unwrap();
        assert!(back == noise);
    }

    #[test]
    fn files_of_both_versions_are_read() {
        assert_eq!(decompress_file(b"{}".to_vec()).unwrap(), b"{}");
        assert_eq!(decompress_file(b"[]".to_vec()).unwrap(), b"[]");
        let json = b"{\"a\":1}".repeat(50_000);
        let mut content = Vec::new();
        compress_file_onto(&json, &mut content).unwrap();
        assert_eq!(decompress_file(content.clone()).unwrap(), json);
        assert!(file_holds(&content, &json).unwrap() && file_holds(&json, &json).unwrap());
        let longer = [&json[..], b" "].concat();
        for other in [&json[1..], &json[..json.len() - 1], &longer] {
            assert!(!file_holds(&content, other).unwrap() && !file_holds(&json, other).unwrap());
        }
        content.truncate(content.len() / 2);
        assert!(!file_holds(&content, &json).is_ok_and(|holds| holds));
        for bad in [&b""[..], b"\x01{}", b"\x02nonsense", b"\x02"] {
            assert!(decompress_file(bad.to_vec()).is_err(), "{bad:?}");
        }
    }
}
