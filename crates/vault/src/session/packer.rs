use std::sync::Mutex;

use crossbeam_channel::{Receiver, Sender};
use levee_store::FileType;

use super::Shared;
use super::index_writer::IndexWriter;
use crate::pack::PackWriter;
use crate::{BlobKind, Error, Id, Result};

/// Collects sealed blobs into packs, data and trees apart. The sealers put them in themselves: what is sealed waits nowhere.
pub(super) struct Packer {
    filling: Mutex<Filling>,
}

struct Filling {
    data: PackWriter,
    trees: PackWriter,
    full: Sender<PackWriter>,
}

impl Packer {
    /// Full packs go to `full`.
    pub fn new(full: Sender<PackWriter>) -> Self {
        // In fresh memory: one that is used again is all there while it fills, beside the one that is being stored.
        Self { filling: Mutex::new(Filling { data: PackWriter::new(), trees: PackWriter::new(), full }) }
    }

    /// Puts a blob into its pack. A full pack waits here until an uploader is free, and all other blobs behind it.
    pub fn add(&self, kind: BlobKind, id: Id, sealed: &[u8], uncompressed_length: u32) -> Result<()> {
        // Whoever crashed in here may have left half a blob behind.
        let mut filling = self.filling.lock().map_err(|_| Error::Stopped)?;
        let Filling { data, trees, full } = &mut *filling;
        let writer = if kind == BlobKind::Tree { trees } else { data };
        writer.add(kind, id, sealed, uncompressed_length);
        if writer.is_full() {
            let next = PackWriter::new();
            full.send(std::mem::replace(writer, next)).map_err(|_| Error::Stopped)?;
        }
        Ok(())
    }

    /// Hands over what is not full, when no more blobs come.
    pub fn finish(self) -> Result<()> {
        let Filling { data, trees, full } = self.filling.into_inner().map_err(|_| Error::Stopped)?;
        for writer in [data, trees].into_iter().filter(|writer| !writer.is_empty()) {
            full.send(writer).map_err(|_| Error::Stopped)?;
        }
        Ok(())
    }
}

/// Ends packs, stores them, and hands what is durable to the index.
pub(super) fn upload(shared: &Shared, packs: &Receiver<PackWriter>, index: &IndexWriter) -> Result<()> {
    for writer in packs {
        if shared.has_failed() {
            return Err(Error::Stopped);
        }
        let pack = writer.finish(shared.vault.key())?;
        if !shared.options.dry_run {
            let (store, name) = (shared.vault.store(), pack.id.to_hex());
            // A pack never holds both kinds.
            match pack.blobs.first().map(|blob| blob.kind) {
                Some(BlobKind::Tree) => store.write_tree_pack(&name, &pack.content)?,
                _ => store.write(FileType::Data, &name, &pack.content)?,
            }
            index.add(shared, pack.id, pack.blobs)?;
        }
    }
    Ok(())
}
