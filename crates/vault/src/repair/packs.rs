use std::collections::HashSet;

use levee_store::FileType;
use serde::Serialize;

use super::{RepairOptions, rewrite_index_without};
use crate::new_packs::{NewPacks, Taken};
use crate::pack::{PackedBlob, read_header};
use crate::vault::BlobOpener;
use crate::{BlobKind, Event, Id, Progress, Result, Vault};

/// A pack in memory, whole: larger ones are refused. Restic's are 128 MiB at most.
const PACK_BYTES_MAX: u64 = 1 << 30;

/// What became of damaged packs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PackRepair {
    /// Packs in which something is damaged. Applied, they are in no index any more.
    pub damaged_packs: Vec<Id>,
    /// Packs that were named and in which nothing is wrong.
    pub sound_packs: Vec<Id>,
    /// Blobs of damaged packs that can be read, and go to new packs.
    pub saved_blobs: u64,
    /// Blobs that cannot be read there. Another pack may hold them.
    pub lost_blobs: Vec<(BlobKind, Id)>,
    pub applied: bool,
}

/// Saves what can be read of packs into new ones and takes the damaged ones out of the index. Their files
/// stay until a prune removes them.
pub fn repair_packs(
    vault: &Vault,
    packs: &[Id],
    options: RepairOptions,
    progress: &dyn Progress,
) -> Result<PackRepair> {
    let lock = options.lock(vault)?;
    let mut repair = PackRepair::default();
    let index_files = vault.list_index_files()?;
    let wanted: HashSet<Id> = packs.iter().copied().collect();
    let mut indexed: Vec<(Id, Vec<PackedBlob>)> = Vec::new();
    vault.scan_index(&index_files, |_, file| {
        indexed.extend(file.packs.into_iter().filter(|(pack, _)| wanted.contains(pack)));
        Ok(())
    })?;
    let mut output = NewPacks::new(vault)?;
    progress.report(Event::Total { items: packs.len() as u64, bytes: 0 });
    for pack in packs {
        let (mut content, whole) = read_pack(vault, pack)?;
        let mut blobs = blobs_of(vault, pack, &content, &indexed);
        blobs.sort_unstable();
        blobs.dedup();
        let Sorted { saved, lost } = sort_out(vault, pack, &blobs, &mut content)?;
        progress.report(Event::Bytes(content.len() as u64));
        if whole && lost.is_empty() {
            repair.sound_packs.push(*pack);
            continue;
        }
        repair.damaged_packs.push(*pack);
        repair.saved_blobs += saved.len() as u64;
        repair.lost_blobs.extend(lost);
        if options.apply {
            for blob in &saved {
                output.add(blob)?;
            }
        }
    }
    if let Some(lock) = lock.filter(|_| !repair.damaged_packs.is_empty()) {
        output.finish()?;
        let damaged = repair.damaged_packs.iter().copied().collect();
        rewrite_index_without(vault, &damaged, &index_files, &[], &lock)?;
        repair.applied = true;
    }
    Ok(repair)
}

/// Whatever there is of a pack, and whether it has the hash that is its name.
fn read_pack(vault: &Vault, pack: &Id) -> Result<(Vec<u8>, bool)> {
    let name = pack.to_hex();
    match vault.store().size_bytes(FileType::Data, &name) {
        Err(levee_store::Error::NotFound { .. }) => return Ok((Vec::new(), false)),
        Ok(size) if size > PACK_BYTES_MAX => {
            return Err(vault.damaged(FileType::Data, &name, format!("{size} bytes are too many for a pack")));
        }
        other => drop(other?),
    }
    let content = vault.store().read(FileType::Data, &name)?;
    let whole = Id::of(&content) == *pack;
    Ok((content, whole))
}

/// What an index says of a pack, or the pack itself when it can.
fn blobs_of(vault: &Vault, pack: &Id, content: &[u8], indexed: &[(Id, Vec<PackedBlob>)]) -> Vec<PackedBlob> {
    let known = indexed.iter().filter(|(id, _)| id == pack).flat_map(|(_, blobs)| blobs.iter().copied());
    let known: Vec<_> = known.collect();
    if !known.is_empty() {
        return known;
    }
    let part = |offset: u64, length: usize| {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        Ok(content.get(offset..offset.saturating_add(length)).unwrap_or_default().to_vec())
    };
    match read_header(vault.key(), content.len() as u64, part) {
        Ok(Ok(blobs)) => blobs,
        _ => Vec::new(),
    }
}

/// The blobs of a pack that open, and the names of those that don't.
#[derive(Default)]
struct Sorted {
    saved: Vec<Taken>,
    lost: Vec<(BlobKind, Id)>,
}

fn sort_out(vault: &Vault, pack: &Id, blobs: &[PackedBlob], content: &mut [u8]) -> Result<Sorted> {
    let mut opener = BlobOpener::new(vault)?;
    let mut sorted = Sorted::default();
    for blob in blobs {
        let (start, end) = (blob.offset as usize, blob.offset as usize + blob.length as usize);
        let Some(sealed) = content.get_mut(start..end) else {
            sorted.lost.push((blob.kind, blob.id));
            continue;
        };
        let taken = Taken {
            kind: blob.kind,
            id: blob.id,
            sealed: sealed.to_vec(),
            uncompressed_length: blob.uncompressed_length,
        };
        match opener.open(pack, blob, sealed) {
            Ok(_) => sorted.saved.push(taken),
            Err(_) => sorted.lost.push((blob.kind, blob.id)),
        }
    }
    Ok(sorted)
}
