//! Going through index files pack by pack.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::index_file::Packs;
use crate::pack::PackedBlob;
use crate::{Id, Result, Vault};

/// Index files to go through, in the order of their names.
pub(super) struct IndexScan<'a> {
    pub vault: &'a Vault,
    pub files: Vec<Id>,
    /// Packs that stand in several index files: an interrupted prune leaves such.
    pub doubled: Arc<HashSet<Id>>,
    /// Packs that are to be taken for indexed although they are not.
    pub adopted: Packs,
}

impl IndexScan<'_> {
    /// Hands over every pack once, a file's worth at a time. What several files say of one pack is put
    /// together: one alone might say a part of it, and the rest would be lost.
    pub fn run(mut self, mut visit: impl FnMut(&Packs) -> Result<()>) -> Result<()> {
        let mut merged: BTreeMap<Id, Vec<PackedBlob>> = BTreeMap::new();
        self.vault.scan_index(&self.files, |_, mut file| {
            if !self.doubled.is_empty() {
                let (doubled, single) = file.packs.into_iter().partition(|(pack, _)| self.doubled.contains(pack));
                file.packs = single;
                let doubled: Packs = doubled;
                for (pack, blobs) in doubled {
                    merged.entry(pack).or_default().extend(blobs);
                }
            }
            visit(&file.packs)
        })?;
        for blobs in merged.values_mut() {
            blobs.sort_unstable();
            blobs.dedup();
        }
        visit(&merged.into_iter().collect())?;
        visit(&std::mem::take(&mut self.adopted))
    }
}
