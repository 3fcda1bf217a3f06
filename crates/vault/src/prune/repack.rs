//! Writing the used blobs of packs that go into new packs.

use levee_store::FileType;

use super::Prune;
use super::plan::{Fate, mark_kept};
use crate::blob_table::Flag;
use crate::compress::{BlobCompressor, Compression};
use crate::index_file::{self, Packs};
use crate::index_marks::{Marks, VERSION};
use crate::new_packs::{NewPacks, Taken};
use crate::pack::PackedBlob;
use crate::pack_reader::read_blobs;
use crate::parallel::{compute_threads, parallel_map};
use crate::problem::with_sources;
use crate::sealing::BlobSealer;
use crate::{Error, Event, Id, Result, Vault};

impl Prune<'_> {
    /// Tells writers which packs will go, so that they store anew what is in them alone.
    pub(super) fn mark_leaving(&mut self) -> Result<()> {
        let leaving: Vec<Id> =
            self.packs.going().filter(|pack| pack.fate == Fate::Remove).map(|pack| pack.id).collect();
        if leaving.is_empty() {
            return Ok(());
        }
        let marks = Marks { version: VERSION, leaving, unindexed: Vec::new() };
        let file = self.vault.write_file_json(FileType::Index, &index_file::encode_marks(&marks)?)?;
        self.reach.index_files.insert(file);
        self.marks.note_leaving(file);
        Ok(())
    }

    /// Writes the used blobs of all packs to be repacked into new packs, each durable and indexed in the end.
    /// A pack that cannot be read stays as it is, and is named.
    pub(super) fn repack(&mut self) -> Result<()> {
        let to_repack = self.packs.going().filter(|pack| pack.fate == Fate::Repack);
        let bytes = to_repack.map(|pack| pack.used_bytes).sum();
        self.progress.report(Event::Total { items: 0, bytes });
        // What stays is noted first: of what has another copy there, nothing needs to be written.
        let (index, vault, packs, stored) = (self.index(), self.vault, &self.packs, &self.stored);
        let reach = &mut self.reach;
        index.run(|file| {
            mark_kept(reach, packs, stored, file);
            Ok(())
        })?;
        let mut output = NewPacks::new(self.vault)?;
        self.index().run(|file| {
            let mut work: Packs = Vec::new();
            for (pack, blobs) in file {
                if self.packs.fate(pack) == Fate::Repack {
                    work.push((*pack, blobs.iter().filter(|blob| self.claim(blob)).copied().collect()));
                }
            }
            for group in work.chunks(compute_threads()) {
                let compress = self.options.repack_uncompressed && vault.config().can_compress();
                let read = |(pack, blobs): &(Id, Vec<PackedBlob>)| take_blobs(vault, pack, blobs, compress);
                for ((pack, blobs), taken) in group.iter().zip(parallel_map(compute_threads(), group, read)) {
                    self.write_repacked(pack, blobs, taken, &mut output)?;
                }
            }
            Ok(())
        })?;
        self.reach.index_files.extend(output.finish()?);
        self.keep_unsound()
    }

    /// Whether a blob is in use and nowhere among what stays; from now on it is.
    fn claim(&mut self, blob: &PackedBlob) -> bool {
        let table = &mut self.reach.table;
        let place = table.find(blob.kind, &blob.id).filter(|place| table.is(*place, Flag::Used));
        place.is_some_and(|place| table.set(place, Flag::Kept))
    }

    fn write_repacked(
        &mut self,
        pack: &Id,
        claimed: &[PackedBlob],
        taken: Result<Vec<Taken>>,
        output: &mut NewPacks<'_>,
    ) -> Result<()> {
        let taken = match taken {
            Ok(taken) => taken,
            Err(error @ Error::System { .. }) => return Err(error),
            Err(error) => {
                let file = format!("data/{pack}");
                self.problems.add(file.as_ref(), format!("it is left as it is: {}", with_sources(&error)));
                if let Some(facts) = self.packs.find_mut(pack) {
                    facts.fate = Fate::Keep;
                }
                return self.write_other_copies(claimed, output);
            }
        };
        let bytes: usize = taken.iter().map(|blob| blob.sealed.len()).sum();
        for blob in taken {
            output.add(&blob)?;
        }
        self.report.figures.packs_repacked += 1;
        self.report.figures.repacked_bytes += bytes as u64;
        self.progress.report(Event::Bytes(bytes as u64));
        Ok(())
    }

    /// Writes anew what was claimed from a pack that cannot be read and has another copy: the pack with that copy may go,
    /// and hold the only sound one.
    fn write_other_copies(&mut self, claimed: &[PackedBlob], output: &mut NewPacks<'_>) -> Result<()> {
        let vault = self.vault;
        let mut sealer = None;
        for PackedBlob { kind, id, .. } in claimed {
            let place = self.reach.table.find(*kind, id);
            if !place.is_some_and(|place| self.reach.table.is(place, Flag::Several)) {
                continue;
            }
            let plaintext = match vault.read_blob(*kind, id) {
                Ok(plaintext) => plaintext,
                // No copy of it can be read now. None may go for that: a disk may give back tomorrow what it does not today.
                Err(error) if error.is_damage() => {
                    self.unsound.insert((*kind, *id));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let sealer = match &mut sealer {
                Some(sealer) => sealer,
                None => {
                    let new = BlobSealer::new(vault.key(), vault.config().can_compress(), Compression::Auto)?;
                    sealer.insert(new)
                }
            };
            let mut sealed = Vec::new();
            let uncompressed_length = sealer.seal(*kind, *id, &plaintext, &mut sealed)?;
            output.add(&Taken { kind: *kind, id: *id, sealed, uncompressed_length })?;
        }
        Ok(())
    }
}

/// Reads blobs of a pack and checks each.
fn take_blobs(vault: &Vault, pack: &Id, blobs: &[PackedBlob], compress: bool) -> Result<Vec<Taken>> {
    let system = |source| Error::System { action: "start compressing", source };
    let mut compressor = match compress {
        true => Some(BlobCompressor::new(Compression::Auto.level()).map_err(system)?),
        false => None,
    };
    let mut taken = Vec::with_capacity(blobs.len());
    let mut frame = Vec::new();
    read_blobs(vault, pack, &mut blobs.to_vec(), |blob, sealed, plaintext| {
        let plaintext = plaintext?;
        let mut new = Taken {
            kind: blob.kind,
            id: blob.id,
            sealed: sealed.to_vec(),
            uncompressed_length: blob.uncompressed_length,
        };
        frame.clear();
        if let Some(compressor) = compressor.as_mut().filter(|_| blob.uncompressed_length == 0)
            && let Ok(length) = u32::try_from(plaintext.len())
            && compressor.compress_onto(plaintext, &mut frame).map_err(system)?
        {
            new.sealed = vault.key().seal(&frame)?;
            new.uncompressed_length = length;
            check_again(vault, &new)?;
        }
        taken.push(new);
        Ok(())
    })?;
    Ok(taken)
}

/// Opens what was sealed anew before anything relies on it.
fn check_again(vault: &Vault, blob: &Taken) -> Result<()> {
    let packed = PackedBlob {
        offset: 0,
        length: blob.sealed.len() as u32,
        uncompressed_length: blob.uncompressed_length,
        kind: blob.kind,
        id: blob.id,
    };
    let mut sealed = blob.sealed.clone();
    let mut opener = crate::vault::BlobOpener::new(vault)?;
    opener
        .open(&blob.id, &packed, &mut sealed)
        .map(drop)
        .map_err(|error| Error::ReadBack { reason: format!("blob {}: {error}", blob.id) })
}
