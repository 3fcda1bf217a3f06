//! Which packs hold something that a snapshot refers to.

use std::collections::BTreeSet;

use levee_store::FileType;

use crate::blob_table::Flag;
use crate::reach::Reach;
use crate::vault::look_while_index_files_go;
use crate::{BlobKind, Id, Result, Vault};

/// What an object lock is to be renewed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToRetain {
    /// Packs come last: an index or a snapshot without a retention is worth less than they are.
    pub files: Vec<(FileType, String)>,
    /// Packs that no snapshot refers to: their retention runs out, and a prune can free them.
    pub packs_left: u64,
}

impl Vault {
    /// Every file that this repository needs, lock files aside.
    pub fn files_to_retain(&self) -> Result<ToRetain> {
        let in_use = self.packs_in_use()?;
        let mut to_retain = ToRetain::default();
        for file_type in [FileType::Config, FileType::Key, FileType::Snapshot, FileType::Index, FileType::Data] {
            for entry in self.store().list(file_type)? {
                let is_needed = file_type != FileType::Data || entry.name.parse().is_ok_and(|id| in_use.contains(&id));
                match is_needed {
                    true => to_retain.files.push((file_type, entry.name)),
                    false => to_retain.packs_left += 1,
                }
            }
        }
        Ok(to_retain)
    }

    /// The packs that hold a blob which a snapshot refers to; of a blob that stands in several, each of them.
    pub fn packs_in_use(&self) -> Result<BTreeSet<Id>> {
        look_while_index_files_go(|| self.look_for_packs_in_use())
    }

    fn look_for_packs_in_use(&self) -> Result<BTreeSet<Id>> {
        // Snapshots before the index: what a snapshot names was indexed before it was written.
        let roots = self.snapshots()?.into_iter().map(|(id, snapshot)| {
            let tree = snapshot.tree;
            tree.ok_or_else(|| self.damaged(FileType::Snapshot, &id.0.to_hex(), "it names no tree"))
        });
        let roots: Vec<(BlobKind, Id)> = roots.map(|tree| Ok((BlobKind::Tree, tree?))).collect::<Result<_>>()?;
        let mut reach = Reach::load(self, |_, _| ())?;
        if let Some(error) = reach.mark(&roots, |_, _| ())?.first(self) {
            return Err(error);
        }
        let mut in_use = BTreeSet::new();
        let files: Vec<Id> = reach.index_files.iter().copied().collect();
        self.scan_index(&files, |_, file| {
            for (pack, blobs) in &file.packs {
                let is_used = |place| reach.table.is(place, Flag::Used);
                if blobs.iter().any(|blob| reach.table.find(blob.kind, &blob.id).is_some_and(is_used)) {
                    in_use.insert(*pack);
                }
            }
            Ok(())
        })?;
        Ok(in_use)
    }
}
