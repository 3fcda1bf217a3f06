//! Taking back what was forgotten and pruned, while the data stand.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use levee_store::FileType;
use serde::Serialize;

use super::index_scan::IndexScan;
use super::{Prune, PruneOptions};
use crate::forgotten::KnownForgotten;
use crate::index_file::{self, BLOBS_PER_FILE};
use crate::pack::pack_bytes;
use crate::problem::with_sources;
use crate::vault::look_while_index_files_go;
use crate::{BlobKind, Error, Id, Lock, LockMode, Progress, Result, Snapshot, SnapshotId, SnapshotSelection, Vault};

/// What to bring back.
#[derive(Clone, Debug, Default)]
pub struct UndeleteOptions {
    /// Which forgotten snapshots. `latest` stands for the one that was forgotten last.
    pub selection: SnapshotSelection,
    /// No snapshot, but every pack that waits to be deleted goes into the index again.
    pub packs: bool,
    /// How long to wait for others' locks.
    pub patience: Duration,
    pub dry_run: bool,
}

/// A snapshot that was forgotten and could still be brought back, as far as the records say.
#[derive(Clone, Debug, PartialEq)]
pub struct ForgottenSnapshot {
    pub id: SnapshotId,
    pub snapshot: Snapshot,
    pub forgotten_at: Timestamp,
    /// The first prune since. Its data may be deleted a grace after it; without one they stand.
    pub pruned_at: Option<Timestamp>,
    /// Its file, as it stood in the store.
    sealed: Vec<u8>,
}

/// What was brought back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UndeleteReport {
    pub snapshots: Vec<SnapshotId>,
    /// Packs that went into the index again.
    pub packs_readopted: u64,
    /// Snapshots that cannot be brought back, and why.
    pub failed: Vec<(SnapshotId, String)>,
}

/// The snapshots that can be brought back, those that were forgotten last in the end.
pub fn list_forgotten(vault: &Vault) -> Result<Vec<ForgottenSnapshot>> {
    let known = look_while_index_files_go(|| {
        let mut known = KnownForgotten::default();
        vault.scan_index(&vault.list_index_files_to_rely_on()?, |id, file| {
            known.take(id, &file);
            Ok(())
        })?;
        Ok(known)
    })?;
    // Not by a list, which may be late about what was forgotten or brought back just now.
    let ids: Vec<Id> = known.iter().map(|record| record.id).collect();
    let there = vault.stored_among(FileType::Snapshot, &ids)?;
    let mut listed = Vec::new();
    for record in known.iter().filter(|record| !there.contains(&record.id)) {
        // One that can't be read, as of a file that was no snapshot, hides no other.
        let (sealed, snapshot) = match record.open(vault) {
            Ok(opened) => opened,
            Err(error) if error.is_damage() => {
                tracing::warn!(snapshot = %record.id, "a forgotten snapshot is passed over: {}", with_sources(&error));
                continue;
            }
            Err(error) => return Err(error),
        };
        listed.push(ForgottenSnapshot {
            id: SnapshotId(record.id),
            snapshot,
            forgotten_at: record.forgotten,
            pruned_at: record.pruned,
            sealed,
        });
    }
    listed.sort_by_key(|entry| (entry.forgotten_at, entry.snapshot.time, entry.id));
    Ok(listed)
}

/// Brings forgotten snapshots back under their old names, and the packs that they need into the index. A snapshot
/// comes back when everything in it is known to be there, and not otherwise.
pub fn undelete(
    vault: &Vault,
    options: &UndeleteOptions,
    now: Timestamp,
    progress: &dyn Progress,
) -> Result<UndeleteReport> {
    let lock = match options.dry_run {
        true => None,
        false => Some(Lock::take_within(vault, LockMode::Maintenance, options.patience)?),
    };
    let chosen = if options.packs { Vec::new() } else { choose(vault, &options.selection)? };
    let look_options = PruneOptions { dry_run: options.dry_run, ..PruneOptions::default() };
    let look = || Prune::look(vault, &look_options, now, progress);
    let mut report = UndeleteReport::default();
    let mut prune = look()?;
    if options.packs {
        report.packs_readopted = prune.adopt_everything()?;
    }
    let mut lost = if chosen.is_empty() { HashMap::new() } else { prune.lost_blobs()? };
    for entry in chosen {
        let readopted_before = prune.report.packs_readopted;
        let root: Vec<_> = entry.snapshot.tree.map(|tree| (BlobKind::Tree, tree)).into_iter().collect();
        let outcome = prune.walk_and_adopt(root.clone()).and_then(|()| {
            if !lost.is_empty() {
                // What was adopted may have brought other copies.
                if prune.report.packs_readopted > readopted_before {
                    lost = prune.lost_blobs()?;
                }
                prune.refuse_lost(root, &lost)?;
            }
            let Some(lock) = &lock else { return Ok(()) };
            lock.check()?;
            Ok(vault.store().write(FileType::Snapshot, &entry.id.0.to_hex(), &entry.sealed)?)
        });
        report.packs_readopted += prune.report.packs_readopted - readopted_before;
        match outcome {
            Ok(()) => report.snapshots.push(entry.id),
            Err(error) if error.is_damage() => {
                report.failed.push((entry.id, with_sources(&error)));
                // What was walked in vain counts as whole in this table: the next snapshot must not rely on it.
                prune = look()?;
            }
            Err(error) => return Err(error),
        }
    }
    vault.expect_other_index();
    Ok(report)
}

fn choose(vault: &Vault, selection: &SnapshotSelection) -> Result<Vec<ForgottenSnapshot>> {
    let mut listed = list_forgotten(vault)?;
    if selection.ids.is_empty() {
        listed.retain(|entry| selection.matches(&entry.snapshot));
        return Ok(listed);
    }
    let mut chosen: Vec<ForgottenSnapshot> = Vec::new();
    for wanted in &selection.ids {
        let location = vault.location();
        let not_found = || Error::NotForgotten { location: location.clone(), wanted: wanted.clone() };
        let is_meant = |entry: &&ForgottenSnapshot| match wanted.as_str() {
            "latest" => selection.matches(&entry.snapshot),
            digits => !digits.is_empty() && entry.id.to_string().starts_with(digits),
        };
        let mut matching = listed.iter().rev().filter(is_meant);
        let found = matching.next().ok_or_else(not_found)?;
        if wanted != "latest" && matching.next().is_some() {
            return Err(Error::AmbiguousSnapshot { location, prefix: wanted.clone() });
        }
        if !chosen.iter().any(|known| known.id == found.id) {
            chosen.push(found.clone());
        }
    }
    Ok(chosen)
}

impl Prune<'_> {
    /// Blobs that the index knows only in packs that are gone or too short, each with such a pack.
    fn lost_blobs(&self) -> Result<HashMap<(BlobKind, Id), Id>> {
        let mut gone = HashSet::new();
        look_while_index_files_go(|| {
            // What was written here may be in no list yet, and what was read before may be gone by now.
            let mut files = self.index().files;
            files.extend(self.vault.list_index_files_to_rely_on()?);
            files.retain(|file| !gone.contains(&file.to_hex()));
            files.sort();
            files.dedup();
            let found = self.find_lost_blobs(&files);
            if let Err(Error::Store(levee_store::Error::NotFound { file_type: FileType::Index, name, .. })) = &found {
                gone.insert(name.clone());
            }
            found
        })
    }

    fn find_lost_blobs(&self, files: &[Id]) -> Result<HashMap<(BlobKind, Id), Id>> {
        let (mut broken, mut lost) = (HashSet::new(), HashMap::new());
        let index = || IndexScan { files: files.to_vec(), ..self.index() };
        index().run(|file| {
            for (pack, blobs) in file {
                let needed = pack_bytes(blobs);
                if self.stored.size_bytes(pack).is_some_and(|size| size >= needed) {
                    continue;
                }
                // It may have come after the packs were listed.
                match self.vault.store().size_bytes(FileType::Data, &pack.to_hex()) {
                    Ok(size) if size >= needed => {}
                    Ok(_) | Err(levee_store::Error::NotFound { .. }) => {
                        broken.insert(*pack);
                        lost.extend(blobs.iter().map(|blob| ((blob.kind, blob.id), *pack)));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(())
        })?;
        if !lost.is_empty() {
            index().run(|file| {
                for (_, blobs) in file.iter().filter(|(pack, _)| !broken.contains(pack)) {
                    for blob in blobs {
                        lost.remove(&(blob.kind, blob.id));
                    }
                }
                Ok(())
            })?;
        }
        Ok(lost)
    }

    /// An error when anything below these blobs is lost.
    fn refuse_lost(&self, mut to_do: Vec<(BlobKind, Id)>, lost: &HashMap<(BlobKind, Id), Id>) -> Result<()> {
        let mut seen = HashSet::new();
        while let Some((kind, id)) = to_do.pop() {
            if let Some(pack) = lost.get(&(kind, id)) {
                let reason = format!("it is gone or too short, and {kind} blob {id} is nowhere else");
                return Err(self.vault.damaged(FileType::Data, &pack.to_hex(), reason));
            }
            if kind == BlobKind::Tree && seen.insert(id) {
                for node in self.reach.read_tree(&id)?.nodes() {
                    to_do.extend(node.subtree.map(|tree| (BlobKind::Tree, tree)));
                    to_do.extend(node.blobs().iter().map(|blob| (BlobKind::Data, *blob)));
                }
            }
        }
        Ok(())
    }

    /// Indexes every pack that no index names, and gives their number.
    fn adopt_everything(&mut self) -> Result<u64> {
        let found = self.find_unindexed(&|_, _| true)?;
        let count = found.len() as u64;
        let mut rest = found.as_slice();
        while !rest.is_empty() && !self.options.dry_run {
            let mut blobs = 0;
            let fits = |(_, pack): &&(Id, Vec<_>)| {
                let is_first = blobs == 0;
                blobs += pack.len();
                is_first || blobs <= BLOBS_PER_FILE
            };
            let (file, after) = rest.split_at(rest.iter().take_while(fits).count());
            self.vault.write_file_json(FileType::Index, &index_file::encode(&file.to_vec())?)?;
            rest = after;
        }
        Ok(count)
    }
}
