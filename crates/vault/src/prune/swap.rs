//! The one step that nobody may come between: the index gets along without the packs that go.

use std::collections::HashSet;

use levee_store::FileType;

use super::Prune;
use super::index_scan::IndexScan;
use super::plan::Fate;
use crate::forgotten::{self, Record};
use crate::index_file::{self, BLOBS_PER_FILE, Packs};
use crate::{BlobKind, Id, Lock, Result};

impl Prune<'_> {
    /// Takes the packs that go out of the index, and says which packs may now be deleted: those that are in
    /// no index while nobody else is at work, and were in none a time of grace ago.
    pub(super) fn swap(&mut self, lock: &Lock) -> Result<Vec<Id>> {
        // Written before the lock, since it does no harm that a pack stands in two index files for a while.
        let (outdated, replacements) = self.write_replacements()?;
        let unindexed = self.unindexed();
        let (due, _) = self.marks.split_due(&unindexed, self.options.grace, self.now);
        let nothing_to_do = outdated.is_empty() && due.is_empty() && self.forgotten_now().is_none();
        if nothing_to_do && self.marks.wanted(&unindexed, self.now).is_none() {
            let (_, waiting) = self.marks.split_due(&unindexed, self.options.grace, self.now);
            self.count_waiting(&waiting);
            self.report.figures.packs_kept = self.packs.iter().count() as u64;
            return Ok(Vec::new());
        }
        let exclusive = lock.exclusively(self.options.patience)?;
        self.reach.index_files.extend(&replacements);
        self.look_again()?;
        self.rescue(&outdated)?;
        self.remove_indexes(&outdated, &[&exclusive, lock])?;
        let deletions = self.write_marks(&exclusive)?;
        self.write_forgotten(&exclusive)?;
        drop(exclusive);
        Ok(deletions)
    }

    /// Writes index files that say of the packs that stay what those files say that name packs that go, and
    /// gives both: the ones to be removed, and the new ones.
    fn write_replacements(&self) -> Result<(Vec<Id>, Vec<Id>)> {
        let mut replacements = Vec::new();
        let outdated = self.rebuild_index(|packs| {
            replacements.push(self.write_index(packs)?);
            Ok(())
        })?;
        Ok((outdated, replacements))
    }

    /// Gives the index files that name packs that go, and hands over what they say of the packs that stay, as much at a
    /// time as belongs into one file.
    pub(super) fn rebuild_index(&self, mut each: impl FnMut(&Packs) -> Result<()>) -> Result<Vec<Id>> {
        let mut outdated = Vec::new();
        let mut index = self.index();
        if self.packs.going().next().is_none() && index.doubled.is_empty() {
            return Ok(outdated);
        }
        self.vault.scan_index(&index.files, |id, file| {
            let stands = |pack: &Id| self.packs.fate(pack) == Fate::Keep && !index.doubled.contains(pack);
            if !file.packs.iter().all(|(pack, _)| stands(pack)) {
                outdated.push(*id);
            }
            Ok(())
        })?;
        index.files = outdated.clone();
        let mut pending = Packs::new();
        let mut pending_blobs = 0;
        index.run(|file| {
            for (pack, blobs) in file.iter().filter(|(pack, _)| self.packs.fate(pack) == Fate::Keep) {
                pending_blobs += blobs.len();
                pending.push((*pack, blobs.clone()));
                if pending_blobs >= BLOBS_PER_FILE {
                    each(&std::mem::take(&mut pending))?;
                    pending_blobs = 0;
                }
            }
            Ok(())
        })?;
        if !pending.is_empty() {
            each(&pending)?;
        }
        Ok(outdated)
    }

    pub(super) fn write_index(&self, packs: &Packs) -> Result<Id> {
        self.vault.write_file_json(FileType::Index, &index_file::encode(packs)?)
    }

    /// Takes in what others have added since the first look: they have ended, and nobody new can begin.
    fn look_again(&mut self) -> Result<()> {
        let snapshots = super::with_forgotten_as_stored(self.vault, &self.forgotten, self.vault.snapshots()?)?;
        let mut named: Packs = Vec::new();
        self.reach.load_new(|_, file| named.extend(file.packs.iter().cloned()))?;
        self.keep(std::mem::take(&mut named));
        let roots = self.roots(&snapshots)?;
        let mut newly_used: HashSet<(BlobKind, Id)> = HashSet::new();
        let found = |kind, id| {
            newly_used.insert((kind, id));
        };
        let missing = self.reach.mark_patiently(&roots, &mut self.patience, found, |_, file| {
            named.extend(file.packs.iter().cloned());
        })?;
        self.keep(named);
        if let Some(error) = missing.first(self.vault) {
            // The next prune looks for it among the packs that are in no index.
            return Err(error);
        }
        newly_used.retain(|(kind, id)| !self.is_kept(*kind, id));
        self.newly_used = newly_used;
        Ok(())
    }

    /// Keeps packs that others name in index files of their own.
    fn keep(&mut self, named: Packs) {
        for (pack, blobs) in named {
            self.packs.add(pack);
            self.marks.forget(&pack);
            if let Some(facts) = self.packs.find_mut(&pack) {
                facts.fate = Fate::Keep;
            }
            super::plan::mark_kept(&mut self.reach, &self.packs, &self.stored, &[(pack, blobs)]);
        }
    }

    /// Keeps the packs that hold what new snapshots refer to and what is in no pack that stays.
    fn rescue(&mut self, outdated: &[Id]) -> Result<()> {
        let wanted = std::mem::take(&mut self.newly_used);
        if wanted.is_empty() {
            return Ok(());
        }
        let mut rescued = Packs::new();
        let index = IndexScan { files: outdated.to_vec(), ..self.index() };
        index.run(|file| {
            for (pack, blobs) in file.iter().filter(|(pack, _)| self.packs.fate(pack) != Fate::Keep) {
                if blobs.iter().any(|blob| wanted.contains(&(blob.kind, blob.id))) {
                    rescued.push((*pack, blobs.clone()));
                }
            }
            Ok(())
        })?;
        for (pack, _) in &rescued {
            if let Some(facts) = self.packs.find_mut(pack) {
                facts.fate = Fate::Keep;
            }
        }
        if !rescued.is_empty() {
            let file = self.write_index(&rescued)?;
            self.reach.index_files.insert(file);
        }
        Ok(())
    }

    /// Removes index files, as long as these locks are held.
    pub(super) fn remove_indexes(&mut self, files: &[Id], locks: &[&Lock]) -> Result<()> {
        for file in files {
            locks.iter().try_for_each(|lock| lock.check())?;
            self.remove_index(file)?;
        }
        Ok(())
    }

    fn remove_index(&mut self, file: &Id) -> Result<()> {
        self.vault.remove_index_file(file)?;
        self.reach.index_files.remove(file);
        Ok(())
    }

    /// What the records of forgotten snapshots ought to be; `None` when they are so.
    fn forgotten_now(&self) -> Option<Vec<Record>> {
        self.forgotten.wanted(|id| self.walked.contains(id), self.options.grace, self.now)
    }

    /// Notes that a prune has seen the forgotten snapshots, and lets go of those whose grace is over.
    fn write_forgotten(&mut self, exclusive: &Lock) -> Result<()> {
        let Some(records) = self.forgotten_now() else { return Ok(()) };
        let new = forgotten::write(self.vault, &records)?;
        let mut old = std::mem::take(&mut self.forgotten.files);
        old.retain(|file| !new.contains(file));
        self.remove_indexes(&old, &[exclusive])
    }

    /// Notes which packs are in no index now, in place of earlier marks.
    fn write_marks(&mut self, exclusive: &Lock) -> Result<Vec<Id>> {
        let going: Vec<(Id, u64)> = self.packs.going().map(|pack| (pack.id, pack.bytes)).collect();
        let mut unindexed = self.unindexed();
        for (pack, bytes) in &going {
            self.report.figures.packs_removed += 1;
            self.report.figures.removed_bytes += bytes;
            // From now on; what an earlier mark said was before it came into an index again.
            self.marks.forget(pack);
            if self.stored.size_bytes(pack).is_some() {
                unindexed.push(*pack);
            }
        }
        self.report.figures.packs_kept = self.packs.iter().count() as u64 - going.len() as u64;
        unindexed.sort();
        if let Some(marks) = self.marks.wanted(&unindexed, self.now) {
            let new = match marks.unindexed.is_empty() {
                true => None,
                false => Some(self.vault.write_file_json(FileType::Index, &index_file::encode_marks(&marks)?)?),
            };
            let mut old = std::mem::take(&mut self.marks.files);
            old.retain(|file| Some(*file) != new);
            self.remove_indexes(&old, &[exclusive])?;
        }
        let (due, waiting) = self.marks.split_due(&unindexed, self.options.grace, self.now);
        self.count_waiting(&waiting);
        Ok(due)
    }
}
