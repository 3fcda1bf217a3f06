//! Which pack holds which blob: 36 bytes of memory for each blob.
//!
//! Fifty million blobs must leave room for other things in 2 GiB. So of an id only the first 24 bytes are kept
//! (two blobs that share them would take 2^96 tries to make, and whoever reads one compares its whole hash), and
//! no offset: blobs lie in a pack without a gap, so that the lengths before a blob give it.

mod places;
mod sorted;

use std::collections::{HashMap, HashSet};

use crate::index_file::IndexFile;
use crate::pack::PackedBlob;
use crate::{BlobKind, Id, index_marks};
use places::Places;
use sorted::Sorted;

const PREFIX_BYTES: usize = 24;
/// Blobs that come one file after the other go into a map; when it has grown to this share of the list, they
/// are sorted into it.
const MERGE_SHARE: usize = 8;
const MERGE_AT_LEAST: usize = 4096;
/// A map takes twice the memory of the list.
const MERGE_AT_MOST: usize = 1 << 20;

type Prefix = [u8; PREFIX_BYTES];

/// Where a blob lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    pub pack: Id,
    pub blob: PackedBlob,
}

#[derive(Clone, Copy)]
struct Entry {
    prefix: Prefix,
    /// The blob's number in `Places`, and the kind in the highest bit.
    number_and_kind: u32,
}

const TREE_BIT: u32 = 1 << 31;

fn key_of(kind: BlobKind, id: &Id) -> (Prefix, u32) {
    let mut prefix = [0; PREFIX_BYTES];
    prefix.copy_from_slice(&id.as_bytes()[..PREFIX_BYTES]);
    (prefix, if kind == BlobKind::Tree { TREE_BIT } else { 0 })
}

impl Entry {
    fn key(&self) -> (Prefix, u32) {
        (self.prefix, self.number_and_kind & TREE_BIT)
    }

    fn number(&self) -> u32 {
        self.number_and_kind & !TREE_BIT
    }
}

/// The index of a repository.
#[derive(Default)]
pub(crate) struct Index {
    places: Places,
    /// What was loaded waits in it, and is not to be found before `settle`.
    sorted: Sorted,
    /// What has come since.
    recent: HashMap<(Prefix, u32), Vec<u32>>,
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

    /// Takes in a whole index file. What it says is found after `settle`.
    pub fn load(&mut self, id: Id, file: &IndexFile) {
        if self.files.insert(id) {
            self.take(&file.packs, |index, entry| index.sorted.push(entry));
        }
        if let Some(marks) = file.marks.as_ref().filter(|marks| marks.version == index_marks::VERSION) {
            self.leaving.extend(&marks.leaving);
        }
    }

    /// Makes what was loaded ready to be asked.
    pub fn settle(&mut self) {
        if self.recent.len() + self.sorted.waiting() > self.recent_max() {
            return self.sorted.settle();
        }
        for entry in self.sorted.take_waiting() {
            self.recent.entry(entry.key()).or_default().push(entry.number());
        }
    }

    /// How many blobs may wait in the map.
    fn recent_max(&self) -> usize {
        (self.sorted.len() / MERGE_SHARE).clamp(MERGE_AT_LEAST, MERGE_AT_MOST)
    }

    /// Takes in what an index file says of packs, to be found at once.
    pub fn add(&mut self, file: Id, packs: &[(Id, Vec<PackedBlob>)]) {
        if !self.files.insert(file) {
            return;
        }
        self.take(packs, |index, entry| {
            index.recent.entry(entry.key()).or_default().push(entry.number());
        });
        if self.recent.len() > self.recent_max() {
            self.merge();
        }
    }

    fn take(&mut self, packs: &[(Id, Vec<PackedBlob>)], mut note: impl FnMut(&mut Self, Entry)) {
        for (pack, blobs) in packs {
            let first = self.places.add(*pack, blobs);
            for (number, blob) in (first..).zip(blobs) {
                let (prefix, kind) = key_of(blob.kind, &blob.id);
                note(self, Entry { prefix, number_and_kind: number | kind });
            }
            let trees: Vec<_> = blobs.iter().filter(|blob| blob.kind == BlobKind::Tree).copied().collect();
            if !trees.is_empty() {
                self.tree_packs.insert(*pack, trees);
            }
        }
    }

    fn merge(&mut self) {
        let recent = std::mem::take(&mut self.recent);
        for ((prefix, kind), numbers) in recent {
            numbers.iter().for_each(|number| self.sorted.push(Entry { prefix, number_and_kind: number | kind }));
        }
        self.sorted.settle();
    }

    /// How many blobs there are, each counted once.
    pub fn distinct_blobs(&self) -> usize {
        self.sorted.keys().filter(|key| !self.recent.contains_key(key)).count() + self.recent.len()
    }

    pub fn contains(&self, kind: BlobKind, id: &Id) -> bool {
        let key = key_of(kind, id);
        !self.sorted.find(&key).is_empty() || self.recent.contains_key(&key)
    }

    /// Whether a copy lies in a pack that is not about to be removed.
    pub fn contains_to_stay(&self, kind: BlobKind, id: &Id) -> bool {
        if self.leaving.is_empty() {
            return self.contains(kind, id);
        }
        self.locations(kind, id).iter().any(|location| !self.leaving.contains(&location.pack))
    }

    /// Every known copy of a blob, the newest first.
    pub fn locations(&self, kind: BlobKind, id: &Id) -> Vec<Location> {
        let key = key_of(kind, id);
        let recent = self.recent.get(&key).into_iter().flatten().copied();
        let sorted = self.sorted.find(&key).iter().map(Entry::number);
        recent.rev().chain(sorted.rev()).map(|number| self.places.location(number, kind, id)).collect()
    }

    pub fn location(&self, kind: BlobKind, id: &Id) -> Option<Location> {
        self.numbered_location(kind, id).map(|(_, location)| location)
    }

    /// The same with the number of the copy that was found. As long as nothing is taken in, a blob is found under one number,
    /// and no other blob is found under it.
    pub fn numbered_location(&self, kind: BlobKind, id: &Id) -> Option<(u32, Location)> {
        let key = key_of(kind, id);
        let recent = self.recent.get(&key).and_then(|numbers| numbers.last()).copied();
        let number = recent.or_else(|| self.sorted.find(&key).last().map(Entry::number))?;
        Some((number, self.places.location(number, kind, id)))
    }

    /// Every blob's number is below this.
    pub fn numbers_end(&self) -> usize {
        self.places.len()
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
            offset: number % 1000 * 100,
            length: 100,
            uncompressed_length: 0,
            kind,
            id: Id::of(&number.to_le_bytes()),
        };
        let pack = |file: u32| {
            let blobs: Vec<_> = (0..1000).map(|number| blob(file * 1000 + number, BlobKind::Data)).collect();
            (Id::of(&[file as u8]), blobs)
        };
        let mut index = Index::default();
        for file in 0..10 {
            let content = IndexFile { packs: vec![pack(file)], ..IndexFile::default() };
            index.load(Id::of(&[file as u8, 1]), &content);
        }
        assert!(!index.contains(BlobKind::Data, &Id::of(&1_u32.to_le_bytes())), "found before it is settled");
        index.settle();
        for file in 10..20 {
            index.add(Id::of(&[file as u8, 1]), &[pack(file)]);
        }
        index.add(Id::of(b"trees"), &[(Id::of(b"pack"), vec![blob(0, BlobKind::Tree)])]);
        index.add(Id::of(b"again"), &[(Id::of(b"copy"), vec![blob(0, BlobKind::Data)])]);
        for merged in [false, true] {
            for number in 0..20_000_u32 {
                let id = Id::of(&number.to_le_bytes());
                let location = index.location(BlobKind::Data, &id).unwrap();
                assert_eq!(location.blob, blob(number, BlobKind::Data), "{number}");
                let file = Id::of(&[(number / 1000) as u8]);
                assert_eq!(location.pack, if number == 0 { Id::of(b"copy") } else { file });
            }
            assert_eq!(index.locations(BlobKind::Data, &Id::of(&0_u32.to_le_bytes())).len(), 2);
            assert!(index.contains(BlobKind::Tree, &Id::of(&0_u32.to_le_bytes())));
            let number_of = |number: u32| {
                let id = Id::of(&number.to_le_bytes());
                index.numbered_location(BlobKind::Data, &id).unwrap().0
            };
            let numbers: HashSet<u32> = (0..20_000).map(number_of).collect();
            assert_eq!(numbers.len(), 20_000);
            assert!(numbers.iter().all(|number| (*number as usize) < index.numbers_end()));
            assert_eq!(index.distinct_blobs(), 20_001);
            assert!(!index.contains(BlobKind::Tree, &Id::of(&6_u32.to_le_bytes())));
            assert!(!index.contains(BlobKind::Data, &Id::of(&20_000_u32.to_le_bytes())));
            assert_eq!(index.trees_in(&Id::of(b"pack")).len(), 1);
            if !merged {
                index.merge();
                assert_eq!((index.sorted.len(), index.recent.len()), (20_002, 0));
            }
        }
        assert_eq!(size_of::<Entry>(), 28);
    }
}
