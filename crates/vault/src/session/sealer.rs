use crossbeam_channel::{Receiver, Sender};

use super::{ChunkDone, Job, Shared};
use crate::sealing::BlobSealer;
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
    let vault = &shared.vault;
    let mut sealer = BlobSealer::new(vault.key(), vault.config().can_compress(), shared.options.compression)?;
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
            let mut content = shared.chunk_buffers.take();
            let uncompressed_length = sealer.seal(job.kind, id, &job.plaintext, &mut content)?;
            shared.count(job.kind, job.plaintext.len(), content.len());
            let blob = SealedBlob { kind: job.kind, id, sealed: content, uncompressed_length };
            sealed.send(blob).map_err(|_| Error::Stopped)?;
        }
        shared.offer_beside(job.kind, id, &job.plaintext);
        shared.chunk_buffers.give(job.plaintext);
    }
    Ok(())
}
