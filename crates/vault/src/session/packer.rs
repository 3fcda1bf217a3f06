use crossbeam_channel::{Receiver, Sender};
use levee_store::FileType;

use super::Shared;
use super::index_writer::IndexWriter;
use super::sealer::SealedBlob;
use crate::pack::{FinishedPack, PackWriter};
use crate::{BlobKind, Error, Result};

/// Collects sealed blobs into packs, data and trees apart.
pub(super) fn run(shared: &Shared, blobs: &Receiver<SealedBlob>, packs: &Sender<FinishedPack>) -> Result<()> {
    let fresh = || PackWriter::new(shared.pack_buffers.take());
    let finish = |writer: PackWriter| -> Result<()> {
        if writer.is_empty() {
            return Ok(());
        }
        packs.send(writer.finish(shared.vault.key())?).map_err(|_| Error::Stopped)
    };
    let (mut data, mut trees) = (fresh(), PackWriter::new(Vec::new()));
    for blob in blobs {
        if shared.has_failed() {
            return Err(Error::Stopped);
        }
        let writer = if blob.kind == BlobKind::Tree { &mut trees } else { &mut data };
        writer.add(blob.kind, blob.id, &blob.sealed, blob.uncompressed_length);
        shared.chunk_buffers.give(blob.sealed);
        if writer.is_full() {
            finish(std::mem::replace(writer, fresh()))?;
        }
    }
    if shared.has_failed() {
        return Err(Error::Stopped);
    }
    finish(data)?;
    finish(trees)
}

/// Stores packs, and hands what is durable to the index.
pub(super) fn upload(shared: &Shared, packs: &Receiver<FinishedPack>, index: &IndexWriter) -> Result<()> {
    for pack in packs {
        if shared.has_failed() {
            return Err(Error::Stopped);
        }
        if !shared.options.dry_run {
            let (store, name) = (shared.vault.store(), pack.id.to_hex());
            // A pack never holds both kinds.
            match pack.blobs.first().map(|blob| blob.kind) {
                Some(BlobKind::Tree) => store.write_tree_pack(&name, &pack.content)?,
                _ => store.write(FileType::Data, &name, &pack.content)?,
            }
            index.add(shared, pack.id, pack.blobs)?;
        }
        shared.pack_buffers.give(pack.content);
    }
    Ok(())
}
