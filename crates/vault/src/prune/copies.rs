//! Of a blob with several copies, one that stays is read and found sound before a pack with another one goes.
//!
//! That an index file names a copy must never be what another copy is given up for: whoever may only add to a repository
//! can name a pack of noise there, and a disk may have let the one copy rot that was chosen to stay. A blob with one copy
//! costs nothing here: its pack stays, or it is read when it is written anew.

use super::Prune;
use super::plan::Fate;
use crate::blob_table::{Flag, TOUCHED_AT_ONCE};
use crate::index_file::Packs;
use crate::pack::PackedBlob;
use crate::pack_reader::read_blobs;
use crate::parallel::{compute_threads, parallel_map};
use crate::{Error, Id, Result, Vault};

impl Prune<'_> {
    /// Notes which blobs with a copy in a pack that goes have a sound one in a pack that stays; those are read for it. Whether
    /// a pack that stays has come under doubt by it: then it is to be chosen anew.
    pub(super) fn prove_copies(&mut self) -> Result<bool> {
        if !self.has_several || self.packs.going().next().is_none() {
            return Ok(false);
        }
        self.note_risks()?;
        if !self.reach.table.any(&[Flag::Risked]) {
            return Ok(false);
        }
        let (vault, mut has_doubts) = (self.vault, false);
        self.index().run(|file| {
            let work = self.copies_to_read(file);
            for group in work.chunks(compute_threads()) {
                let read = |(pack, blobs): &(Id, Vec<PackedBlob>)| sound_among(vault, pack, blobs);
                for ((pack, blobs), sound) in group.iter().zip(parallel_map(compute_threads(), group, read)) {
                    let sound = sound?;
                    // What is written anew stays nowhere yet: another copy of it must not be given up before that is done.
                    let staying: &[PackedBlob] = if self.packs.fate(pack) == Fate::Keep { &sound } else { &[] };
                    for blob in staying {
                        if let Some(place) = self.reach.table.find(blob.kind, &blob.id) {
                            self.reach.table.set(place, Flag::Kept);
                        }
                    }
                    if sound.len() < blobs.len() {
                        tracing::warn!(%pack, "a copy is damaged or can't be read; no other is given up for it");
                        self.packs.doubt(pack);
                        has_doubts = true;
                    }
                }
            }
            Ok(())
        })?;
        Ok(has_doubts)
    }

    /// Notes which used blobs have one of their copies in a pack that goes.
    fn note_risks(&mut self) -> Result<()> {
        let index = self.index();
        let (packs, table) = (&self.packs, &mut self.reach.table);
        index.run(|file| {
            for (pack, blobs) in file {
                let flags: &[Flag] = match packs.fate(pack) {
                    Fate::Keep => continue,
                    Fate::Repack => &[Flag::Risked, Flag::Rewritten],
                    Fate::Remove => &[Flag::Risked],
                };
                for group in blobs.chunks(TOUCHED_AT_ONCE) {
                    table.touch(group.iter().map(|blob| &blob.id));
                    for blob in group {
                        let Some(place) = table.find(blob.kind, &blob.id) else { continue };
                        if table.is(place, Flag::Used) && table.is(place, Flag::Several) {
                            for flag in flags {
                                table.set(place, *flag);
                            }
                        }
                    }
                }
            }
            Ok(())
        })
    }

    /// The copies of what is not known to stay yet, in packs that stay and in those that are written anew: a pack of noise
    /// must not be chosen for that either.
    fn copies_to_read(&self, file: &Packs) -> Packs {
        let table = &self.reach.table;
        let is_wanted = |blob: &&PackedBlob| {
            let place = table.find(blob.kind, &blob.id);
            place.is_some_and(|place| table.is(place, Flag::Risked) && !table.is(place, Flag::Kept))
        };
        let mut work = Packs::new();
        for (pack, blobs) in file {
            let is_trusted = self.packs.find(pack).is_some_and(|facts| facts.fate != Fate::Remove && !facts.is_doubted);
            let wanted: Vec<PackedBlob> = match is_trusted {
                true => blobs.iter().filter(is_wanted).copied().collect(),
                false => Vec::new(),
            };
            if !wanted.is_empty() {
                work.push((*pack, wanted));
            }
        }
        work
    }

    /// Takes back what was chosen; doubts stay.
    pub(super) fn choose_anew(&mut self) {
        self.packs.forget_survey();
        self.reach.table.clear(&[Flag::Claimed, Flag::Kept, Flag::Risked, Flag::Rewritten]);
    }

    /// Keeps every pack with a copy of what has no sound copy among what stays, and is not written anew either.
    pub(super) fn keep_unproven(&mut self) -> Result<()> {
        let proven = [Flag::Kept, Flag::Rewritten];
        if !self.has_several || !self.reach.table.any_without(&[Flag::Risked], &proven) {
            return Ok(());
        }
        let index = self.index();
        let (packs, table, problems) = (&mut self.packs, &self.reach.table, &self.problems);
        let is_unproven = |blob: &PackedBlob| {
            let place = table.find(blob.kind, &blob.id).filter(|place| table.is(*place, Flag::Risked));
            place.is_some_and(|place| !proven.iter().any(|flag| table.is(place, *flag)))
        };
        index.run(|file| {
            for (pack, blobs) in file {
                let Some(facts) = packs.find_mut(pack).filter(|facts| facts.fate == Fate::Remove) else { continue };
                if blobs.iter().any(is_unproven) {
                    facts.fate = Fate::Keep;
                    let reason =
                        "it is left as it is: the copies elsewhere of what it holds are damaged or can't be read";
                    problems.add(format!("data/{pack}").as_ref(), reason.into());
                }
            }
            Ok(())
        })
    }

    /// Keeps every pack with a copy of what could be read from none.
    pub(super) fn keep_unsound(&mut self) -> Result<()> {
        if self.unsound.is_empty() {
            return Ok(());
        }
        let index = self.index();
        let (packs, unsound) = (&mut self.packs, &self.unsound);
        index.run(|file| {
            for (pack, blobs) in file {
                if let Some(facts) = packs.find_mut(pack).filter(|facts| facts.fate != Fate::Keep)
                    && blobs.iter().any(|blob| unsound.contains(&(blob.kind, blob.id)))
                {
                    facts.fate = Fate::Keep;
                }
            }
            Ok(())
        })
    }
}

/// Which of a pack's blobs can be read and are what the index says.
fn sound_among(vault: &Vault, pack: &Id, blobs: &[PackedBlob]) -> Result<Vec<PackedBlob>> {
    let mut sound = Vec::with_capacity(blobs.len());
    let read = read_blobs(vault, pack, &mut blobs.to_vec(), |blob, _, plaintext| match plaintext {
        Ok(_) => {
            sound.push(*blob);
            Ok(())
        }
        Err(error) if error.is_damage() => Ok(()),
        Err(error) => Err(error),
    });
    match read {
        Ok(()) => Ok(sound),
        // What was opened before is sound all the same.
        Err(error) if error.is_damage() || matches!(error, Error::Store(levee_store::Error::Frozen { .. })) => {
            Ok(sound)
        }
        // A store that can't be reached has damaged nothing, and nothing goes before it can.
        Err(error) => Err(error),
    }
}
