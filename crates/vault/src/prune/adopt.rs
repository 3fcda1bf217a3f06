//! Bringing back what a snapshot refers to after all.
//!
//! A writer that was suspended for hours, and whose lock was removed, may come back with an index of old and
//! refer to packs that a prune has taken out of the index since. They are still there: that is what the time
//! of grace is for.

use levee_store::FileType;

use super::Prune;
use crate::index_file::{self, Packs};
use crate::pack::read_header;
use crate::reread::Reread;
use crate::{BlobKind, Id, Result};

impl Prune<'_> {
    /// Walks trees, and indexes again the packs that hold what is missing in the index. Fails when
    /// something is nowhere: then it is not known what else is needed.
    pub(super) fn walk_and_adopt(&mut self, mut wanted: Vec<(BlobKind, Id)>) -> Result<()> {
        loop {
            // Packs that a late index file names are read for nothing else: one listing more is less than all of them.
            let (marks, forgotten, mut late) = (&mut self.marks, &mut self.forgotten, Vec::new());
            let missing = self.reach.mark_patiently(
                &wanted,
                &mut self.patience,
                |_, _| (),
                |id, file| {
                    marks.take(id, file);
                    forgotten.take(id, file);
                    late.extend(file.packs.iter().map(|(pack, _)| *pack));
                },
            )?;
            late.into_iter().for_each(|pack| self.packs.add(pack));
            if missing.is_empty() {
                return Ok(());
            }
            let found = self.find_unindexed(&|kind, id| missing.contains(kind, id))?;
            let first = missing.first(self.vault);
            if found.is_empty()
                && let Some(error) = first
            {
                return Err(error);
            }
            tracing::warn!(packs = found.len(), "snapshots refer to packs that no index names; they are indexed again");
            self.report.packs_readopted += found.len() as u64;
            for (pack, blobs) in &found {
                self.reach.take_pack(*pack, blobs);
                self.packs.add(*pack);
                self.marks.forget(pack);
            }
            if !self.options.dry_run {
                let file = self.vault.write_file_json(FileType::Index, &index_file::encode(&found)?)?;
                self.reach.index_files.insert(file);
            } else {
                self.adopted_unwritten.extend(found);
            }
            if missing.is_cut_off
                && let Some(error) = missing.first(self.vault)
            {
                // What was found is in the index now; the next prune walks everything again.
                return Err(error);
            }
            wanted = missing.all();
        }
    }

    /// Unindexed packs that hold a blob of interest. Unreadable and damaged ones are left out: a repair has taken them
    /// out of the index, and back in it they would hide that something is lost.
    pub(super) fn find_unindexed(&self, is_wanted: &dyn Fn(BlobKind, &Id) -> bool) -> Result<Packs> {
        let mut found = Packs::new();
        for pack in self.unindexed() {
            let Some(size) = self.stored.size_bytes(&pack) else { continue };
            let name = pack.to_hex();
            let read = |offset, length| Ok(self.vault.store().read_range(FileType::Data, &name, offset, length)?);
            match read_header(self.vault.key(), size, read) {
                Ok(Ok(mut blobs)) if blobs.iter().any(|blob| is_wanted(blob.kind, &blob.id)) => {
                    if self.is_sound(&pack) {
                        blobs.sort_unstable();
                        found.push((pack, blobs));
                    }
                }
                Ok(Ok(_)) => {}
                Ok(Err(problem)) => tracing::warn!(pack = name, problem, "an unindexed pack cannot be read"),
                Err(error) => tracing::warn!(pack = name, %error, "an unindexed pack cannot be read"),
            }
        }
        Ok(found)
    }

    fn is_sound(&self, pack: &Id) -> bool {
        match self.vault.reread(pack) {
            Ok(Reread::Sound { .. }) => true,
            Ok(Reread::Gone) => false,
            Ok(Reread::Damaged { problems }) => {
                let problem = problems.first().map_or("", String::as_str);
                tracing::warn!(%pack, problem, "a snapshot refers to an unindexed pack that is damaged; it is left out");
                false
            }
            Err(error) => {
                tracing::warn!(%pack, %error, "an unindexed pack cannot be read");
                false
            }
        }
    }
}
