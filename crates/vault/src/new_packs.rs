//! Writing sealed blobs of a repository into new packs of the same repository.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use levee_store::FileType;

use crate::index_file::{self, BLOBS_PER_FILE, Packs};
use crate::pack::{FinishedPack, PackWriter};
use crate::{BlobKind, Error, Id, Result, Vault};

/// A full pack of 16 MiB goes to an uploader that is free.
const PACKS_WAITING: usize = 0;

/// A blob as it will stand in a new pack: sealed with the same key, so that it is taken over as it is.
pub(crate) struct Taken {
    pub kind: BlobKind,
    pub id: Id,
    pub sealed: Vec<u8>,
    pub uncompressed_length: u32,
}

/// Collects blobs into packs, data and trees apart, and packs into index files. Packs are stored by threads of their
/// own, so that the next blobs are read meanwhile.
pub(crate) struct NewPacks<'a> {
    vault: &'a Vault,
    data: PackWriter,
    trees: PackWriter,
    uploads: Uploads,
    index_files: Vec<Id>,
}

impl<'a> NewPacks<'a> {
    pub fn new(vault: &'a Vault) -> Result<Self> {
        let uploads = Uploads::start(vault)?;
        Ok(Self { vault, data: PackWriter::new(), trees: PackWriter::new(), uploads, index_files: Vec::new() })
    }

    pub fn add(&mut self, blob: &Taken) -> Result<()> {
        let writer = if blob.kind == BlobKind::Tree { &mut self.trees } else { &mut self.data };
        writer.add(blob.kind, blob.id, &blob.sealed, blob.uncompressed_length);
        if writer.is_full() {
            let full = std::mem::replace(writer, PackWriter::new());
            self.store(full)?;
        }
        Ok(())
    }

    fn store(&mut self, writer: PackWriter) -> Result<()> {
        if writer.is_empty() {
            return Ok(());
        }
        self.uploads.hand_over(writer.finish(self.vault.key())?)?;
        self.write_index(BLOBS_PER_FILE)
    }

    /// Writes an index file of the packs that are durable, when they hold so many blobs.
    fn write_index(&mut self, blobs_min: usize) -> Result<()> {
        let Some(packs) = self.uploads.stored.take(blobs_min) else { return Ok(()) };
        self.index_files.push(self.vault.write_file_json(FileType::Index, &index_file::encode(&packs)?)?);
        Ok(())
    }

    /// Stores what is left, and gives the names of the index files.
    pub fn finish(mut self) -> Result<Vec<Id>> {
        let take = |writer: &mut PackWriter| std::mem::replace(writer, PackWriter::new());
        let (data, trees) = (take(&mut self.data), take(&mut self.trees));
        self.store(data)?;
        self.store(trees)?;
        self.uploads.finish()?;
        self.write_index(1)?;
        Ok(self.index_files)
    }
}

/// Packs that are durable and in no index file yet.
#[derive(Default)]
struct Stored(Mutex<Packs>);

impl Stored {
    fn take(&self, blobs_min: usize) -> Option<Packs> {
        // Each change of the list is one push or take.
        let mut packs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let blobs: usize = packs.iter().map(|(_, blobs)| blobs.len()).sum();
        (blobs >= blobs_min).then(|| std::mem::take(&mut *packs))
    }

    fn add(&self, pack: Id, blobs: Vec<crate::pack::PackedBlob>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((pack, blobs));
    }
}

/// Threads that store packs.
struct Uploads {
    waiting: Option<Sender<FinishedPack>>,
    threads: Vec<JoinHandle<Result<()>>>,
    stored: Arc<Stored>,
}

impl Uploads {
    fn start(vault: &Vault) -> Result<Self> {
        let (waiting, next) = bounded(PACKS_WAITING);
        let mut uploads = Self { waiting: Some(waiting), threads: Vec::new(), stored: Arc::default() };
        for _ in 0..vault.pack_uploaders() {
            let (vault, next, stored) = (vault.clone(), next.clone(), uploads.stored.clone());
            let thread = std::thread::Builder::new().name("vault-uploader".into());
            let spawned = thread.spawn(move || upload(&vault, &next, &stored));
            uploads.threads.push(spawned.map_err(|source| Error::System { action: "start a thread", source })?);
        }
        Ok(uploads)
    }

    /// Waits while all uploaders are busy. When one has failed, what it failed of.
    fn hand_over(&mut self, pack: FinishedPack) -> Result<()> {
        let has_failed = self.threads.iter().any(JoinHandle::is_finished);
        let sent = self.waiting.as_ref().filter(|_| !has_failed).is_some_and(|waiting| waiting.send(pack).is_ok());
        if sent { Ok(()) } else { self.finish().and(Err(Error::Stopped)) }
    }

    /// Waits until everything is stored.
    fn finish(&mut self) -> Result<()> {
        self.waiting = None;
        let mut result = Ok(());
        for thread in self.threads.drain(..) {
            let ended = thread.join().unwrap_or(Err(Error::Stopped));
            result = result.and(ended);
        }
        result
    }
}

impl Drop for Uploads {
    fn drop(&mut self) {
        // Given up half-way: what was handed over is stored to its end, so that no thread outlives the work.
        let _ = self.finish();
    }
}

fn upload(vault: &Vault, packs: &Receiver<FinishedPack>, stored: &Stored) -> Result<()> {
    for FinishedPack { id, content, blobs } in packs {
        let (store, name) = (vault.store(), id.to_hex());
        // A pack never holds both kinds.
        match blobs.first().map(|blob| blob.kind) {
            Some(BlobKind::Tree) => store.write_tree_pack(&name, &content)?,
            _ => store.write(FileType::Data, &name, &content)?,
        }
        stored.add(id, blobs);
    }
    Ok(())
}
