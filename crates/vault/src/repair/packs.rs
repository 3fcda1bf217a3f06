use std::collections::HashSet;

use jiff::Timestamp;
use levee_store::FileType;
use serde::Serialize;

use super::{RepairOptions, rewrite_index_without};
use crate::index_file;
use crate::index_marks::{Marks, Unindexed, VERSION};
use crate::new_packs::{NewPacks, Taken};
use crate::pack::{PackedBlob, read_header};
use crate::vault::BlobOpener;
use crate::{BlobKind, Error, Event, Id, Progress, Result, Vault};

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
/// stay until a prune removes them, and are marked as a prune marks what is in no index: else a repair of the index
/// would take them for packs that it lacks, and what is lost would count as stored again.
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
    let mut left_behind = Vec::new();
    progress.report(Event::Total { items: packs.len() as u64, bytes: 0 });
    for pack in packs {
        let stored = StoredPack::find(vault, pack)?;
        let mut blobs = blobs_of(vault, &stored, &indexed)?;
        blobs.sort_unstable();
        blobs.dedup();
        let Sorted { saved, lost } = sort_out(vault, &stored, &blobs)?;
        progress.report(Event::Bytes(stored.size_bytes()));
        if stored.is_whole() && lost.is_empty() {
            repair.sound_packs.push(*pack);
            continue;
        }
        repair.damaged_packs.push(*pack);
        if !stored.is_gone() {
            left_behind.push(*pack);
        }
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
        // Before the index lacks them, so that there is no moment at which it does and nothing says why.
        if !left_behind.is_empty() {
            let unindexed = vec![Unindexed { since: Timestamp::now(), packs: left_behind }];
            let marks = Marks { version: VERSION, leaving: Vec::new(), unindexed };
            vault.write_file_json(FileType::Index, &index_file::encode_marks(&marks)?)?;
        }
        let damaged = repair.damaged_packs.iter().copied().collect();
        rewrite_index_without(vault, &damaged, &index_files, &[], &lock)?;
        repair.applied = true;
    }
    Ok(repair)
}

/// Whatever there is of a pack.
struct StoredPack<'a> {
    vault: &'a Vault,
    id: Id,
    readable: Readable,
}

/// How a pack can be read.
enum Readable {
    Whole(Vec<u8>),
    /// Not as a whole. Around a sector that a disk cannot read any more there may be much that it can.
    InParts {
        size_bytes: u64,
    },
    Gone,
}

impl<'a> StoredPack<'a> {
    /// # Errors
    /// When the store cannot be asked, which says nothing about the pack.
    fn find(vault: &'a Vault, pack: &Id) -> Result<Self> {
        let name = pack.to_hex();
        let with = |readable| Ok(Self { vault, id: *pack, readable });
        let size_bytes = match vault.store().size_bytes(FileType::Data, &name).map_err(Error::from) {
            Ok(size) if size > PACK_BYTES_MAX => {
                return Err(vault.damaged(FileType::Data, &name, format!("{size} bytes are too many for a pack")));
            }
            Ok(size) => size,
            Err(error) if is_not_found(&error) => return with(Readable::Gone),
            Err(error) if error.is_damage() => return with(Readable::InParts { size_bytes: 0 }),
            Err(error) => return Err(error),
        };
        match vault.store().read(FileType::Data, &name).map_err(Error::from) {
            Ok(content) => with(Readable::Whole(content)),
            Err(error) if is_not_found(&error) => with(Readable::Gone),
            Err(error) if error.is_damage() => with(Readable::InParts { size_bytes }),
            Err(error) => Err(error),
        }
    }

    fn is_gone(&self) -> bool {
        matches!(self.readable, Readable::Gone)
    }

    /// Whether it has the hash that is its name.
    fn is_whole(&self) -> bool {
        matches!(&self.readable, Readable::Whole(content) if Id::of(content) == self.id)
    }

    fn size_bytes(&self) -> u64 {
        match &self.readable {
            Readable::Whole(content) => content.len() as u64,
            Readable::InParts { size_bytes } => *size_bytes,
            Readable::Gone => 0,
        }
    }

    /// A part of it.
    ///
    /// # Errors
    /// Damage where it cannot be read, or there is nothing; anything else says nothing about the pack.
    fn part(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let too_short = || self.vault.damaged(FileType::Data, &self.id.to_hex(), "it ends before its blobs do");
        match &self.readable {
            Readable::Whole(content) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                content.get(start..start.saturating_add(length)).map(<[u8]>::to_vec).ok_or_else(too_short)
            }
            Readable::InParts { size_bytes } if offset.saturating_add(length as u64) <= *size_bytes => {
                self.vault.read_pack_part(&self.id, offset, length)
            }
            Readable::InParts { .. } | Readable::Gone => Err(too_short()),
        }
    }
}

fn is_not_found(error: &Error) -> bool {
    matches!(error, Error::Store(levee_store::Error::NotFound { .. }))
}

/// What an index says of a pack, or the pack itself when it can.
fn blobs_of(vault: &Vault, pack: &StoredPack<'_>, indexed: &[(Id, Vec<PackedBlob>)]) -> Result<Vec<PackedBlob>> {
    let known = indexed.iter().filter(|(id, _)| *id == pack.id).flat_map(|(_, blobs)| blobs.iter().copied());
    let known: Vec<_> = known.collect();
    if !known.is_empty() {
        return Ok(known);
    }
    match read_header(vault.key(), pack.size_bytes(), |offset, length| pack.part(offset, length)) {
        Ok(header) => Ok(header.unwrap_or_default()),
        Err(error) if error.is_damage() => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The blobs of a pack that open, and the names of those that don't.
#[derive(Default)]
struct Sorted {
    saved: Vec<Taken>,
    lost: Vec<(BlobKind, Id)>,
}

fn sort_out(vault: &Vault, pack: &StoredPack<'_>, blobs: &[PackedBlob]) -> Result<Sorted> {
    let mut opener = BlobOpener::new(vault)?;
    let mut sorted = Sorted::default();
    for blob in blobs {
        let mut sealed = match pack.part(u64::from(blob.offset), blob.length as usize) {
            Ok(sealed) => sealed,
            Err(error) if error.is_damage() => {
                sorted.lost.push((blob.kind, blob.id));
                continue;
            }
            Err(error) => return Err(error),
        };
        let taken = Taken {
            kind: blob.kind,
            id: blob.id,
            sealed: sealed.clone(),
            uncompressed_length: blob.uncompressed_length,
        };
        match opener.open(&pack.id, blob, &mut sealed) {
            Ok(_) => sorted.saved.push(taken),
            Err(_) => sorted.lost.push((blob.kind, blob.id)),
        }
    }
    Ok(sorted)
}
