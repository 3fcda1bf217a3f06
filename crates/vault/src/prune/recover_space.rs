//! Freeing space where there is none left to write an index into.

use super::Prune;
use super::plan::Plan;
use crate::{Id, Lock, Result};

impl Prune<'_> {
    /// Deletes what nothing refers to, then writes the index without it. Cut short in between, the index names packs that
    /// nobody needs, and the next prune takes them out. `lock` is exclusive: nobody can come to need them meanwhile.
    pub(super) fn recover_space(&mut self, plan: &Plan, lock: &Lock) -> Result<()> {
        self.report.figures = plan.figures;
        let indexed = self.packs.going().map(|pack| pack.id).filter(|pack| self.stored.size_bytes(pack).is_some());
        let doomed: Vec<Id> = self.unindexed().into_iter().chain(indexed).collect();
        lock.check()?;
        self.delete(&doomed)?;
        // What they say of packs and snapshots is over.
        let notes = std::mem::take(&mut self.marks.files).into_iter().chain(std::mem::take(&mut self.forgotten.files));
        for file in notes {
            self.remove_index(&file)?;
        }
        let (outdated, _) = self.write_replacements()?;
        lock.check()?;
        for file in &outdated {
            self.remove_index(file)?;
        }
        Ok(())
    }
}
