//! Looking whether everything in a repository is as it must be.
//!
//! Snapshots are read first, then the index, then the list of packs, so that what others add meanwhile is
//! not taken for missing. All of it comes from the store itself: what a cache on this machine holds says nothing of
//! what others will find.

mod packs;
mod subset;
mod trees;

use std::collections::{BTreeMap, HashSet};

use levee_store::FileType;
pub(crate) use packs::{PACK_BYTES_MAX, look_at_content};
use serde::Serialize;
pub use subset::{ReadData, Subset};

use crate::forgotten::KnownForgotten;
use crate::index::Index;
use crate::pack::{PackedBlob, fingerprint, pack_bytes};
use crate::parallel::parallel_map;
use crate::problem::with_sources;
use crate::vault::Patience;
use crate::{BlobKind, Error, Id, Lock, LockMode, Progress, Result, Snapshot, Vault, index_file};

/// How many small files are fetched at once.
const FETCHES_AT_ONCE: usize = 8;
/// More findings than this are counted and not kept.
const FINDINGS_MAX: usize = 1000;

/// How thoroughly to look.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckOptions {
    /// What is read, decrypted, decompressed and hashed again.
    pub read_data: ReadData,
    /// Take no lock, for repositories that cannot be written to. Others' work may then look like damage.
    pub no_lock: bool,
}

/// One thing that is wrong: with which file, and what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The type and the name of the file.
    pub file: String,
    pub message: String,
}

/// What a check has found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// The first thousand errors.
    pub errors: Vec<Finding>,
    pub error_count: u64,
    /// What is not as it should be, but loses nothing.
    pub hints: Vec<Finding>,
    /// What may be lost or may be well: files that the store lists and does not have. Nobody but who runs it can tell.
    pub doubts: Vec<Finding>,
    pub snapshots: u64,
    pub index_files: u64,
    pub packs: u64,
    pub blobs: u64,
    pub trees: u64,
    /// Blobs that no snapshot refers to.
    pub unused_blobs: u64,
    /// Packs that were read whole.
    pub packs_read: u64,
    pub bytes_read: u64,
}

impl CheckReport {
    pub fn is_sound(&self) -> bool {
        self.error_count == 0
    }

    fn error(&mut self, file: String, message: String) {
        self.error_count += 1;
        if self.errors.len() < FINDINGS_MAX {
            self.errors.push(Finding { file, message });
        }
    }

    /// Takes in what another look has found.
    fn absorb(&mut self, other: Self) {
        let room = |list: &[Finding]| FINDINGS_MAX.saturating_sub(list.len());
        let (errors, hints, doubts) = (room(&self.errors), room(&self.hints), room(&self.doubts));
        self.errors.extend(other.errors.into_iter().take(errors));
        self.hints.extend(other.hints.into_iter().take(hints));
        self.doubts.extend(other.doubts.into_iter().take(doubts));
        self.error_count += other.error_count;
        self.snapshots += other.snapshots;
        self.index_files += other.index_files;
        self.packs += other.packs;
        self.blobs += other.blobs;
        self.trees += other.trees;
        self.unused_blobs += other.unused_blobs;
        self.packs_read += other.packs_read;
        self.bytes_read += other.bytes_read;
    }

    /// Takes in what a second look at the index files has found and the first one had not.
    fn absorb_second_look(&mut self, other: Self) {
        self.index_files = other.index_files;
        for finding in other.errors {
            if !self.errors.contains(&finding) {
                self.error(finding.file, finding.message);
            }
        }
        for finding in other.hints {
            if !self.hints.contains(&finding) {
                self.hint(finding.file, finding.message);
            }
        }
    }

    fn hint(&mut self, file: String, message: String) {
        if self.hints.len() < FINDINGS_MAX {
            self.hints.push(Finding { file, message });
        }
    }

    fn doubt(&mut self, file: String, message: &str) {
        if self.doubts.len() < FINDINGS_MAX {
            self.doubts.push(Finding { file, message: message.into() });
        }
    }

    /// Takes in an error of the vault, under the name of the file that it is about.
    fn take(&mut self, file_type: FileType, id: &Id, error: &Error) {
        let message = match error {
            Error::Damaged { reason, .. } => reason.clone(),
            error => with_sources(error),
        };
        self.error(format!("{file_type}/{id}"), message);
    }
}

/// What the index files say, taken together. Of a blob there is nothing but its entry in the index: fifty million of them must
/// leave room for other things.
#[derive(Default)]
struct Indexed {
    /// The index files, in order.
    files: Vec<Id>,
    packs: BTreeMap<Id, IndexedPack>,
    index: Index,
    forgotten: KnownForgotten,
}

/// What is said of a file that stays listed and gone. A password that was removed leaves no record, a snapshot that restic
/// has forgotten neither, and those of Levee go with the grace: without one neither the vault nor the list can be blamed.
const LISTED_AND_GONE: &str = "it is listed and not there: the store's list is late, or it has lost the file";
const LISTED_AND_FORGOTTEN: &str = "it was forgotten, and the store still lists it";

/// What the index says of a pack, as far as it has to be compared.
struct IndexedPack {
    /// The index file that it stands in.
    file: Id,
    blobs: u64,
    /// How long a pack with these blobs is.
    bytes: u64,
    /// Of the list of its blobs.
    fingerprint: Id,
}

impl IndexedPack {
    fn new(file: Id, blobs: &[PackedBlob]) -> Self {
        Self { file, blobs: blobs.len() as u64, bytes: pack_bytes(blobs), fingerprint: fingerprint(blobs) }
    }
}

/// Checks a repository. An error is returned only when looking is impossible; what is wrong stands in the
/// report.
pub fn check(vault: &Vault, options: CheckOptions, progress: &dyn Progress) -> Result<CheckReport> {
    let lock = if options.no_lock { None } else { Some(Lock::take(vault, LockMode::Exclusive)?) };
    let mut report = CheckReport::default();
    check_keys(vault, &mut report)?;
    let (snapshots, gone) = read_snapshots(vault, &mut report)?;
    let indexed = read_indexes(vault, &snapshots, &mut report)?;
    for id in gone {
        let file = format!("{}/{id}", FileType::Snapshot);
        match indexed.forgotten.knows(&id) {
            true => report.hint(file, LISTED_AND_FORGOTTEN.into()),
            false => report.doubt(file, LISTED_AND_GONE),
        }
    }
    // At the same time: one thread follows the trees, and would leave the other cores idle.
    let (packs, trees) = std::thread::scope(|scope| {
        let trees = scope.spawn(|| trees::check_trees(vault, &snapshots, &indexed, progress));
        let packs = packs::list_packs(vault).and_then(|mut listed| {
            let looked = packs::check_packs(vault, options, &indexed.packs, &mut listed, progress)?;
            Ok((looked, listed))
        });
        (packs, trees.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let (packs, mut listed) = packs?;
    report.absorb(packs);
    let mut trees = trees?;
    let Indexed { files, packs, index, .. } = indexed;
    let mut indexed_packs: HashSet<Id> = packs.into_keys().collect();
    drop(index);
    if !trees.errors.is_empty() {
        // By a list that was late nothing is damaged: what snapshots refer to may be in an index file that it lacked.
        let newer_files = vault.list_index_files()?;
        if newer_files != files {
            let mut found = CheckReport::default();
            let indexed = read_index_files(vault, &newer_files, &mut found);
            report.absorb_second_look(found);
            trees = trees::check_trees(vault, &snapshots, &indexed, progress)?;
            // Packs that only these files name were not looked at yet; of the others nothing is read a second time.
            let mut newer = indexed.packs;
            newer.retain(|pack, _| !indexed_packs.contains(pack));
            if !newer.is_empty() {
                report.absorb(packs::check_packs(vault, options, &newer, &mut listed, &())?);
                indexed_packs.extend(newer.into_keys());
            }
        }
    }
    packs::hint_at_unindexed(&listed, &indexed_packs, &mut report);
    report.packs = listed.len() as u64;
    report.absorb(trees);
    drop(lock);
    Ok(report)
}

fn check_keys(vault: &Vault, report: &mut CheckReport) -> Result<()> {
    let list = || -> Result<Vec<String>> {
        Ok(vault.store().list(FileType::Key)?.into_iter().map(|entry| entry.name).collect())
    };
    let mut patience = Patience::default();
    let mut names = list()?;
    loop {
        let mut gone = Vec::new();
        for name in names {
            let read = vault.store().read(FileType::Key, &name);
            let sound = read.map(|content| Id::of(&content).to_hex() == name);
            let file = format!("{}/{name}", FileType::Key);
            match sound {
                Ok(true) => {}
                Err(levee_store::Error::NotFound { .. }) => gone.push(name),
                Ok(false) => report.error(file, "its content does not have the hash that is its name".into()),
                Err(error) => report.error(file, with_sources(&error)),
            }
        }
        if gone.is_empty() {
            return Ok(());
        }
        if !patience.wait() {
            gone.iter().for_each(|name| report.doubt(format!("{}/{name}", FileType::Key), LISTED_AND_GONE));
            return Ok(());
        }
        // A password that was removed a moment ago is in no list any more.
        let listed = list()?;
        gone.retain(|name| listed.contains(name));
        names = gone;
    }
}

/// Those that can be read, with their ids.
type Snapshots = Vec<(Id, Snapshot)>;

/// The snapshots, and those that stay listed and gone.
fn read_snapshots(vault: &Vault, report: &mut CheckReport) -> Result<(Snapshots, Vec<Id>)> {
    let mut ids = vault.list_ids(FileType::Snapshot)?;
    let mut snapshots = Vec::new();
    let read = |id: &Id| {
        let json = vault.read_stored_json(FileType::Snapshot, id)?;
        vault.parse_file::<Snapshot>(FileType::Snapshot, id, &json)
    };
    let mut patience = Patience::default();
    loop {
        let mut gone = Vec::new();
        for (id, snapshot) in ids.iter().zip(parallel_map(FETCHES_AT_ONCE, &ids, read)) {
            match snapshot {
                Ok(snapshot) => snapshots.push((*id, snapshot)),
                Err(Error::Store(levee_store::Error::NotFound { .. })) => {
                    gone.push(*id);
                    continue;
                }
                Err(error) => report.take(FileType::Snapshot, id, &error),
            }
            report.snapshots += 1;
        }
        if gone.is_empty() || !patience.wait() {
            return Ok((snapshots, gone));
        }
        // One that was forgotten a moment ago is in no list any more.
        let listed = vault.list_ids(FileType::Snapshot)?;
        gone.retain(|id| listed.binary_search(id).is_ok());
        ids = gone;
    }
}

/// Reads the index; anew, when it lacks the very root of a snapshot and a file that was in no list yet comes into it: by
/// a list that is late nothing is damaged.
fn read_indexes(vault: &Vault, snapshots: &[(Id, Snapshot)], report: &mut CheckReport) -> Result<Indexed> {
    let mut patience = Patience::default();
    let mut files = vault.list_index_files()?;
    loop {
        let mut found = CheckReport::default();
        let indexed = read_index_files(vault, &files, &mut found);
        let has = |tree: &Id| indexed.index.location(BlobKind::Tree, tree).is_some();
        let mut newer = None;
        if !snapshots.iter().filter_map(|(_, snapshot)| snapshot.tree.as_ref()).all(has) {
            while newer.is_none() && patience.wait() {
                newer = Some(vault.list_index_files()?).filter(|listed| *listed != files);
            }
        }
        match newer {
            Some(newer) => files = newer,
            None => {
                report.absorb(found);
                return Ok(indexed);
            }
        }
    }
}

fn read_index_files(vault: &Vault, ids: &[Id], report: &mut CheckReport) -> Indexed {
    report.index_files = ids.len() as u64;
    let mut indexed = Indexed { files: ids.to_vec(), ..Indexed::default() };
    let read = |id: &Id| {
        let json = vault.read_stored_json(FileType::Index, id)?;
        index_file::decode(&json).map_err(|reason| vault.damaged(FileType::Index, &id.to_hex(), reason))
    };
    let read_all = |some: &[Id]| parallel_map(FETCHES_AT_ONCE, some, read);
    // Some at a time, so that a large index is never in memory as it was written.
    for (id, packs) in ids.chunks(FETCHES_AT_ONCE).flat_map(|some| some.iter().zip(read_all(some))) {
        let packs = match packs {
            Ok(file) => {
                indexed.index.load(*id, &file);
                indexed.forgotten.take(id, &file);
                file.packs
            }
            Err(error) => {
                report.take(FileType::Index, id, &error);
                continue;
            }
        };
        for (pack, blobs) in packs {
            let found = IndexedPack::new(*id, &blobs);
            match indexed.packs.get(&pack) {
                None => {
                    indexed.packs.insert(pack, found);
                }
                Some(known) if known.fingerprint == found.fingerprint => {
                    report.hint(format!("index/{id}"), format!("pack {pack} stands in another index file too"));
                }
                Some(_) => {
                    let message = format!("it says other things about pack {pack} than another index file");
                    report.error(format!("index/{id}"), message);
                }
            }
        }
    }
    indexed.index.settle();
    indexed
}
