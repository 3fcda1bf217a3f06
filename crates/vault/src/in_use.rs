//! Which packs hold something that a snapshot refers to.

use std::collections::BTreeSet;

use levee_store::FileType;

use crate::blob_table::Flag;
use crate::reach::Reach;
use crate::vault::look_while_index_files_go;
use crate::{BlobKind, Id, Result, Vault};

impl Vault {
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
