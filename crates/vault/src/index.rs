//! Which pack holds which blob: in memory a sorted list, 48 bytes for each blob.

use std::collections::{HashMap, HashSet};

use crate::index_file::IndexFile;
use crate::pack::PackedBlob;
use crate::{BlobKind, Id, index_marks};

/// New blobs go into a map first; when it has grown to this share of the list, it is merged into it.
const MERGE_SHARE: usize = 8;
const MERGE_AT_LEAST: usize = 4096;

/// Where a blob lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    pub pack: Id,
    pub blob: PackedBlob,
}

#[derive(Clone, Copy)]
struct Entry {
    id: Id,
    /// The pack's number, and the kind in the highest bit.
    pack_and_kind: u32,
    offset: u32,
    length: u32,
    uncompressed_length: u32,
}

const TREE_BIT: u32 = 1 << 31;

impl Entry {
    fn new(pack: u32, blob: &PackedBlob) -> Self {
        let kind = if blob.kind == BlobKind::Tree { TREE_BIT } else { 0 };
        Self {
            id: blob.id,
            pack_and_kind: pack | kind,
            offset: blob.offset,
            length: blob.length,
            uncompressed_length: blob.uncompressed_length,
        }
    }

    fn kind(&self) -> BlobKind {
        if self.pack_and_kind & TREE_BIT == 0 { BlobKind::Data } else { BlobKind::Tree }
    }

    fn pack(&self) -> u32 {
        self.pack_and_kind & !TREE_BIT
    }

    fn blob(&self) -> PackedBlob {
        PackedBlob {
            offset: self.offset,
            length: self.length,
            uncompressed_length: self.uncompressed_length,
            kind: self.kind(),
            id: self.id,
        }
    }

    fn key(&self) -> (Id, BlobKind, u32) {
        (self.id, self.kind(), self.pack())
    }
}

/// The index of a repository.
#[derive(Default)]
pub(crate) struct Index {
    packs: Vec<Id>,
    sorted: Vec<Entry>,
    recent: HashMap<(Id, BlobKind), Entry>,
    /// What lies in packs of trees, so that a tree can be read together with its neighbours.
    tree_packs: HashMap<Id, Vec<PackedBlob>>,
    /// The index files whose content is in here.
    files: HashSet<Id>,
    /// Packs that a prune is about to remove, because no snapshot referred to them when it looked.
    leaving: HashSet<Id>,
}

impl Index {
    pub fn files(&self) -> &HashSet<Id> {
        &self.files
    }

    /// Takes in a whole index file.
    pub fn add_file(&mut self, id: Id, file: &IndexFile) {
        self.add(id, &file.packs);
        if let Some(marks) = file.marks.as_ref().filter(|marks| marks.version == index_marks::VERSION) {
            self.leaving.extend(&marks.leaving);
        }
    }

    /// Takes in what an index file says of packs.
    pub fn add(&mut self, file: Id, packs: &[(Id, Vec<PackedBlob>)]) {
        if !self.files.insert(file) {
            return;
        }
        for (pack, blobs) in packs {
            // Two thousand million packs would need an index of terabytes.
            let number = self.packs.len() as u32 & !TREE_BIT;
            self.packs.push(*pack);
            for blob in blobs {
                self.recent.insert((blob.id, blob.kind), Entry::new(number, blob));
            }
            let trees: Vec<_> = blobs.iter().filter(|blob| blob.kind == BlobKind::Tree).copied().collect();
            if !trees.is_empty() {
                self.tree_packs.insert(*pack, trees);
            }
            if self.recent.len() > MERGE_AT_LEAST.max(self.sorted.len() / MERGE_SHARE) {
                self.merge();
            }
        }
    }

    fn merge(&mut self) {
        self.sorted.extend(self.recent.drain().map(|(_, entry)| entry));
        self.sorted.sort_unstable_by_key(Entry::key);
        self.sorted.dedup_by_key(|entry| entry.key());
    }

    fn sorted_entries(&self, kind: BlobKind, id: &Id) -> &[Entry] {
        let start = self.sorted.partition_point(|entry| (&entry.id, entry.kind()) < (id, kind));
        let count = self.sorted[start..].iter().take_while(|entry| entry.id == *id && entry.kind() == kind).count();
        &self.sorted[start..start + count]
    }

    pub fn contains(&self, kind: BlobKind, id: &Id) -> bool {
        self.recent.contains_key(&(*id, kind)) || !self.sorted_entries(kind, id).is_empty()
    }

    /// Whether a copy lies in a pack that is not about to be removed.
    pub fn contains_to_stay(&self, kind: BlobKind, id: &Id) -> bool {
        if self.leaving.is_empty() {
            return self.contains(kind, id);
        }
        self.locations(kind, id).iter().any(|location| !self.leaving.contains(&location.pack))
    }

    /// Every known copy of a blob.
    pub fn locations(&self, kind: BlobKind, id: &Id) -> Vec<Location> {
        let recent = self.recent.get(&(*id, kind));
        recent
            .into_iter()
            .chain(self.sorted_entries(kind, id))
            .map(|entry| Location { pack: self.packs[entry.pack() as usize], blob: entry.blob() })
            .collect()
    }

    pub fn location(&self, kind: BlobKind, id: &Id) -> Option<Location> {
        let entry = self.recent.get(&(*id, kind)).or_else(|| self.sorted_entries(kind, id).first())?;
        Some(Location { pack: self.packs[entry.pack() as usize], blob: entry.blob() })
    }

    /// The trees that lie in a pack, in their order.
    pub fn trees_in(&self, pack: &Id) -> &[PackedBlob] {
        self.tree_packs.get(pack).map(Vec::as_slice).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_are_found_before_and_after_merging() {
        let blob = |number: u32, kind| PackedBlob {
            offset: number * 100,
            length: 100,
            uncompressed_length: 0,
            kind,
            id: Id::of(&number.to_le_bytes()),
        };
        let mut index = Index::default();
        for file in 0..20_u32 {
            let blobs = (0..1000).map(|n| blob(file * 1000 + n, BlobKind::Data)).collect();
            index.add(Id::of(&[file as u8, 1]), &[(Id::of(&[file as u8]), blobs)]);
        }
        index.add(Id::of(b"trees"), &[(Id::of(b"pack"), vec![blob(5, BlobKind::Tree)])]);
        index.add(Id::of(b"again"), &[(Id::of(b"copy"), vec![blob(5, BlobKind::Data)])]);
        index.merge();
        assert_eq!(index.sorted.len(), 20_002);
        for number in 0..20_000_u32 {
            let id = Id::of(&number.to_le_bytes());
            let location = index.location(BlobKind::Data, &id).unwrap();
            assert_eq!(location.blob.offset, number * 100);
        }
        assert_eq!(index.locations(BlobKind::Data, &Id::of(&5_u32.to_le_bytes())).len(), 2);
        assert!(index.contains(BlobKind::Tree, &Id::of(&5_u32.to_le_bytes())));
        assert!(!index.contains(BlobKind::Tree, &Id::of(&6_u32.to_le_bytes())));
        assert_eq!(index.trees_in(&Id::of(b"pack")).len(), 1);
    }
}
