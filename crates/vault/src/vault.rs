//! An opened repository: its keys, its index, and reading and writing of single files and blobs.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use levee_store::{FileType, Store};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::compress::{BlobDecompressor, compress_file, decompress_file};
use crate::config::Config;
use crate::crypto::{Key, OVERHEAD};
use crate::index::{Index, Location};
use crate::key_file::{KeyFileJson, KeyInfo};
use crate::parallel::parallel_map;
use crate::tree_cache::TreeCache;
use crate::{
    BlobKind, Error, Id, KeyFile, MasterKey, Password, Result, Snapshot, SnapshotFilter, SnapshotId, Tree, index_file,
};

/// How many small files are fetched at once. Over a network the time goes into waiting.
const FETCHES_AT_ONCE: usize = 8;
/// A blob that claims to be larger is taken for damaged, so that it can't take all memory.
const BLOB_BYTES_MAX: u64 = 1 << 30;
/// Trees lie beside their neighbours; this much is read at once.
const TREE_WINDOW_BYTES: u32 = 1 << 20;
/// More key files than this are not tried, so that junk can't make opening endless.
const KEY_FILES_MAX: usize = 100;

/// An opened repository. Cheap to clone; all clones share one index.
#[derive(Clone)]
pub struct Vault {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Store>,
    master_key: MasterKey,
    config: Config,
    key_id: Option<Id>,
    /// What is known of the repository's index files. `None` until it is first needed.
    index: RwLock<Option<Index>>,
    /// A snapshot was read that the index may be too old for.
    index_is_stale: AtomicBool,
    /// Snapshots never change, so each is read once.
    snapshots: Mutex<HashMap<Id, Snapshot>>,
    trees: Mutex<TreeCache>,
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

impl Vault {
    /// Creates a repository of version 2 with a key file that opens with the password.
    ///
    /// A creation that was cut short is continued: a key file of the same password is used again, since
    /// restic would stumble over a second one with another master key.
    pub fn init(store: Arc<dyn Store>, password: &Password) -> Result<Self> {
        store.create()?;
        for (_, content) in read_key_files(&*store)? {
            if let Ok(Some(master_key)) = KeyFileJson::parse(&content).and_then(|key_file| key_file.open(password)) {
                return Self::init_with_keys(store, &master_key, &[]);
            }
        }
        let whoami = crate::accounts::Whoami::now();
        let master_key = MasterKey::generate()?;
        let key_file = master_key.seal_key_file(password, &whoami.hostname, &whoami.username)?;
        Self::init_with_keys(store, &master_key, &[key_file])
    }

    /// Creates a repository with a master key and key files that were made elsewhere.
    pub fn init_with_keys(store: Arc<dyn Store>, master_key: &MasterKey, key_files: &[KeyFile]) -> Result<Self> {
        store.create()?;
        match store.size_bytes(FileType::Config, "") {
            Err(levee_store::Error::NotFound { .. }) => {}
            Ok(_) => return Err(Error::AlreadyInitialized { location: store.location() }),
            Err(error) => return Err(error.into()),
        }
        // The configuration comes last: a repository is there when it is.
        for key_file in key_files {
            store.write(FileType::Key, &key_file.id, &key_file.content)?;
        }
        let config = Config::generate()?;
        let json = serde_json::to_vec(&config).unwrap_or_default();
        store.write(FileType::Config, "", &master_key.0.seal(&json)?)?;
        Ok(Self::assemble(store, master_key.clone(), config, None))
    }

    /// Opens a repository of version 1 or 2.
    pub fn open(store: Arc<dyn Store>, password: &Password) -> Result<Self> {
        let sealed_config = read_config(&*store)?;
        let key_files = read_key_files(&*store)?;
        let mut refused = None;
        for (name, content) in &key_files {
            let opened = KeyFileJson::parse(content).and_then(|key_file| key_file.open(password));
            let master_key = match opened {
                Ok(Some(master_key)) => master_key,
                Ok(None) => continue,
                Err(reason) => {
                    tracing::warn!(key = name, reason, "a key file cannot be used");
                    continue;
                }
            };
            // A creation that was cut short may have left a key file of another master key behind.
            match open_config(&*store, &sealed_config, &master_key) {
                Ok(config) => return Ok(Self::assemble(store, master_key, config, name.parse().ok())),
                Err(error) => refused = Some(error),
            }
        }
        let wrong = Error::WrongPassword { location: store.location(), key_files: key_files.len() };
        Err(refused.unwrap_or(wrong))
    }

    /// Opens a repository without a key file.
    pub fn open_with_master_key(store: Arc<dyn Store>, master_key: MasterKey) -> Result<Self> {
        let config = open_config(&*store, &read_config(&*store)?, &master_key)?;
        Ok(Self::assemble(store, master_key, config, None))
    }

    fn assemble(store: Arc<dyn Store>, master_key: MasterKey, config: Config, key_id: Option<Id>) -> Self {
        let inner = Inner {
            store,
            master_key,
            config,
            key_id,
            index: RwLock::new(None),
            index_is_stale: AtomicBool::new(false),
            snapshots: Mutex::new(HashMap::new()),
            trees: Mutex::new(TreeCache::default()),
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

    pub(crate) fn key(&self) -> &Key {
        &self.inner.master_key.0
    }

    pub(crate) fn damaged(&self, file_type: FileType, name: &str, reason: impl Into<String>) -> Error {
        Error::damaged(self.location(), file_type, name, reason)
    }

    // Keys

    /// What the repository's key files say about themselves. Junk is left out.
    pub fn keys(&self) -> Result<Vec<KeyInfo>> {
        let mut keys = Vec::new();
        for entry in self.store().list(FileType::Key)? {
            let content = self.store().read(FileType::Key, &entry.name)?;
            if let (Ok(id), Ok(json)) = (entry.name.parse(), KeyFileJson::parse(&content)) {
                let KeyFileJson { created, username, hostname, .. } = json;
                keys.push(KeyInfo { id, created, username, hostname, current: self.inner.key_id == Some(id) });
            }
        }
        keys.sort_by_key(|key| (key.created, key.id));
        Ok(keys)
    }

    /// Adds a key file that opens with another password.
    pub fn add_key(&self, password: &Password, hostname: &str, username: &str) -> Result<Id> {
        let key_file = self.master_key().seal_key_file(password, hostname, username)?;
        self.store().write(FileType::Key, &key_file.id, &key_file.content)?;
        Ok(Id::of(&key_file.content))
    }

    /// Removes a key file, but not the one that the repository was opened with.
    pub fn remove_key(&self, id: &Id) -> Result<()> {
        if self.inner.key_id == Some(*id) {
            return Err(Error::KeyInUse { key: id.short() });
        }
        Ok(self.store().remove(FileType::Key, &id.to_hex())?)
    }

    // Index, snapshot and lock files

    /// Reads, checks and opens a file and gives its JSON.
    pub(crate) fn read_file_json(&self, file_type: FileType, id: &Id) -> Result<Vec<u8>> {
        let name = id.to_hex();
        let mut sealed = self.store().read(file_type, &name)?;
        if Id::of(&sealed) != *id {
            return Err(self.damaged(file_type, &name, "its content does not have the hash that is its name"));
        }
        let content = self
            .key()
            .open_in_place(&mut sealed)
            .map_err(|_| self.damaged(file_type, &name, "it does not open with the repository's key"))?;
        decompress_file(content.to_vec()).map_err(|reason| self.damaged(file_type, &name, reason))
    }

    pub(crate) fn read_file_as<T: DeserializeOwned>(&self, file_type: FileType, id: &Id) -> Result<T> {
        let json = self.read_file_json(file_type, id)?;
        serde_json::from_slice(&json)
            .map_err(|error| self.damaged(file_type, &id.to_hex(), format!("its JSON is not as it must be: {error}")))
    }

    /// Seals a file, reads it back in memory, and stores it.
    pub(crate) fn write_file_json(&self, file_type: FileType, json: &[u8]) -> Result<Id> {
        let read_back = |reason: &str| Error::ReadBack { reason: reason.into() };
        let content = if self.config().can_compress() {
            compress_file(json).map_err(|source| Error::System { action: "compress a file", source })?
        } else {
            json.to_vec()
        };
        let sealed = self.key().seal(&content)?;
        let mut opened = Vec::new();
        self.key().open_into(&sealed, &mut opened).map_err(|_| read_back("it does not open"))?;
        if decompress_file(opened).map_err(|reason| read_back(&reason))? != json {
            return Err(read_back("it opens to something else"));
        }
        let id = Id::of(&sealed);
        self.store().write(file_type, &id.to_hex(), &sealed)?;
        Ok(id)
    }

    pub(crate) fn write_file_as<T: Serialize>(&self, file_type: FileType, value: &T) -> Result<Id> {
        let json = serde_json::to_vec(value).map_err(|error| Error::ReadBack { reason: error.to_string() })?;
        self.write_file_json(file_type, &json)
    }

    /// The files of a type whose names are ids.
    pub(crate) fn list_ids(&self, file_type: FileType) -> Result<Vec<Id>> {
        let mut ids: Vec<Id> =
            self.store().list(file_type)?.iter().filter_map(|entry| entry.name.parse().ok()).collect();
        ids.sort();
        Ok(ids)
    }

    // Snapshots

    /// All snapshots, oldest first.
    pub fn snapshots(&self) -> Result<Vec<(SnapshotId, Snapshot)>> {
        let ids = self.list_ids(FileType::Snapshot)?;
        let listed: HashSet<Id> = ids.iter().copied().collect();
        locked(&self.inner.snapshots).retain(|id, _| listed.contains(id));
        let mut snapshots = Vec::with_capacity(ids.len());
        for snapshot in parallel_map(FETCHES_AT_ONCE, &ids, |id| self.snapshot(&SnapshotId(*id))) {
            match snapshot {
                Ok(snapshot) => snapshots.push(snapshot),
                // Removed by someone else since it was listed.
                Err(Error::SnapshotNotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        snapshots.sort_by_key(|(id, snapshot)| (snapshot.time, *id));
        Ok(snapshots)
    }

    fn snapshot(&self, id: &SnapshotId) -> Result<(SnapshotId, Snapshot)> {
        if let Some(snapshot) = locked(&self.inner.snapshots).get(&id.0) {
            return Ok((*id, snapshot.clone()));
        }
        let snapshot: Snapshot = match self.read_file_as(FileType::Snapshot, &id.0) {
            Err(Error::Store(levee_store::Error::NotFound { .. })) => {
                return Err(Error::SnapshotNotFound { location: self.location(), wanted: id.short() });
            }
            result => result?,
        };
        self.inner.index_is_stale.store(true, Ordering::SeqCst);
        locked(&self.inner.snapshots).insert(id.0, snapshot.clone());
        Ok((*id, snapshot))
    }

    /// Stores a snapshot, all of whose blobs are in the index.
    pub(crate) fn write_snapshot(&self, snapshot: Snapshot) -> Result<SnapshotId> {
        let id = self.write_file_as(FileType::Snapshot, &snapshot)?;
        locked(&self.inner.snapshots).insert(id, snapshot);
        Ok(SnapshotId(id))
    }

    /// Reads one snapshot.
    pub fn read_snapshot(&self, id: &SnapshotId) -> Result<Snapshot> {
        Ok(self.snapshot(id)?.1)
    }

    /// Finds a snapshot by `latest` (the newest that the filter lets through) or the first digits of its id.
    pub fn find_snapshot(&self, wanted: &str, filter: &SnapshotFilter) -> Result<(SnapshotId, Snapshot)> {
        let not_found = || Error::SnapshotNotFound { location: self.location(), wanted: wanted.into() };
        if wanted == "latest" {
            let mut snapshots = self.snapshots()?;
            snapshots.retain(|(_, snapshot)| filter.matches(snapshot));
            return snapshots.pop().ok_or_else(not_found);
        }
        if wanted.is_empty() {
            return Err(not_found());
        }
        let ids = self.list_ids(FileType::Snapshot)?;
        let mut matching = ids.iter().filter(|id| id.to_hex().starts_with(wanted));
        match (matching.next(), matching.next()) {
            (Some(id), None) => self.snapshot(&SnapshotId(*id)),
            (Some(_), Some(_)) => Err(Error::AmbiguousSnapshot { location: self.location(), prefix: wanted.into() }),
            (None, _) => Err(not_found()),
        }
    }

    /// Removes a snapshot. Its data stay until the repository is pruned.
    pub fn remove_snapshot(&self, id: &SnapshotId) -> Result<()> {
        self.store().remove(FileType::Snapshot, &id.0.to_hex())?;
        locked(&self.inner.snapshots).remove(&id.0);
        Ok(())
    }

    // Index and blobs

    /// Takes in index files that others have written since. Happens by itself after snapshots of others
    /// have been read.
    pub fn refresh_index(&self) -> Result<()> {
        // Before the listing: a snapshot that is read meanwhile asks for another one.
        let was_stale = self.inner.index_is_stale.swap(false, Ordering::SeqCst);
        let refreshed = self.load_new_index_files();
        if refreshed.is_err() && was_stale {
            self.inner.index_is_stale.store(true, Ordering::SeqCst);
        }
        refreshed
    }

    fn load_new_index_files(&self) -> Result<()> {
        let listed = self.list_ids(FileType::Index)?;
        let (unknown, files_have_gone) = {
            let guard = self.inner.index.read().unwrap_or_else(PoisonError::into_inner);
            let known = guard.as_ref().map(Index::files);
            let is_listed = |file: &Id| listed.binary_search(file).is_ok();
            let files_have_gone = known.is_some_and(|known| !known.iter().all(is_listed));
            let is_unknown = |id: &Id| files_have_gone || known.is_none_or(|known| !known.contains(id));
            (listed.iter().filter(|id| is_unknown(id)).copied().collect::<Vec<_>>(), files_have_gone)
        };
        // Where index files have gone, packs may have gone: the index is made anew, beside the old one.
        let mut renewed = files_have_gone.then(Index::default);
        let load = |id: &Id| {
            let json = self.read_file_json(FileType::Index, id)?;
            index_file::decode(&json).map_err(|reason| self.damaged(FileType::Index, &id.to_hex(), reason))
        };
        // A few at a time, so that a large index is not in memory twice.
        for ids in unknown.chunks(FETCHES_AT_ONCE) {
            for (id, packs) in ids.iter().zip(parallel_map(FETCHES_AT_ONCE, ids, load)) {
                let packs = packs?;
                match &mut renewed {
                    Some(index) => index.add(*id, &packs),
                    None => self.add_to_index(*id, &packs),
                }
            }
        }
        if let Some(index) = renewed {
            *self.index_mut() = Some(index);
            // What was added meanwhile is not in it.
            self.inner.index_is_stale.store(true, Ordering::SeqCst);
        } else {
            self.index_mut().get_or_insert_default();
        }
        Ok(())
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Option<Index>> {
        self.inner.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The index, loaded when it isn't yet.
    fn index(&self) -> Result<RwLockReadGuard<'_, Option<Index>>> {
        let read = || self.inner.index.read().unwrap_or_else(PoisonError::into_inner);
        if self.inner.index_is_stale.load(Ordering::SeqCst) || read().is_none() {
            self.refresh_index()?;
        }
        Ok(read())
    }

    pub(crate) fn with_index<T>(&self, look: impl FnOnce(&Index) -> T) -> Result<T> {
        let guard = self.index()?;
        Ok(look(guard.as_ref().unwrap_or(&Index::default())))
    }

    pub(crate) fn add_to_index(&self, file: Id, packs: &index_file::Packs) {
        self.index_mut().get_or_insert_default().add(file, packs);
    }

    pub(crate) fn has_blob(&self, kind: BlobKind, id: &Id) -> Result<bool> {
        self.with_index(|index| index.contains(kind, id))
    }

    pub(crate) fn blob_location(&self, kind: BlobKind, id: &Id) -> Result<Location> {
        self.with_index(|index| index.location(kind, id))?.ok_or_else(|| Error::MissingBlob {
            location: self.location(),
            kind,
            id: *id,
        })
    }

    /// Reads a blob and checks that it has the content that its id names.
    pub(crate) fn read_blob(&self, kind: BlobKind, id: &Id) -> Result<Vec<u8>> {
        let mut failure = Error::MissingBlob { location: self.location(), kind, id: *id };
        for Location { pack, blob } in self.with_index(|index| index.locations(kind, id))? {
            let read =
                self.store().read_range(FileType::Data, &pack.to_hex(), u64::from(blob.offset), blob.length as usize);
            let opened = read.map_err(Error::from).and_then(|mut sealed| {
                let mut opener = BlobOpener::new(self)?;
                opener.open(&pack, &blob, &mut sealed).map(<[u8]>::to_vec)
            });
            match opened {
                Ok(plaintext) => return Ok(plaintext),
                // Another pack may hold a sound copy.
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Reads a directory.
    pub(crate) fn tree(&self, id: &Id) -> Result<Arc<Tree>> {
        if let Some(tree) = locked(&self.inner.trees).get(id) {
            return Ok(tree);
        }
        self.prefetch_trees(id)?;
        if let Some(tree) = locked(&self.inner.trees).get(id) {
            return Ok(tree);
        }
        let json = self.read_blob(BlobKind::Tree, id)?;
        let tree = Tree::from_json(&json).map_err(|reason| self.bad_tree(id, reason))?;
        Ok(self.remember_tree(id, tree, json.len()))
    }

    pub(crate) fn bad_tree(&self, id: &Id, reason: String) -> Error {
        Error::Damaged { location: self.location(), file: format!("tree blob {id}"), reason }
    }

    pub(crate) fn remember_tree(&self, id: &Id, tree: Tree, json_bytes: usize) -> Arc<Tree> {
        let tree = Arc::new(tree);
        locked(&self.inner.trees).insert(*id, tree.clone(), json_bytes);
        tree
    }

    /// Reads a tree together with those before it in its pack: a directory is stored behind the
    /// directories in it, so that a walk from the root finds most of what it asks for next.
    fn prefetch_trees(&self, id: &Id) -> Result<()> {
        let Location { pack, blob } = self.blob_location(BlobKind::Tree, id)?;
        let end = blob.offset + blob.length;
        let start = end.saturating_sub(TREE_WINDOW_BYTES.max(blob.length));
        let neighbours = self.with_index(|index| {
            let inside = |tree: &&_| {
                let tree: &crate::pack::PackedBlob = tree;
                tree.offset >= start && tree.offset + tree.length <= end
            };
            index.trees_in(&pack).iter().filter(inside).copied().collect::<Vec<_>>()
        })?;
        let Some(first) = neighbours.first() else { return Ok(()) };
        let length = (end - first.offset) as usize;
        let Ok(mut bytes) = self.store().read_range(FileType::Data, &pack.to_hex(), u64::from(first.offset), length)
        else {
            // Reading the one blob will say what is wrong.
            return Ok(());
        };
        let mut opener = BlobOpener::new(self)?;
        for tree in &neighbours {
            if locked(&self.inner.trees).contains(&tree.id) {
                continue;
            }
            let from = (tree.offset - first.offset) as usize;
            let Some(sealed) = bytes.get_mut(from..from + tree.length as usize) else { continue };
            let Ok(json) = opener.open(&pack, tree, sealed) else { continue };
            if let Ok(parsed) = Tree::from_json(json) {
                self.remember_tree(&tree.id, parsed, json.len());
            }
        }
        Ok(())
    }
}

/// The key files by name, a hundred at most.
fn read_key_files(store: &dyn Store) -> Result<Vec<(String, Vec<u8>)>> {
    let mut entries = store.list(FileType::Key)?;
    entries.sort();
    entries.truncate(KEY_FILES_MAX);
    entries.into_iter().map(|entry| Ok((entry.name.clone(), store.read(FileType::Key, &entry.name)?))).collect()
}

fn read_config(store: &dyn Store) -> Result<Vec<u8>> {
    match store.read(FileType::Config, "") {
        Err(levee_store::Error::NotFound { .. }) => Err(Error::NoRepository { location: store.location() }),
        result => Ok(result?),
    }
}

fn open_config(store: &dyn Store, sealed: &[u8], master_key: &MasterKey) -> Result<Config> {
    let damaged = |reason: String| Error::damaged(store.location(), FileType::Config, "", reason);
    let mut sealed = sealed.to_vec();
    let json =
        master_key.0.open_in_place(&mut sealed).map_err(|_| damaged("it does not open with the master key".into()))?;
    #[derive(serde::Deserialize)]
    struct Version {
        version: u32,
    }
    let bad_json = |error: serde_json::Error| damaged(format!("its JSON is not as it must be: {error}"));
    let Version { version } = serde_json::from_slice(json).map_err(bad_json)?;
    if !(1..=2).contains(&version) {
        return Err(Error::UnknownVersion { location: store.location(), version });
    }
    let config: Config = serde_json::from_slice(json).map_err(bad_json)?;
    match config.problem() {
        Some(problem) => Err(damaged(problem.into())),
        None => Ok(config),
    }
}

/// Opens sealed blobs one after the other with the same buffers.
pub(crate) struct BlobOpener<'a> {
    vault: &'a Vault,
    decompressor: BlobDecompressor,
    plaintext: Vec<u8>,
}

impl<'a> BlobOpener<'a> {
    pub fn new(vault: &'a Vault) -> Result<Self> {
        let decompressor =
            BlobDecompressor::new().map_err(|source| Error::System { action: "start decompressing", source })?;
        Ok(Self { vault, decompressor, plaintext: Vec::new() })
    }

    /// Decrypts, decompresses and hashes a blob. `sealed` is used up.
    pub fn open<'b>(&'b mut self, pack: &Id, blob: &crate::pack::PackedBlob, sealed: &'b mut [u8]) -> Result<&'b [u8]> {
        let damaged = |reason: String| {
            let reason = format!("{} blob {} at offset {}: {reason}", blob.kind, blob.id, blob.offset);
            self.vault.damaged(FileType::Data, &pack.to_hex(), reason)
        };
        if sealed.len() < OVERHEAD || blob.plaintext_length() > BLOB_BYTES_MAX {
            return Err(damaged("its length is impossible".into()));
        }
        let opened = match self.vault.key().open_in_place(sealed) {
            Ok(opened) => opened,
            Err(_) => return Err(damaged("it does not open with the repository's key".into())),
        };
        let plaintext: &[u8] = if blob.uncompressed_length == 0 {
            opened
        } else {
            let length = blob.uncompressed_length as usize;
            self.decompressor.decompress(opened, length, &mut self.plaintext).map_err(damaged)?;
            &self.plaintext
        };
        if Id::of(plaintext) == blob.id {
            Ok(plaintext)
        } else {
            Err(damaged("its plaintext does not have the hash that is its id".into()))
        }
    }
}
