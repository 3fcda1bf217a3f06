use std::collections::{HashMap, HashSet};

use crate::vault::look_while_index_files_go;
use crate::{BlobKind, Error, Id, Result, SnapshotId, Vault};

impl Vault {
    /// Which of these snapshots have data in one of these packs, or can't be read for them, or are damaged themselves.
    pub fn snapshots_hit(&self, snapshots: &[SnapshotId], packs: &HashSet<Id>) -> Result<Vec<SnapshotId>> {
        self.refresh_index()?;
        let mut search = Search { vault: self, packs, trees: HashMap::new() };
        let mut hit = Vec::new();
        for snapshot in snapshots {
            let root = match self.root_of(snapshot) {
                Ok(root) => root,
                Err(Error::SnapshotNotFound { .. }) => continue,
                // It can't be restored, and keeps nothing from being said of the others.
                Err(error) if error.is_damage() => {
                    hit.push(*snapshot);
                    continue;
                }
                Err(error) => return Err(error),
            };
            if search.is_hit(&root)? {
                hit.push(*snapshot);
            }
        }
        Ok(hit)
    }

    /// Whether one of these packs is in an index. What is in none is no part of the repository: a prune deletes it.
    pub fn any_indexed(&self, packs: &HashSet<Id>) -> Result<bool> {
        look_while_index_files_go(|| {
            let files = self.list_index_files_to_rely_on()?;
            let mut found = false;
            self.scan_index(&files, |_, file| {
                found |= file.packs.iter().any(|(pack, _)| packs.contains(pack));
                Ok(())
            })?;
            Ok(found)
        })
    }
}

struct Search<'a> {
    vault: &'a Vault,
    packs: &'a HashSet<Id>,
    /// Snapshots share most of their trees, and each is looked at once.
    trees: HashMap<Id, bool>,
}

impl Search<'_> {
    fn is_hit(&mut self, root: &Id) -> Result<bool> {
        // Of its own accord a stack, so that depth is bounded by memory alone.
        let mut open = vec![(*root, false)];
        while let Some((tree, children_done)) = open.pop() {
            if self.trees.contains_key(&tree) {
                continue;
            }
            if self.lies_in(BlobKind::Tree, &tree)? {
                self.trees.insert(tree, true);
                continue;
            }
            let content = match self.vault.tree(&tree) {
                Ok(content) => content,
                Err(Error::Damaged { .. } | Error::MissingBlob { .. }) => {
                    self.trees.insert(tree, true);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let subtrees: Vec<Id> = content.nodes().iter().filter_map(|node| node.subtree).collect();
            if !children_done {
                open.push((tree, true));
                open.extend(subtrees.iter().map(|subtree| (*subtree, false)));
                continue;
            }
            let mut is_hit = subtrees.iter().any(|subtree| self.trees.get(subtree).copied().unwrap_or(true));
            for blob in content.nodes().iter().flat_map(|node| node.blobs()) {
                is_hit = is_hit || self.lies_in(BlobKind::Data, blob)?;
            }
            self.trees.insert(tree, is_hit);
        }
        Ok(self.trees.get(root).copied().unwrap_or(true))
    }

    fn lies_in(&self, kind: BlobKind, id: &Id) -> Result<bool> {
        match self.vault.blob_location(kind, id) {
            Ok(location) => Ok(self.packs.contains(&location.pack)),
            Err(Error::MissingBlob { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }
}
