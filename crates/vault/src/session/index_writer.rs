use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use levee_store::FileType;

use super::Shared;
use crate::index_file::{self, BLOBS_PER_FILE, Packs};
use crate::pack::PackedBlob;
use crate::{Id, Result};

/// How much work an interruption may cost at most: what is indexed need not be stored again.
const WRITE_EVERY: Duration = Duration::from_secs(5 * 60);

/// Collects stored packs and writes index files of them.
pub(super) struct IndexWriter {
    pending: Mutex<Pending>,
}

/// Packs that are durable and in no index file yet.
struct Pending {
    packs: Packs,
    blobs: usize,
    since: Instant,
}

impl Default for IndexWriter {
    fn default() -> Self {
        Self { pending: Mutex::new(Pending::new()) }
    }
}

impl Pending {
    fn new() -> Self {
        Self { packs: Vec::new(), blobs: 0, since: Instant::now() }
    }
}

impl IndexWriter {
    /// Takes in a pack that is durable.
    pub fn add(&self, shared: &Shared, pack: Id, blobs: Vec<PackedBlob>) -> Result<()> {
        let due = {
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            pending.blobs += blobs.len();
            pending.packs.push((pack, blobs));
            let due = pending.blobs >= BLOBS_PER_FILE || pending.since.elapsed() >= WRITE_EVERY;
            due.then(|| std::mem::replace(&mut *pending, Pending::new()))
        };
        due.map_or(Ok(()), |pending| write(shared, pending))
    }

    /// Writes what is left.
    pub fn finish(&self, shared: &Shared) -> Result<()> {
        let pending = {
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *pending, Pending::new())
        };
        if pending.packs.is_empty() { Ok(()) } else { write(shared, pending) }
    }
}

fn write(shared: &Shared, pending: Pending) -> Result<()> {
    let file = shared.vault.write_file_json(FileType::Index, &index_file::encode(&pending.packs)?)?;
    shared.vault.add_to_index(file, &pending.packs);
    let mut claimed = shared.claimed.lock().unwrap_or_else(PoisonError::into_inner);
    for blob in pending.packs.iter().flat_map(|(_, blobs)| blobs) {
        claimed.remove(&(blob.kind, blob.id));
    }
    Ok(())
}
