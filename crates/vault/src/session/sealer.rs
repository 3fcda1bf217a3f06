use crossbeam_channel::{Receiver, Sender};

use super::{ChunkDone, Job, Shared};
use crate::compress::{BlobCompressor, BlobDecompressor, Compression};
use crate::{BlobKind, Error, Id, Result};

/// A blob that has been sealed and read back.
pub(super) struct SealedBlob {
    pub kind: BlobKind,
    pub id: Id,
    pub sealed: Vec<u8>,
    pub uncompressed_length: u32,
}

/// Hashes blobs, and seals those that the repository doesn't have.
pub(super) fn run(shared: &Shared, jobs: &Receiver<Job>, sealed: &Sender<SealedBlob>) -> Result<()> {
    let system = |source| Error::System { action: "start compressing", source };
    let mut sealer = Sealer {
        shared,
        compressor: BlobCompressor::new(shared.options.compression.level()).map_err(system)?,
        decompressor: BlobDecompressor::new().map_err(system)?,
        compressed: Vec::new(),
        opened: Vec::new(),
        read_back: Vec::new(),
    };
    for job in jobs {
        if shared.has_failed() {
            return Err(Error::Stopped);
        }
        let id = job.id.unwrap_or_else(|| Id::of(&job.plaintext));
        let is_new = shared.claim(job.kind, id)?;
        if let Some((position, reply)) = job.reply {
            // Nobody listening means that the file was given up.
            let _ = reply.send(ChunkDone { position, id, bytes: job.plaintext.len() as u64 });
        }
        if is_new {
            let blob = sealer.seal(job.kind, id, &job.plaintext)?;
            shared.count(job.kind, job.plaintext.len(), blob.sealed.len());
            sealed.send(blob).map_err(|_| Error::Stopped)?;
        }
        shared.chunk_buffers.give(job.plaintext);
    }
    Ok(())
}

struct Sealer<'a> {
    shared: &'a Shared,
    compressor: BlobCompressor,
    decompressor: BlobDecompressor,
    compressed: Vec<u8>,
    opened: Vec<u8>,
    read_back: Vec<u8>,
}

impl Sealer<'_> {
    fn seal(&mut self, kind: BlobKind, id: Id, plaintext: &[u8]) -> Result<SealedBlob> {
        let vault = &self.shared.vault;
        let wanted = kind == BlobKind::Tree || self.shared.options.compression != Compression::Off;
        let compressed = vault.config().can_compress()
            && wanted
            && self
                .compressor
                .compress(plaintext, &mut self.compressed)
                .map_err(|source| Error::System { action: "compress a blob", source })?;
        let content = if compressed { &self.compressed[..] } else { plaintext };
        let mut sealed = self.shared.chunk_buffers.take();
        sealed.clear();
        sealed.reserve(content.len() + crate::crypto::OVERHEAD);
        vault.key().seal_onto(content, &mut sealed)?;
        // A chunk is at most 8 MiB; a directory's JSON must not pass 4 GiB either.
        let uncompressed_length = u32::try_from(plaintext.len())
            .map_err(|_| Error::ReadBack { reason: format!("{} bytes are too many for a blob", plaintext.len()) })?;
        let uncompressed_length = if compressed { uncompressed_length } else { 0 };
        self.read_back(id, &sealed, uncompressed_length)?;
        Ok(SealedBlob { kind, id, sealed, uncompressed_length })
    }

    /// Opens what was sealed and hashes it again: compressors and memory have failed others before.
    fn read_back(&mut self, id: Id, sealed: &[u8], uncompressed_length: u32) -> Result<()> {
        let failed = |reason: String| Error::ReadBack { reason: format!("blob {id}: {reason}") };
        let key = self.shared.vault.key();
        key.open_into(sealed, &mut self.opened).map_err(|_| failed("it does not open".into()))?;
        let plaintext = if uncompressed_length == 0 {
            &self.opened
        } else {
            self.decompressor
                .decompress(&self.opened, uncompressed_length as usize, &mut self.read_back)
                .map_err(failed)?;
            &self.read_back
        };
        if Id::of(plaintext) == id { Ok(()) } else { Err(failed("its hash is another one".into())) }
    }
}
