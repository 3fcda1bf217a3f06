//! An opened repository, and its index, snapshot and lock files.

mod asked;
mod blobs;
mod fields;
#[cfg(test)]
mod hostile;
mod indexing;
mod opening;
mod passed_over;
mod received;
mod snapshots;

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use levee_store::{FileType, Parallelism, Store};
use serde::Serialize;
use serde::de::DeserializeOwned;

use asked::Asked;
pub(crate) use blobs::{BLOB_BYTES_MAX, BlobOpener};
pub(crate) use fields::{Fields, set_id, set_tags};
pub(crate) use indexing::{Patience, look_while_index_files_go};
use passed_over::PassedOver;
pub use snapshots::{DamagedSnapshot, ListedSnapshots};

use crate::cache::Cache;
use crate::compress::{compress_file_onto, decompress_file, file_holds};
use crate::config::Config;
use crate::crypto::{Key, ROOM_FOR_IV};
use crate::gate::Gate;
use crate::index::Index;
use crate::lock::OwnLocks;
use crate::parallel::parallel_map;
use crate::tree_cache::TreeCache;
use crate::{Error, Id, MasterKey, Result, Snapshot};

/// How many small files are fetched at once. Over a network the time goes into waiting.
const FETCHES_AT_ONCE: usize = 8;

/// An opened repository. Cheap to clone; all clones share one index.
#[derive(Clone)]
pub struct Vault {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Store>,
    parallelism: Parallelism,
    /// For reading packs: as many at once as the store serves well.
    pack_reading: Gate,
    master_key: MasterKey,
    config: Config,
    key_id: Option<Id>,
    /// What is known of the repository's index files. `None` until it is first needed.
    index: RwLock<Option<Index>>,
    /// A snapshot was read that the index may be too old for.
    index_is_stale: AtomicBool,
    /// Index files that were listed and then not there, and when that was seen first.
    gone_index_files: Mutex<HashMap<Id, Instant>>,
    asked_index_files: Mutex<Asked>,
    /// Index files that can't be read.
    damaged_index_files: Mutex<PassedOver>,
    /// When a blob was last waited for in vain. Held while one is waited for.
    waited_for_blob: Mutex<Option<Instant>>,
    /// Snapshots never change, so each is read once.
    snapshots: Mutex<HashMap<Id, Snapshot>>,
    trees: Mutex<TreeCache>,
    own_locks: Mutex<OwnLocks>,
    /// Copies of metadata on a local disk, where that is wanted.
    cache: OnceLock<Cache>,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Vault({})", self.location())
    }
}

/// A thread that panicked has left the maps behind these locks whole: each change is one insertion.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn to_json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| Error::System { action: "write JSON", source: error.into() })
}

impl Vault {
    fn assemble(store: Arc<dyn Store>, master_key: MasterKey, config: Config, key_id: Option<Id>) -> Self {
        let parallelism = store.parallelism();
        let inner = Inner {
            store,
            parallelism,
            pack_reading: Gate::new(parallelism.readers),
            master_key,
            config,
            key_id,
            index: RwLock::new(None),
            index_is_stale: AtomicBool::new(false),
            gone_index_files: Mutex::new(HashMap::new()),
            asked_index_files: Mutex::new(Asked::default()),
            damaged_index_files: Mutex::new(PassedOver::default()),
            waited_for_blob: Mutex::new(None),
            snapshots: Mutex::new(HashMap::new()),
            trees: Mutex::new(TreeCache::default()),
            own_locks: Mutex::new(OwnLocks::default()),
            cache: OnceLock::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    pub fn master_key(&self) -> &MasterKey {
        &self.inner.master_key
    }

    /// The repository's own id; the same for everyone who opens it.
    pub fn id(&self) -> Id {
        self.inner.config.id
    }

    pub fn version(&self) -> u32 {
        self.inner.config.version
    }

    pub fn location(&self) -> String {
        self.inner.store.location()
    }

    pub(crate) fn config(&self) -> &Config {
        &self.inner.config
    }

    pub(crate) fn store(&self) -> &dyn Store {
        &*self.inner.store
    }

    pub(crate) fn parallelism(&self) -> Parallelism {
        self.inner.parallelism
    }

    pub(crate) fn key(&self) -> &Key {
        &self.inner.master_key.0
    }

    pub(crate) fn damaged(&self, file_type: FileType, name: &str, reason: impl Into<String>) -> Error {
        Error::damaged(self.location(), file_type, name, reason)
    }

    /// Keeps copies of the index, the snapshots and the directories in a cache from now on. Only the first
    /// call has an effect.
    pub fn use_cache(&self, cache: Cache) {
        let _ = self.inner.cache.set(cache);
    }

    pub(crate) fn cache(&self) -> Option<&Cache> {
        self.inner.cache.get()
    }

    pub(crate) fn own_locks(&self) -> MutexGuard<'_, OwnLocks> {
        locked(&self.inner.own_locks)
    }

    // Index, snapshot and lock files

    /// Reads, checks and opens a file and gives its JSON.
    pub(crate) fn read_file_json(&self, file_type: FileType, id: &Id) -> Result<Vec<u8>> {
        // Locks come and go.
        let cache = self.cache().filter(|_| matches!(file_type, FileType::Index | FileType::Snapshot));
        let sealed = match cache.and_then(|cache| cache.read(file_type, id)) {
            Some(sealed) => sealed,
            None => {
                let sealed = self.read_stored(file_type, id)?;
                if let Some(cache) = cache {
                    cache.write(file_type, id, &sealed);
                }
                sealed
            }
        };
        self.open_file(file_type, id, sealed)
    }

    /// The same from the store itself, for those who ask whether it is sound there: a copy in the cache proves nothing.
    pub(crate) fn read_stored_json(&self, file_type: FileType, id: &Id) -> Result<Vec<u8>> {
        self.open_file(file_type, id, self.read_stored(file_type, id)?)
    }

    fn read_stored(&self, file_type: FileType, id: &Id) -> Result<Vec<u8>> {
        let name = id.to_hex();
        let sealed = self.store().read(file_type, &name)?;
        if Id::of(&sealed) == *id {
            return Ok(sealed);
        }
        Err(self.damaged(file_type, &name, "its content does not have the hash that is its name"))
    }

    /// Opens the content of such a file.
    pub(crate) fn open_file(&self, file_type: FileType, id: &Id, mut sealed: Vec<u8>) -> Result<Vec<u8>> {
        let name = id.to_hex();
        let content = self
            .key()
            .open_in_place(&mut sealed)
            .map_err(|_| self.damaged(file_type, &name, "it does not open with the repository's key"))?;
        decompress_file(content.to_vec()).map_err(|reason| self.damaged(file_type, &name, reason))
    }

    pub(crate) fn read_file_as<T: DeserializeOwned>(&self, file_type: FileType, id: &Id) -> Result<T> {
        self.parse_file(file_type, id, &self.read_file_json(file_type, id)?)
    }

    pub(crate) fn parse_file<T: DeserializeOwned>(&self, file_type: FileType, id: &Id, json: &[u8]) -> Result<T> {
        serde_json::from_slice(json)
            .map_err(|error| self.damaged(file_type, &id.to_hex(), format!("its JSON is not as it must be: {error}")))
    }

    /// Seals a file, reads it back in memory, and stores it.
    pub(crate) fn write_file_json(&self, file_type: FileType, json: &[u8]) -> Result<Id> {
        let read_back = |reason: &str| Error::ReadBack { reason: reason.into() };
        // In one buffer, and compared without a second copy: the index of a backup is megabytes beside everything that it stores.
        let mut sealed = vec![0; ROOM_FOR_IV];
        if self.config().can_compress() {
            compress_file_onto(json, &mut sealed)
                .map_err(|source| Error::System { action: "compress a file", source })?;
        } else {
            sealed.extend_from_slice(json);
        }
        self.key().seal_in_place(&mut sealed)?;
        let mut opened = Vec::new();
        self.key().open_into(&sealed, &mut opened).map_err(|_| read_back("it does not open"))?;
        if !file_holds(&opened, json).map_err(|error| read_back(&format!("it does not decompress: {error}")))? {
            return Err(read_back("it opens to something else"));
        }
        let id = Id::of(&sealed);
        self.store().write(file_type, &id.to_hex(), &sealed)?;
        Ok(id)
    }

    pub(crate) fn write_file_as<T: Serialize>(&self, file_type: FileType, value: &T) -> Result<Id> {
        self.write_file_json(file_type, &to_json(value)?)
    }

    /// The files of a type whose names are ids. The list may be late: it may lack what was just written, and have what was
    /// just removed. Only of index files is what is known to be gone left out, see `look_while_index_files_go`.
    pub(crate) fn list_ids(&self, file_type: FileType) -> Result<Vec<Id>> {
        let mut ids: Vec<Id> =
            self.store().list(file_type)?.iter().filter_map(|entry| entry.name.parse().ok()).collect();
        ids.sort();
        if file_type == FileType::Index {
            self.leave_out_gone(&mut ids)?;
        }
        Ok(ids)
    }

    /// Whether a file is there, as its store says when it is asked for that one: unlike a list, this is never late.
    pub(crate) fn is_stored(&self, file_type: FileType, id: &Id) -> Result<bool> {
        match self.store().size_bytes(file_type, &id.to_hex()) {
            Ok(_) => Ok(true),
            Err(levee_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Those of some files that are there, in their order.
    pub(crate) fn stored_among(&self, file_type: FileType, files: &[Id]) -> Result<Vec<Id>> {
        let stored = parallel_map(FETCHES_AT_ONCE, files, |id| self.is_stored(file_type, id));
        let mut there = Vec::with_capacity(files.len());
        for (id, stored) in files.iter().zip(stored) {
            if stored? {
                there.push(*id);
            }
        }
        Ok(there)
    }
}
