//! Storing new blobs: the pipeline behind every backup.
//!
//! ```text
//! callers ─▶ jobs ─▶ sealers (hash, look up, compress, encrypt, read back, pack) ─▶ uploaders ─▶ store
//! ```
//! All queues are bounded, so that the slowest stage sets the pace and memory stays within the constants
//! below. A failure anywhere is kept as the one failure of the session; from then on every stage throws
//! away what comes, until the entrance is closed, so that nobody waits for ever.

mod beside;
mod index_writer;
mod packer;
mod sealer;

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use crate::compress::Compression;
use crate::parallel::compute_threads;
use crate::problem::with_sources;
use crate::room::CHUNK_ROOM_BYTES;
use crate::{BlobKind, Error, Id, Result, Tree, Vault};
use beside::Beside;
use index_writer::IndexWriter;
use packer::Packer;

/// Chunks that wait for each sealer; at most 8 MiB each, 1 MiB or less as a rule.
const JOBS_PER_SEALER: usize = 2;
/// A full pack of 16 MiB goes to an uploader that is free: none waits beside those being filled and stored.
const PACKS_WAITING: usize = 0;
/// Buffers kept for reuse: fresh memory is dear when it comes by the megabyte. More than can be in use at once, for each
/// sealer: what is freed and allocated again in other sizes leaves holes.
const SPARE_CHUNK_BUFFERS_PER_SEALER: usize = 6;
/// Larger ones are freed: a rare chunk of 8 MiB must not make every buffer as large in the end.
const SPARE_CHUNK_BYTES_MAX: usize = CHUNK_ROOM_BYTES;

/// How a session stores.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SessionOptions {
    pub compression: Compression,
    /// Everything is done but the storing.
    pub dry_run: bool,
}

/// What a session has stored so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Added {
    pub data_blobs: u64,
    pub tree_blobs: u64,
    /// Bytes of new blobs before compression.
    pub bytes: u64,
    /// Bytes of new blobs as they are stored.
    pub packed_bytes: u64,
}

/// Buffers that go round. The last one that was given back is taken first: it is still in the processor's cache, and
/// those that are not needed stay untouched.
pub(crate) struct BufferPool {
    spare: Mutex<Vec<Vec<u8>>>,
    capacity: usize,
    bytes_max: usize,
}

impl BufferPool {
    /// Keeps so many buffers, none larger than this.
    fn new(capacity: usize, bytes_max: usize) -> Self {
        Self { spare: Mutex::new(Vec::with_capacity(capacity)), capacity, bytes_max }
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn take(&self) -> Vec<u8> {
        self.spare().pop().unwrap_or_default()
    }

    pub fn give(&self, buffer: Vec<u8>) {
        let mut spare = self.spare();
        if buffer.capacity() <= self.bytes_max && spare.len() < self.capacity {
            spare.push(buffer);
        }
    }
}

/// What all threads of a session share.
pub(crate) struct Shared {
    vault: Vault,
    options: SessionOptions,
    state: Mutex<State>,
    /// Blobs that this session stores and that are in no index yet. They are not in the vault's index, so
    /// that nobody else relies on them before they are durable.
    claimed: Mutex<HashSet<(BlobKind, Id)>>,
    data_blobs: AtomicU64,
    tree_blobs: AtomicU64,
    bytes: AtomicU64,
    packed_bytes: AtomicU64,
    pub chunk_buffers: BufferPool,
    /// Further vaults that everything goes to at the same time; emptied at the end.
    beside: RwLock<Vec<Beside>>,
}

/// Whether a session can still come to a good end.
enum State {
    Sound,
    /// The first failure. Everything later is its consequence.
    Failed(Error),
    /// Failed, and the caller knows why.
    Reported,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn fail(&self, error: Error) {
        let mut state = self.state();
        if matches!(*state, State::Sound) {
            *state = State::Failed(error);
        }
    }

    pub fn has_failed(&self) -> bool {
        !matches!(*self.state(), State::Sound)
    }

    /// What has ended the session, when it has ended and nobody was told yet.
    pub fn take_failure(&self) -> Option<Error> {
        let mut state = self.state();
        match std::mem::replace(&mut *state, State::Reported) {
            State::Failed(error) => Some(error),
            State::Reported => Some(Error::Stopped),
            State::Sound => {
                *state = State::Sound;
                None
            }
        }
    }

    /// Whether the caller is the first to come with this blob, and has to store it.
    fn claim(&self, kind: BlobKind, id: Id) -> Result<bool> {
        if self.vault.has_blob_to_stay(kind, &id)? {
            return Ok(false);
        }
        Ok(self.claimed.lock().unwrap_or_else(PoisonError::into_inner).insert((kind, id)))
    }

    fn offer_beside(&self, kind: BlobKind, id: Id, plaintext: &[u8]) {
        for beside in self.beside.read().unwrap_or_else(PoisonError::into_inner).iter() {
            beside.offer(kind, id, plaintext);
        }
    }

    fn count(&self, kind: BlobKind, plaintext_bytes: usize, sealed_bytes: usize) {
        let blobs = if kind == BlobKind::Tree { &self.tree_blobs } else { &self.data_blobs };
        blobs.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(plaintext_bytes as u64, Ordering::Relaxed);
        self.packed_bytes.fetch_add(sealed_bytes as u64, Ordering::Relaxed);
    }
}

/// The id of one chunk of a stream.
struct ChunkDone {
    position: u64,
    id: Id,
    bytes: u64,
}

/// A blob to be stored.
struct Job {
    kind: BlobKind,
    plaintext: Vec<u8>,
    /// Known for trees; chunks are hashed by the sealers.
    id: Option<Id>,
    reply: Option<(u64, Sender<ChunkDone>)>,
}

/// The chunks of one stream, as they go through the pipeline.
pub(crate) struct Content {
    sender: Sender<ChunkDone>,
    receiver: Receiver<ChunkDone>,
    chunks: u64,
}

impl Content {
    pub fn new() -> Self {
        let (sender, receiver) = unbounded();
        Self { sender, receiver, chunks: 0 }
    }

    /// No more chunks will come.
    pub fn close(self) -> ClosedContent {
        ClosedContent { receiver: self.receiver, chunks: self.chunks }
    }
}

/// A stream whose chunks have all been handed over.
pub(crate) struct ClosedContent {
    receiver: Receiver<ChunkDone>,
    chunks: u64,
}

impl ClosedContent {
    /// Waits for the ids of all chunks; gives them in order, with the number of bytes.
    pub fn wait(self) -> Result<(Vec<Id>, u64)> {
        let mut done: Vec<ChunkDone> = self.receiver.iter().collect();
        if done.len() as u64 != self.chunks {
            return Err(Error::Stopped);
        }
        done.sort_unstable_by_key(|chunk| chunk.position);
        let bytes = done.iter().map(|chunk| chunk.bytes).sum();
        Ok((done.into_iter().map(|chunk| chunk.id).collect(), bytes))
    }
}

/// A running pipeline.
pub(crate) struct Session {
    pub shared: Arc<Shared>,
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
    index_writer: Arc<IndexWriter>,
}

impl Session {
    /// Starts the threads. The vault's index must be fresh, and a lock be held. What is stored goes to the vaults
    /// `side_by_side` too, as far as they can be written to.
    pub fn begin(vault: &Vault, options: SessionOptions, side_by_side: &[Vault]) -> Result<Self> {
        let mut beside = Vec::new();
        for other in side_by_side.iter().filter(|_| !options.dry_run) {
            match Beside::begin(other, options) {
                Ok(begun) => beside.push(begun),
                Err(error) => {
                    let (vault, error) = (other.location(), with_sources(&error));
                    tracing::warn!(vault, error, "nothing is stored there side by side");
                }
            }
        }
        // Loads it, so that no sealer has to.
        vault.with_index(|_| ())?;
        let sealers = compute_threads();
        let shared = Arc::new(Shared {
            vault: vault.clone(),
            options,
            state: Mutex::new(State::Sound),
            claimed: Mutex::new(HashSet::new()),
            data_blobs: AtomicU64::new(0),
            tree_blobs: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            packed_bytes: AtomicU64::new(0),
            chunk_buffers: BufferPool::new(sealers * SPARE_CHUNK_BUFFERS_PER_SEALER, SPARE_CHUNK_BYTES_MAX),
            beside: RwLock::new(beside),
        });
        let index_writer = Arc::new(IndexWriter::default());
        let (jobs, next_job) = bounded::<Job>(sealers * JOBS_PER_SEALER);
        let (packs, next_pack) = bounded(PACKS_WAITING);
        let packer = Arc::new(Packer::new(packs));
        let mut session = Self { shared, jobs: Some(jobs), threads: Vec::new(), index_writer };
        for _ in 0..sealers {
            let packer = packer.clone();
            session.spawn("vault-sealer", &next_job, move |shared, jobs| sealer::run(shared, jobs, packer))?;
        }
        // The sealers have it: it ends with the last of them.
        drop(packer);
        for _ in 0..vault.pack_uploaders() {
            let index_writer = session.index_writer.clone();
            session.spawn("vault-uploader", &next_pack, move |shared, packs| {
                packer::upload(shared, packs, &index_writer)
            })?;
        }
        Ok(session)
    }

    fn spawn<T: Send + 'static>(
        &mut self,
        name: &str,
        input: &Receiver<T>,
        stage: impl FnOnce(&Shared, &Receiver<T>) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let stage_input = StageInput { shared: self.shared.clone(), input: input.clone() };
        let run = move || {
            let StageInput { shared, input } = &stage_input;
            if let Err(error) = stage(shared, input) {
                shared.fail(error);
            }
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(run);
        self.threads.push(thread.map_err(|source| Error::System { action: "start a thread", source })?);
        Ok(())
    }

    fn submit(&self, job: Job) -> Result<()> {
        if self.shared.has_failed() {
            return Err(Error::Stopped);
        }
        self.jobs.as_ref().ok_or(Error::Stopped)?.send(job).map_err(|_| Error::Stopped)
    }

    /// Hands over the next chunk of a stream. Waits while the queue is full.
    pub fn add_chunk(&self, content: &mut Content, plaintext: Vec<u8>) -> Result<()> {
        let reply = Some((content.chunks, content.sender.clone()));
        content.chunks += 1;
        self.submit(Job { kind: BlobKind::Data, plaintext, id: None, reply })
    }

    /// Adds a chunk that went through this session before.
    pub fn repeat_chunk(&self, content: &mut Content, id: Id, bytes: u64) -> Result<()> {
        if self.shared.has_failed() {
            return Err(Error::Stopped);
        }
        let done = ChunkDone { position: content.chunks, id, bytes };
        content.chunks += 1;
        // The content has the other end.
        content.sender.send(done).map_err(|_| Error::Stopped)
    }

    /// Stores a blob whose id is known to be its hash. Waits while the queue is full.
    pub fn add_blob(&self, kind: BlobKind, id: Id, plaintext: Vec<u8>) -> Result<()> {
        self.submit(Job { kind, plaintext, id: Some(id), reply: None })
    }

    /// Stores a directory and gives its id.
    pub fn add_tree(&self, tree: Tree) -> Result<Id> {
        let json = tree.to_json();
        let id = Id::of(&json);
        self.submit(Job { kind: BlobKind::Tree, plaintext: json, id: Some(id), reply: None })?;
        Ok(id)
    }

    /// Waits until everything is stored and indexed, and says how much was new.
    pub fn finish(mut self) -> Result<Added> {
        self.join();
        if let Some(error) = self.shared.take_failure() {
            return Err(error);
        }
        self.index_writer.finish(&self.shared)?;
        for beside in std::mem::take(&mut *self.shared.beside.write().unwrap_or_else(PoisonError::into_inner)) {
            beside.finish();
        }
        Ok(Added {
            data_blobs: self.shared.data_blobs.load(Ordering::Relaxed),
            tree_blobs: self.shared.tree_blobs.load(Ordering::Relaxed),
            bytes: self.shared.bytes.load(Ordering::Relaxed),
            packed_bytes: self.shared.packed_bytes.load(Ordering::Relaxed),
        })
    }

    /// Ends the pipeline because of an error, and gives the one that began it all.
    pub fn abort(mut self, error: Error) -> Error {
        self.shared.fail(error);
        self.join();
        self.shared.take_failure().unwrap_or(Error::Stopped)
    }

    /// Closes the entrance and waits for all stages to end.
    fn join(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A stage that crashed has left its failure behind.
            let _ = thread.join();
        }
    }
}

/// Empties a stage's queue when the stage ends early, whatever it ended of.
struct StageInput<T> {
    shared: Arc<Shared>,
    input: Receiver<T>,
}

impl<T> Drop for StageInput<T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What it crashed of stands on the error output already.
            self.shared.fail(Error::Stopped);
        }
        self.input.iter().for_each(drop);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            // Given up half-way: what is still queued need not be stored.
            self.shared.fail(Error::Stopped);
            self.join();
        }
    }
}
