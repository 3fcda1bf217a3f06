//! Freeing space where there may be none left to write an index into.

use levee_store::Error::{Denied, Full};

use super::Prune;
use super::plan::Plan;
use crate::index_file::Packs;
use crate::{Error, Lock, Result};

impl Prune<'_> {
    /// Deletes what nothing refers to, at once. `lock` is exclusive: nobody can come to need it meanwhile.
    ///
    /// At no time does an index name a pack that was deleted: the next backup would take for stored what is gone. Cut
    /// short, this leaves a sound repository, but for one case: when even the new index found no room, the index lacks
    /// packs until it is written, and `repair index` finds them.
    pub(super) fn recover_space(&mut self, plan: &Plan, lock: &Lock) -> Result<()> {
        self.report.figures = plan.figures;
        // These free space without any writing.
        self.delete(&self.unindexed(), lock)?;
        // What they say of packs and snapshots is over.
        let notes = std::mem::take(&mut self.marks.files).into_iter().chain(std::mem::take(&mut self.forgotten.files));
        self.remove_indexes(&notes.collect::<Vec<_>>(), &[lock])?;
        let going = self.stored_and_going();
        let mut written = 0;
        let rebuilt = self.rebuild_index(|packs| {
            self.write_index(packs)?;
            written += 1;
            Ok(())
        });
        match rebuilt {
            Ok(outdated) => {
                self.remove_indexes(&outdated, &[lock])?;
                self.delete(&going, lock)
            }
            // A quota is said as a refusal by some servers.
            Err(Error::Store(Full { .. } | Denied { .. })) => {
                // The files are made alike each time, so that those that found room need not be written again. The
                // others wait in memory, as large as the part of the index that they stand for.
                let (mut waiting, mut number) = (Vec::<Packs>::new(), 0);
                let outdated = self.rebuild_index(|packs| {
                    if number >= written {
                        waiting.push(packs.clone());
                    }
                    number += 1;
                    Ok(())
                })?;
                self.remove_indexes(&outdated, &[lock])?;
                let deleted = self.delete(&going, lock);
                // Also when something could not be deleted: what was removed of the index may have made room enough.
                for packs in &waiting {
                    self.write_index(packs)?;
                }
                deleted
            }
            Err(error) => Err(error),
        }
    }
}
