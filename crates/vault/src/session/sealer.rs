use std::sync::Arc;

use crossbeam_channel::Receiver;

use super::packer::Packer;
use super::{ChunkDone, Job, SPARE_CHUNK_BYTES_MAX, Shared};
use crate::sealing::BlobSealer;
use crate::{Error, Id, Result};

/// Hashes blobs, seals those that the repository doesn't have, and puts them into packs.
pub(super) fn run(shared: &Shared, jobs: &Receiver<Job>, packer: Arc<Packer>) -> Result<()> {
    let vault = &shared.vault;
    let mut sealer = BlobSealer::new(vault.key(), vault.config().can_compress(), shared.options.compression)?;
    let mut sealed = Vec::new();
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
            let uncompressed_length = sealer.seal(job.kind, id, &job.plaintext, &mut sealed)?;
            shared.count(job.kind, job.plaintext.len(), sealed.len());
            packer.add(job.kind, id, &sealed, uncompressed_length)?;
            if sealed.capacity() > SPARE_CHUNK_BYTES_MAX {
                sealed = Vec::new();
            }
        }
        shared.offer_beside(job.kind, id, &job.plaintext);
        shared.chunk_buffers.give(job.plaintext);
    }
    if shared.has_failed() {
        return Err(Error::Stopped);
    }
    // The last one of the sealers.
    Arc::into_inner(packer).map_or(Ok(()), Packer::finish)
}
