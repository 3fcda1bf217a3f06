//! Copying snapshots into another vault, under its own key.
//!
//! Each blob is read, decrypted, decompressed and hashed, and then stored as any new blob: compressed,
//! encrypted and read back before it is uploaded. Only what the other vault lacks is read at all. Snapshots
//! appear there batch by batch, so that a copy that was cut short goes on where it was.

use std::collections::HashMap;
use std::time::Duration;

use levee_store::FileType;
use serde::Serialize;

use crate::blob_table::Flag;
use crate::index_file::{IndexFile, Packs};
use crate::pack::PackedBlob;
use crate::pack_reader::read_blobs;
use crate::parallel::{compute_threads, parallel_map};
use crate::reach::Reach;
use crate::session::{Added, Session, SessionOptions};
use crate::vault::{Patience, look_while_index_files_go, set_id, to_json};
use crate::{
    BlobKind, Compression, Event, Id, Lock, LockMode, Progress, Result, Snapshot, SnapshotId, SnapshotSelection, Vault,
};

/// After so many missing blobs the snapshots that need them are finished before more are begun.
const BLOBS_PER_BATCH: usize = 50_000;

/// What to copy.
#[derive(Clone, Debug, Default)]
pub struct CopyOptions {
    pub selection: SnapshotSelection,
    pub compression: Compression,
    /// How long to wait for others' locks.
    pub patience: Duration,
    /// Name as the original of each copy what it is called in the source, whatever it says of itself: for a source whose
    /// writer must not decide what a copy stands for.
    pub original_is_source: bool,
    /// Bring anew what snapshots that are there already lack, as after a repair there.
    pub complete: bool,
    /// Take no lock on the source, for one that cannot be written to.
    pub no_lock_source: bool,
    /// Only say what would be done.
    pub dry_run: bool,
}

impl CopyOptions {
    fn original_of(&self, id: &SnapshotId, snapshot: &Snapshot) -> Id {
        snapshot.original.filter(|_| !self.original_is_source).unwrap_or(id.0)
    }
}

/// A snapshot and what it was copied to; `to` is `None` in a dry run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Copied {
    pub from: SnapshotId,
    pub to: Option<SnapshotId>,
}

/// What was copied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CopyReport {
    pub copied: Vec<Copied>,
    /// Snapshots that were there already.
    pub skipped: Vec<SnapshotId>,
    pub blobs: u64,
    /// Bytes of these blobs before compression.
    pub bytes: u64,
    /// The same as they are stored.
    pub packed_bytes: u64,
}

impl CopyReport {
    fn count(&mut self, added: Added) {
        self.blobs += added.data_blobs + added.tree_blobs;
        self.bytes += added.bytes;
        self.packed_bytes += added.packed_bytes;
    }
}

/// What makes two snapshots the same, in whichever vault they stand.
#[derive(PartialEq, Eq, Hash)]
struct Identity {
    original: Id,
    tree: Option<Id>,
    content: Vec<u8>,
}

impl Identity {
    fn of(original: Id, snapshot: &Snapshot) -> Result<Self> {
        let sorted = |list: &[String]| {
            let mut list = list.to_vec();
            list.sort();
            list
        };
        let (paths, tags, excludes) = (sorted(&snapshot.paths), sorted(&snapshot.tags), sorted(&snapshot.excludes));
        let who = (&snapshot.hostname, &snapshot.username, snapshot.uid, snapshot.gid);
        let content = to_json(&(snapshot.time, who, paths, tags, excludes))?;
        Ok(Self { original, tree: snapshot.tree, content })
    }
}

/// Copies snapshots that `to` does not have, with everything they refer to.
pub fn copy(from: &Vault, to: &Vault, options: &CopyOptions, progress: &dyn Progress) -> Result<CopyReport> {
    let _source_lock = match options.no_lock_source || options.dry_run {
        true => None,
        false => Some(Lock::take_within(from, LockMode::Shared, options.patience)?),
    };
    let lock = match options.dry_run {
        true => None,
        false => Some(Lock::take_within(to, LockMode::Shared, options.patience)?),
    };
    let mut report = CopyReport::default();
    let mut to_copy = Vec::new();
    let mut there: HashMap<Identity, SnapshotId> = HashMap::new();
    for (id, snapshot) in to.list_snapshots()?.or_warn() {
        there.insert(Identity::of(snapshot.original.unwrap_or(id.0), &snapshot)?, id);
    }
    for (id, snapshot) in from.select(&options.selection)? {
        if there.contains_key(&Identity::of(options.original_of(&id, &snapshot), &snapshot)?) {
            report.skipped.push(id);
            if options.complete {
                to_copy.push((id, snapshot, false));
            }
        } else if from.is_stored(FileType::Snapshot, &id.0)? {
            to_copy.push((id, snapshot, true));
        }
        // What is listed and gone was forgotten meanwhile, and must not come to life again elsewhere.
    }
    if to_copy.is_empty() {
        return Ok(report);
    }
    to.refresh_index()?;
    let reach = look_while_index_files_go(|| Reach::load(from, |_, _| ()))?;
    let mut copy = Copy { from, to, reach, patience: Patience::default(), options, progress, total_bytes: 0 };
    let mut waiting = to_copy.into_iter().peekable();
    while waiting.peek().is_some() {
        let (mut batch, mut missing_blobs) = (Vec::new(), 0);
        while missing_blobs < BLOBS_PER_BATCH
            && let Some((id, snapshot, is_new)) = waiting.next()
        {
            missing_blobs += copy.mark(&id, &snapshot)?;
            batch.extend(is_new.then_some((id, snapshot)));
        }
        copy.blobs(missing_blobs, &mut report)?;
        for (id, snapshot) in batch {
            let new = match &lock {
                None => None,
                Some(lock) => {
                    lock.check()?;
                    Some(copy.write_snapshot(&id, &snapshot)?)
                }
            };
            report.copied.push(Copied { from: id, to: new });
        }
    }
    Ok(report)
}

struct Copy<'a> {
    from: &'a Vault,
    to: &'a Vault,
    reach: Reach<'a>,
    patience: Patience,
    options: &'a CopyOptions,
    progress: &'a dyn Progress,
    total_bytes: u64,
}

impl Copy<'_> {
    /// Marks what a snapshot needs, and counts what the other vault lacks of it.
    fn mark(&mut self, id: &SnapshotId, snapshot: &Snapshot) -> Result<usize> {
        let no_tree = || self.from.damaged(FileType::Snapshot, &id.0.to_hex(), "it names no tree");
        let root = snapshot.tree.ok_or_else(no_tree)?;
        let mut found = Vec::new();
        let find = |kind, id| found.push((kind, id));
        let missing = self.reach.mark_patiently(&[(BlobKind::Tree, root)], &mut self.patience, find, |_, _| ())?;
        if let Some(error) = missing.first(self.from) {
            return Err(error);
        }
        let mut lacking = 0;
        for (kind, id) in found {
            lacking += usize::from(!self.to.has_blob_to_stay(kind, &id)?);
        }
        Ok(lacking)
    }

    /// Copies the blobs that are marked and that the other vault lacks.
    fn blobs(&mut self, lacking: usize, report: &mut CopyReport) -> Result<()> {
        if lacking == 0 {
            return Ok(());
        }
        let dry_run = self.options.dry_run;
        let options = SessionOptions { compression: self.options.compression, dry_run };
        let session = Session::begin(self.to, options, &[])?;
        let mut files: Vec<Id> = self.reach.index_files.iter().copied().collect();
        files.sort();
        let from = self.from;
        let copied = from.scan_index(&files, |_, file| self.file(&session, file));
        match copied {
            Ok(()) => report.count(session.finish()?),
            Err(error) => return Err(session.abort(error)),
        }
        Ok(())
    }

    fn file(&mut self, session: &Session, file: IndexFile) -> Result<()> {
        let mut work: Packs = Vec::new();
        for (pack, blobs) in file.packs {
            let mut lacking = Vec::new();
            for blob in blobs {
                if self.is_due(&blob)? {
                    self.total_bytes += blob.plaintext_length();
                    lacking.push(blob);
                }
            }
            if !lacking.is_empty() {
                work.push((pack, lacking));
            }
        }
        self.progress.report(Event::Total { items: 0, bytes: self.total_bytes });
        let hand_over = |(pack, blobs): &(Id, Vec<PackedBlob>)| {
            read_blobs(self.from, pack, &mut blobs.clone(), |blob, _, plaintext| {
                let plaintext = match plaintext {
                    Ok(plaintext) => plaintext.to_vec(),
                    // Another pack may hold a sound copy.
                    Err(_) => self.from.read_blob(blob.kind, &blob.id)?,
                };
                self.progress.report(Event::Bytes(plaintext.len() as u64));
                session.add_blob(blob.kind, blob.id, plaintext)
            })
        };
        parallel_map(compute_threads(), &work, hand_over).into_iter().collect()
    }

    /// Whether a blob is wanted, lacking there, and was not taken along yet.
    fn is_due(&mut self, blob: &PackedBlob) -> Result<bool> {
        let table = &mut self.reach.table;
        let place = table.find(blob.kind, &blob.id).filter(|place| table.is(*place, Flag::Used));
        if !place.is_some_and(|place| table.set(place, Flag::Claimed)) {
            return Ok(false);
        }
        Ok(!self.to.has_blob_to_stay(blob.kind, &blob.id)?)
    }

    /// The snapshot as it is, but for where it comes from. Its parent stays behind.
    fn write_snapshot(&self, id: &SnapshotId, snapshot: &Snapshot) -> Result<SnapshotId> {
        let mut fields = self.from.snapshot_fields(id)?;
        fields.remove("parent");
        set_id(&mut fields, "original", self.options.original_of(id, snapshot));
        self.to.write_snapshot_fields(&fields)
    }
}
