//! Making the best of a damaged repository.
//!
//! Nothing is changed unless `apply` is set, and even then nothing is deleted but index files that others
//! replace and, when it is asked for, snapshots: a pack that is given up stays in the store, in no index,
//! until a prune removes it after its time of grace.

mod index;
#[cfg(test)]
mod lost_lock;
mod packs;
mod snapshots;

use std::collections::HashSet;
use std::time::Duration;

use levee_store::FileType;

pub use index::{IndexRepair, repair_index};
pub use packs::{PackRepair, repair_packs};
pub use snapshots::{SnapshotRepair, SnapshotRepairOptions, repair_snapshots};

use crate::index_file::{self, BLOBS_PER_FILE, Packs};
use crate::{Id, Lock, LockMode, Result, Vault};

/// Whether to change anything, and how long to wait for others' locks.
#[derive(Clone, Copy, Debug, Default)]
pub struct RepairOptions {
    pub apply: bool,
    pub patience: Duration,
}

impl RepairOptions {
    fn lock(&self, vault: &Vault) -> Result<Option<Lock>> {
        self.apply.then(|| Lock::take_within(vault, LockMode::Exclusive, self.patience)).transpose()
    }
}

/// Writes anew those of the `readable` index files that name any of these packs, without them, and removes
/// the old ones and the unreadable ones. The new ones are durable before.
fn rewrite_index_without(
    vault: &Vault,
    packs: &HashSet<Id>,
    readable: &[Id],
    unreadable: &[Id],
    lock: &Lock,
) -> Result<()> {
    let mut outdated = unreadable.to_vec();
    let mut pending = Packs::new();
    vault.scan_index(readable, |id, file| {
        if file.packs.iter().any(|(pack, _)| packs.contains(pack)) {
            outdated.push(*id);
            pending.extend(file.packs.into_iter().filter(|(pack, _)| !packs.contains(pack)));
            if pending.iter().map(|(_, blobs)| blobs.len()).sum::<usize>() >= BLOBS_PER_FILE {
                write_index(vault, &std::mem::take(&mut pending))?;
            }
        }
        Ok(())
    })?;
    write_index(vault, &pending)?;
    for file in outdated {
        lock.check()?;
        vault.remove_index_file(&file)?;
    }
    vault.expect_other_index();
    Ok(())
}

fn write_index(vault: &Vault, packs: &Packs) -> Result<()> {
    if !packs.is_empty() {
        vault.write_file_json(FileType::Index, &index_file::encode(packs)?)?;
    }
    Ok(())
}
