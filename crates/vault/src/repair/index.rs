use std::collections::{HashMap, HashSet};

use levee_store::FileType;
use serde::Serialize;

use super::{RepairOptions, rewrite_index_without, write_index};
use crate::index_file::{self, BLOBS_PER_FILE, Packs};
use crate::pack::{PackedBlob, fingerprint, pack_bytes, read_header};
use crate::parallel::{compute_threads, parallel_map};
use crate::{Event, Id, Progress, Result, Vault};

/// Packs whose headers are read before what they say is looked at.
const HEADERS_AT_ONCE: usize = 64;

/// What was found wrong with the index, and mended when it was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct IndexRepair {
    /// Index files that cannot be read. What only they named is found in the packs' own headers.
    pub unreadable_index_files: Vec<Id>,
    /// Packs that the index names and that are not there.
    pub missing_packs: Vec<Id>,
    /// Packs that are there and that no index names, or that it names wrongly.
    pub added_packs: Vec<Id>,
    /// Packs in no index whose headers cannot be read either.
    pub unreadable_packs: Vec<Id>,
    pub applied: bool,
}

impl IndexRepair {
    pub fn is_sound(&self) -> bool {
        self.unreadable_index_files.is_empty() && self.missing_packs.is_empty() && self.added_packs.is_empty()
    }
}

/// Compares the index with the packs; with `read_all_packs` not only by name and size.
///
/// Packs that a prune has taken out of the index, or a repair of damaged packs, are left out of it: the next prune takes
/// back what is needed of them and sound.
pub fn repair_index(
    vault: &Vault,
    read_all_packs: bool,
    options: RepairOptions,
    progress: &dyn Progress,
) -> Result<IndexRepair> {
    let lock = options.lock(vault)?;
    let mut repair = IndexRepair::default();
    let stored: Vec<(Id, u64)> = vault
        .store()
        .list(FileType::Data)?
        .iter()
        .filter_map(|entry| Some((entry.name.parse().ok()?, entry.size_bytes)))
        .collect();
    let (mut indexed, mut pruned) = (HashMap::new(), HashSet::new());
    let mut readable = Vec::new();
    for id in vault.list_index_files()? {
        // From the store, as a check does: what a check finds damaged there must be found here.
        let json = match vault.read_stored_json(FileType::Index, &id) {
            Ok(json) => Some(json),
            // Removed since it was listed: there is nothing in it to mend.
            Err(crate::Error::Store(levee_store::Error::NotFound { .. })) => continue,
            Err(error) if error.is_damage() => None,
            // What may not be read, or cannot be reached, may be sound: it must not be removed, and what it knows with it.
            Err(error) => return Err(error),
        };
        let Some(file) = json.and_then(|json| index_file::decode(&json).ok()) else {
            repair.unreadable_index_files.push(id);
            continue;
        };
        readable.push(id);
        for (pack, mut blobs) in file.packs {
            blobs.sort_unstable();
            indexed.insert(pack, (pack_bytes(&blobs), fingerprint(&blobs)));
        }
        pruned.extend(file.marks.iter().flat_map(|marks| &marks.unindexed).flat_map(|group| group.packs.clone()));
    }
    let there: HashSet<Id> = stored.iter().map(|(pack, _)| *pack).collect();
    // One that was just stored may be in no list yet: out of the index its data would be lost.
    let unlisted: Vec<Id> = indexed.keys().filter(|pack| !there.contains(*pack)).copied().collect();
    let stored_all_the_same: HashSet<Id> = vault.stored_among(FileType::Data, &unlisted)?.into_iter().collect();
    repair.missing_packs.extend(unlisted.iter().filter(|pack| !stored_all_the_same.contains(*pack)));
    let doubtful: Vec<(Id, u64)> = stored
        .into_iter()
        .filter(|(pack, size)| match indexed.get(pack) {
            Some((expected, _)) => read_all_packs || expected != size,
            None => !pruned.contains(pack),
        })
        .collect();
    progress.report(Event::Total { items: doubtful.len() as u64, bytes: 0 });
    let mut wrong: HashSet<Id> = repair.missing_packs.iter().copied().collect();
    let mut pending = Packs::new();
    for group in doubtful.chunks(HEADERS_AT_ONCE) {
        let read = |(pack, size): &(Id, u64)| header(vault, pack, *size);
        for ((pack, _), blobs) in group.iter().zip(parallel_map(compute_threads(), group, read)) {
            let blobs = match blobs {
                // A prune has removed it; a list may have it for a while.
                Err(crate::Error::Store(levee_store::Error::NotFound { .. })) => {
                    if indexed.contains_key(pack) {
                        repair.missing_packs.push(*pack);
                        wrong.insert(*pack);
                    }
                    continue;
                }
                // A disk that cannot read it any more gives as much as a header that makes no sense.
                Err(error) if error.is_damage() => None,
                blobs => blobs?,
            };
            match (blobs, indexed.get(pack)) {
                (Some(blobs), Some((_, known))) if fingerprint(&blobs) == *known => {}
                (Some(blobs), known) => {
                    repair.added_packs.push(*pack);
                    if known.is_some() {
                        wrong.insert(*pack);
                    }
                    pending.push((*pack, blobs));
                }
                // What the index says of a pack with a damaged header may still be right.
                (None, Some(_)) => {}
                (None, None) => repair.unreadable_packs.push(*pack),
            }
        }
    }
    repair.missing_packs.sort();
    repair.added_packs.sort();
    if let Some(lock) = lock.filter(|_| !repair.is_sound()) {
        lock.check()?;
        // What is added is durable before anything goes.
        for group in in_files(pending) {
            write_index(vault, &group)?;
        }
        rewrite_index_without(vault, &wrong, &readable, &repair.unreadable_index_files, &lock)?;
        repair.applied = true;
    }
    Ok(repair)
}

/// Packs in groups, each for one index file.
fn in_files(packs: Packs) -> Vec<Packs> {
    let (mut files, mut blobs_in_last) = (Vec::new(), 0);
    for (pack, blobs) in packs {
        if files.is_empty() || blobs_in_last >= BLOBS_PER_FILE {
            files.push(Packs::new());
            blobs_in_last = 0;
        }
        blobs_in_last += blobs.len();
        if let Some(last) = files.last_mut() {
            last.push((pack, blobs));
        }
    }
    files
}

/// What a pack says of itself; `None` when it makes no sense.
fn header(vault: &Vault, pack: &Id, size: u64) -> Result<Option<Vec<PackedBlob>>> {
    let name = pack.to_hex();
    let read = |offset, length| Ok(vault.store().read_range(FileType::Data, &name, offset, length)?);
    Ok(read_header(vault.key(), size, read)?.ok().map(|mut blobs| {
        blobs.sort_unstable();
        blobs
    }))
}
