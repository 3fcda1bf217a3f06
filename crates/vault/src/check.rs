//! Looking whether everything in a repository is as it must be.
//!
//! Snapshots are read first, then the index, then the list of packs, so that what others add meanwhile is
//! not taken for missing. All of it comes from the store itself: what a cache on this machine holds says nothing of
//! what others will find.

mod packs;
mod subset;
mod trees;

use std::collections::{BTreeMap, HashMap};

use levee_store::FileType;
pub(crate) use packs::{PACK_BYTES_MAX, look_at_content};
use serde::Serialize;
pub use subset::{ReadData, Subset};

use crate::index::Index;
use crate::pack::PackedBlob;
use crate::parallel::parallel_map;
use crate::problem::with_sources;
use crate::{Error, Id, Lock, LockMode, Progress, Result, Snapshot, Vault, index_file};

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
        let (errors, hints) = (room(&self.errors), room(&self.hints));
        self.errors.extend(other.errors.into_iter().take(errors));
        self.hints.extend(other.hints.into_iter().take(hints));
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

    fn hint(&mut self, file: String, message: String) {
        if self.hints.len() < FINDINGS_MAX {
            self.hints.push(Finding { file, message });
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

/// What the index files say, taken together.
#[derive(Default)]
struct Indexed {
    packs: BTreeMap<Id, Vec<PackedBlob>>,
    /// The same by blob.
    index: Index,
    /// Which index file each pack stands in.
    files: HashMap<Id, Id>,
}

/// Checks a repository. An error is returned only when looking is impossible; what is wrong stands in the
/// report.
pub fn check(vault: &Vault, options: CheckOptions, progress: &dyn Progress) -> Result<CheckReport> {
    let lock = if options.no_lock { None } else { Some(Lock::take(vault, LockMode::Exclusive)?) };
    let mut report = CheckReport::default();
    check_keys(vault, &mut report)?;
    let snapshots = read_snapshots(vault, &mut report)?;
    let indexed = read_indexes(vault, &mut report)?;
    // At the same time: one thread follows the trees, and would leave the other cores idle.
    let (packs, trees) = std::thread::scope(|scope| {
        let trees = scope.spawn(|| trees::check_trees(vault, &snapshots, &indexed, progress));
        let packs = packs::check_packs(vault, options, &indexed, progress);
        (packs, trees.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    report.absorb(packs?);
    report.absorb(trees?);
    drop(lock);
    Ok(report)
}

fn check_keys(vault: &Vault, report: &mut CheckReport) -> Result<()> {
    for entry in vault.store().list(FileType::Key)? {
        let sound =
            vault.store().read(FileType::Key, &entry.name).map(|content| Id::of(&content).to_hex() == entry.name);
        let file = format!("{}/{}", FileType::Key, entry.name);
        match sound {
            Ok(true) => {}
            Ok(false) => report.error(file, "its content does not have the hash that is its name".into()),
            Err(error) => report.error(file, with_sources(&error)),
        }
    }
    Ok(())
}

fn read_snapshots(vault: &Vault, report: &mut CheckReport) -> Result<Vec<(Id, Snapshot)>> {
    let ids = vault.list_ids(FileType::Snapshot)?;
    let mut snapshots = Vec::new();
    let read = |id: &Id| {
        let json = vault.read_stored_json(FileType::Snapshot, id)?;
        vault.parse_file::<Snapshot>(FileType::Snapshot, id, &json)
    };
    for (id, snapshot) in ids.iter().zip(parallel_map(FETCHES_AT_ONCE, &ids, read)) {
        match snapshot {
            Ok(snapshot) => snapshots.push((*id, snapshot)),
            Err(error) => report.take(FileType::Snapshot, id, &error),
        }
    }
    report.snapshots = ids.len() as u64;
    Ok(snapshots)
}

fn read_indexes(vault: &Vault, report: &mut CheckReport) -> Result<Indexed> {
    let ids = vault.list_ids(FileType::Index)?;
    report.index_files = ids.len() as u64;
    let mut indexed = Indexed::default();
    let read = |id: &Id| {
        let json = vault.read_stored_json(FileType::Index, id)?;
        index_file::decode(&json).map_err(|reason| vault.damaged(FileType::Index, &id.to_hex(), reason))
    };
    for (id, packs) in ids.iter().zip(parallel_map(FETCHES_AT_ONCE, &ids, read)) {
        let packs = match packs {
            Ok(file) => {
                indexed.index.load(*id, &file);
                file.packs
            }
            Err(error) => {
                report.take(FileType::Index, id, &error);
                continue;
            }
        };
        for (pack, blobs) in packs {
            match indexed.packs.get(&pack) {
                None => {
                    indexed.files.insert(pack, *id);
                    indexed.packs.insert(pack, blobs);
                }
                Some(known) if *known == blobs => {
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
    Ok(indexed)
}
