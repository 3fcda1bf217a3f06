//! Copying snapshots into another vault, under its own key.
//!
//! Each blob is read, decrypted, decompressed and hashed, and then stored as any new blob: compressed,
//! encrypted and read back before it is uploaded. Only what the other vault lacks is read at all. Snapshots
//! appear there batch by batch, so that a copy that was cut short goes on where it was.
//!
//! No snapshot appears there without everything that it refers to. So a blob counts as wanted only for snapshots that
//! are whole: what was marked for one that turns out to be damaged is unmarked, or the next one that shares a part of it
//! would pass over that part as seen already.

use std::collections::HashMap;
use std::time::Duration;

use levee_store::FileType;
use serde::Serialize;

use crate::blob_table::Flag;
use crate::index_file::{IndexFile, Packs};
use crate::pack::PackedBlob;
use crate::pack_reader::read_blobs;
use crate::parallel::{compute_threads, parallel_map};
use crate::problem::with_sources;
use crate::reach::Reach;
use crate::session::{Added, Session, SessionOptions};
use crate::vault::{Patience, look_while_index_files_go, set_id, to_json};
use crate::{
    BlobKind, Compression, Error, Event, Id, Lock, LockMode, Progress, Result, Snapshot, SnapshotId, SnapshotSelection,
    Vault,
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
    /// Copy the rest when snapshots of the source are damaged, and name those in the report. Otherwise the first of them
    /// ends the copy.
    pub pass_over_damage: bool,
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

/// A snapshot of the source that is damaged, and was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotCopied {
    pub id: SnapshotId,
    pub error: String,
}

/// What was copied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CopyReport {
    pub copied: Vec<Copied>,
    /// Snapshots that were there already.
    pub skipped: Vec<SnapshotId>,
    /// Only where damage is passed over.
    pub failed: Vec<NotCopied>,
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

    fn fail(&mut self, id: SnapshotId, error: String) {
        self.failed.push(NotCopied { id, error });
    }
}

/// What makes two snapshots the same, in whichever vault they stand.
#[derive(PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    original: Id,
    tree: Option<Id>,
    content: Vec<u8>,
}

impl Identity {
    pub fn of(original: Id, snapshot: &Snapshot) -> Result<Self> {
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

/// Snapshots by what they are the same as in other vaults.
pub(crate) fn by_identity(snapshots: Vec<(SnapshotId, Snapshot)>) -> Result<HashMap<Identity, SnapshotId>> {
    let mut identified = HashMap::with_capacity(snapshots.len());
    for (id, snapshot) in snapshots {
        identified.insert(Identity::of(snapshot.original.unwrap_or(id.0), &snapshot)?, id);
    }
    Ok(identified)
}

/// The snapshots that are to be copied. A damaged file among them may be any snapshot; where damage is passed over it is
/// reported, whatever the selection.
fn chosen(from: &Vault, options: &CopyOptions, report: &mut CopyReport) -> Result<Vec<(SnapshotId, Snapshot)>> {
    if !options.pass_over_damage || !options.selection.ids.is_empty() {
        return from.select(&options.selection);
    }
    let mut listed = from.list_snapshots()?;
    for damaged in &listed.damaged {
        report.fail(damaged.id, with_sources(&damaged.error));
    }
    listed.readable.retain(|(_, snapshot)| options.selection.matches(snapshot));
    Ok(listed.readable)
}

/// A snapshot on its way.
struct Due {
    id: SnapshotId,
    snapshot: Snapshot,
    /// It is not there yet.
    is_new: bool,
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
    let there = by_identity(to.list_snapshots()?.or_warn())?;
    for (id, snapshot) in chosen(from, options, &mut report)? {
        if there.contains_key(&Identity::of(options.original_of(&id, &snapshot), &snapshot)?) {
            report.skipped.push(id);
            if options.complete {
                to_copy.push(Due { id, snapshot, is_new: false });
            }
        } else if from.is_stored(FileType::Snapshot, &id.0)? {
            to_copy.push(Due { id, snapshot, is_new: true });
        }
        // What is listed and gone was forgotten meanwhile, and must not come to life again elsewhere.
    }
    if to_copy.is_empty() {
        return Ok(report);
    }
    to.refresh_index()?;
    let reach = look_while_index_files_go(|| Reach::load_readable(from))?;
    let (patience, lost) = (Patience::default(), HashMap::new());
    let mut copy = Copy { from, to, reach, patience, options, progress, total_bytes: 0, lost };
    let mut waiting = to_copy.into_iter().peekable();
    while waiting.peek().is_some() {
        let (mut batch, mut missing_blobs) = (Vec::new(), 0);
        while missing_blobs < BLOBS_PER_BATCH
            && let Some(due) = waiting.next()
        {
            match copy.mark(&due)? {
                Ok(lacking) => {
                    missing_blobs += lacking;
                    batch.push(due);
                }
                Err(damage) => report.fail(due.id, damage),
            }
        }
        if !copy.blobs(missing_blobs, &mut report)? {
            batch = copy.whole_among(batch, &mut report)?;
        }
        for due in batch.iter().filter(|due| due.is_new) {
            let new = match &lock {
                None => Ok(None),
                Some(lock) => {
                    lock.check()?;
                    copy.write_snapshot(due)?.map(Some)
                }
            };
            match new {
                Ok(to) => report.copied.push(Copied { from: due.id, to }),
                Err(damage) => report.fail(due.id, damage),
            }
        }
    }
    Ok(report)
}

/// A blob of which no copy can be read, and why.
type Lost = ((BlobKind, Id), String);

struct Copy<'a> {
    from: &'a Vault,
    to: &'a Vault,
    reach: Reach<'a>,
    patience: Patience,
    options: &'a CopyOptions,
    progress: &'a dyn Progress,
    total_bytes: u64,
    /// Only where damage is passed over.
    lost: HashMap<(BlobKind, Id), String>,
}

impl Copy<'_> {
    /// What is said of damage in the source that only some snapshots suffer from. Anything else ends the copy, and so does
    /// damage that is not to be passed over.
    fn pass_over(&self, error: Error) -> Result<String> {
        match self.options.pass_over_damage && error.is_damage() {
            true => Ok(with_sources(&error)),
            false => Err(error),
        }
    }

    /// Marks what a snapshot needs, and counts what the other vault lacks of it. Of one that is damaged nothing stays marked,
    /// and the damage is given back.
    fn mark(&mut self, due: &Due) -> Result<Result<usize, String>> {
        let Some(root) = due.snapshot.tree else {
            let no_tree = self.from.damaged(FileType::Snapshot, &due.id.0.to_hex(), "it names no tree");
            return Ok(Err(self.pass_over(no_tree)?));
        };
        let mut found = Vec::new();
        let find = |kind, id| found.push((kind, id));
        let marked = self.reach.mark_patiently(&[(BlobKind::Tree, root)], &mut self.patience, find, |_, _| ());
        let damage = match marked.map(|missing| missing.first(self.from)) {
            Ok(None) => found.iter().find_map(|blob| self.lost.get(blob)).cloned(),
            Ok(Some(error)) | Err(error) => Some(self.pass_over(error)?),
        };
        if let Some(damage) = damage {
            let table = &mut self.reach.table;
            for (kind, id) in &found {
                if let Some(place) = table.find(*kind, id) {
                    table.clear_at(place, Flag::Used);
                }
            }
            return Ok(Err(damage));
        }
        let mut lacking = 0;
        for (kind, id) in found {
            lacking += usize::from(!self.to.has_blob_to_stay(kind, &id)?);
        }
        Ok(Ok(lacking))
    }

    /// Those of a batch that need nothing of what is lost; the others are reported.
    fn whole_among(&mut self, batch: Vec<Due>, report: &mut CopyReport) -> Result<Vec<Due>> {
        self.reach.table.clear(&[Flag::Used]);
        let mut whole = Vec::with_capacity(batch.len());
        for due in batch {
            match self.mark(&due)? {
                Ok(_) => whole.push(due),
                Err(damage) => report.fail(due.id, damage),
            }
        }
        Ok(whole)
    }

    /// Copies the blobs that are marked and that the other vault lacks. Says whether all of them could be read.
    fn blobs(&mut self, lacking: usize, report: &mut CopyReport) -> Result<bool> {
        if lacking == 0 {
            return Ok(true);
        }
        let lost_before = self.lost.len();
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
        Ok(self.lost.len() == lost_before)
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
        let read = |(pack, blobs): &(Id, Vec<PackedBlob>)| self.pack(session, pack, blobs);
        for lost in parallel_map(compute_threads(), &work, read) {
            self.lost.extend(lost?);
        }
        Ok(())
    }

    /// Hands over blobs of a pack, and gives back those that are lost. When it fails, the packs that wait are left.
    fn pack(&self, session: &Session, pack: &Id, blobs: &[PackedBlob]) -> Result<Vec<Lost>> {
        if session.shared.has_failed() {
            return Err(Error::Stopped);
        }
        self.read_pack(session, pack, blobs).map_err(|error| {
            session.shared.fail(error);
            Error::Stopped
        })
    }

    fn read_pack(&self, session: &Session, pack: &Id, blobs: &[PackedBlob]) -> Result<Vec<Lost>> {
        // `read_blobs` brings them into the order in which it hands them over.
        let mut blobs = blobs.to_vec();
        let (mut lost, mut handed_over, mut has_ended) = (Vec::new(), 0, false);
        let read = read_blobs(self.from, pack, &mut blobs, |blob, _, plaintext| {
            handed_over += 1;
            let result = self.hand_over(session, blob, plaintext.ok(), &mut lost);
            has_ended = result.is_err();
            result
        });
        match read {
            Err(error) if has_ended => return Err(error),
            // The rest of the pack cannot be read so: each of its blobs for itself.
            Err(_) => {
                for blob in blobs.iter().skip(handed_over) {
                    self.hand_over(session, blob, None, &mut lost)?;
                }
            }
            Ok(()) => {}
        }
        Ok(lost)
    }

    /// Hands over a blob. Without a plaintext it is read from whichever pack holds a sound copy.
    fn hand_over(
        &self,
        session: &Session,
        blob: &PackedBlob,
        plaintext: Option<&[u8]>,
        lost: &mut Vec<Lost>,
    ) -> Result<()> {
        let plaintext = match plaintext {
            Some(plaintext) => plaintext.to_vec(),
            None => match self.from.read_blob(blob.kind, &blob.id) {
                Ok(plaintext) => plaintext,
                Err(error) => {
                    lost.push(((blob.kind, blob.id), self.pass_over(error)?));
                    return Ok(());
                }
            },
        };
        self.progress.report(Event::Bytes(plaintext.len() as u64));
        session.add_blob(blob.kind, blob.id, plaintext)
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
    /// Damage of its file is given back.
    fn write_snapshot(&self, due: &Due) -> Result<Result<SnapshotId, String>> {
        let mut fields = match self.from.snapshot_fields(&due.id) {
            Ok(fields) => fields,
            Err(error) => return Ok(Err(self.pass_over(error)?)),
        };
        fields.remove("parent");
        set_id(&mut fields, "original", self.options.original_of(&due.id, &due.snapshot));
        Ok(Ok(self.to.write_snapshot_fields(&fields)?))
    }
}
