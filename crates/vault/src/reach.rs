//! Which blobs snapshots refer to: the walk behind everything that removes or copies.
//!
//! The index is read once into compact tables; then the trees are read in groups, those that lie together
//! at once, and what they name is marked.

use std::collections::{BTreeMap, HashSet};

use crate::blob_table::{BlobTable, Flag, TOUCHED_AT_ONCE};
use crate::index_file::IndexFile;
use crate::pack::PackedBlob;
use crate::pack_reader::read_blobs;
use crate::parallel::{compute_threads, parallel_map};
use crate::vault::{Patience, look_while_index_files_go};
use crate::{BlobKind, Error, Id, Result, Tree, Vault};

/// So many trees are read before what they name is marked.
const TREES_AT_ONCE: usize = 1024;
/// No more than these bytes of JSON and one tree more: the directory of a very large file alone has megabytes.
const TREE_BYTES_AT_ONCE: u64 = 32 << 20;
/// Missing blobs beyond this are not collected.
const MISSING_MAX: usize = 100_000;

/// Blobs that snapshots refer to and that no index names.
#[derive(Debug, Default)]
pub(crate) struct Missing {
    data: HashSet<Id>,
    trees: HashSet<Id>,
    /// More are missing than could be collected: to walk on from those here would leave some out.
    pub is_cut_off: bool,
}

impl Missing {
    pub fn is_empty(&self) -> bool {
        self.data.is_empty() && self.trees.is_empty()
    }

    pub fn contains(&self, kind: BlobKind, id: &Id) -> bool {
        match kind {
            BlobKind::Data => self.data.contains(id),
            BlobKind::Tree => self.trees.contains(id),
        }
    }

    pub fn all(&self) -> Vec<(BlobKind, Id)> {
        let data = self.data.iter().map(|id| (BlobKind::Data, *id));
        self.trees.iter().map(|id| (BlobKind::Tree, *id)).chain(data).collect()
    }

    fn add(&mut self, kind: BlobKind, id: Id) {
        let set = if kind == BlobKind::Tree { &mut self.trees } else { &mut self.data };
        if set.len() < MISSING_MAX {
            set.insert(id);
        } else {
            self.is_cut_off |= !set.contains(&id);
        }
    }

    /// One of them, as the error that names it.
    pub fn first(&self, vault: &Vault) -> Option<Error> {
        let data = self.data.iter().min().map(|id| (BlobKind::Data, *id));
        let (kind, id) = self.trees.iter().min().map(|id| (BlobKind::Tree, *id)).or(data)?;
        Some(vault.missing_blob(kind, &id))
    }
}

/// What is known of an index, and which of its blobs are in use.
pub(crate) struct Reach<'a> {
    vault: &'a Vault,
    pub table: BlobTable,
    trees: TreeShelf,
    /// The index files that have been read.
    pub index_files: HashSet<Id>,
    /// Index files that are damaged are passed over.
    is_for_reading: bool,
}

/// Where trees lie: every copy.
#[derive(Default)]
struct TreeShelf {
    packs: Vec<Id>,
    /// Sorted up to the length that `sort` saw; what came later is looked through.
    places: Vec<(u32, PackedBlob)>,
    sorted: usize,
}

impl TreeShelf {
    fn add(&mut self, pack: Id, blobs: &[PackedBlob]) {
        let trees = blobs.iter().filter(|blob| blob.kind == BlobKind::Tree);
        let before = self.places.len();
        let number = self.packs.len() as u32;
        self.places.extend(trees.map(|blob| (number, *blob)));
        if self.places.len() > before {
            self.packs.push(pack);
        }
    }

    fn sort(&mut self) {
        self.places.sort_unstable_by_key(|(pack, blob)| (blob.id, *pack));
        self.sorted = self.places.len();
    }

    fn copies<'a>(&'a self, id: &'a Id) -> impl Iterator<Item = (Id, PackedBlob)> + 'a {
        let (sorted, late) = self.places.split_at(self.sorted);
        let start = sorted.partition_point(|(_, blob)| blob.id < *id);
        let early = sorted[start..].iter().take_while(move |(_, blob)| blob.id == *id);
        early
            .chain(late.iter().filter(move |(_, blob)| blob.id == *id))
            .map(|(pack, blob)| (self.packs[*pack as usize], *blob))
    }
}

/// A tree that is to be read, and the copies of it.
struct TreeRead {
    id: Id,
    pack: Id,
    blob: PackedBlob,
}

impl<'a> Reach<'a> {
    /// Reads the whole index. `visit` sees each file as it comes.
    pub fn load(vault: &'a Vault, mut visit: impl FnMut(&Id, &IndexFile)) -> Result<Self> {
        let mut reach = Self::empty(vault, false);
        reach.scan(&vault.list_index_files_to_rely_on()?, &mut visit)?;
        reach.table.sort();
        reach.trees.sort();
        Ok(reach)
    }

    /// The same for who only reads: index files that are damaged are passed over, with a warning. What only they name is
    /// missing then, and said by whoever needs it.
    pub fn load_readable(vault: &'a Vault) -> Result<Self> {
        let mut reach = Self::empty(vault, true);
        reach.scan(&vault.list_index_files_to_rely_on()?, &mut |_, _| ())?;
        reach.table.sort();
        reach.trees.sort();
        Ok(reach)
    }

    fn empty(vault: &'a Vault, is_for_reading: bool) -> Self {
        let (table, trees) = (BlobTable::default(), TreeShelf::default());
        Self { vault, table, trees, index_files: HashSet::new(), is_for_reading }
    }

    fn scan(&mut self, files: &[Id], visit: &mut dyn FnMut(&Id, &IndexFile)) -> Result<()> {
        let (vault, is_for_reading) = (self.vault, self.is_for_reading);
        let mut take = |id: &Id, file: &IndexFile| {
            self.take(*id, file);
            visit(id, file);
        };
        if is_for_reading {
            return vault.scan_readable_index(files, take);
        }
        vault.scan_index(files, |id, file| {
            take(id, &file);
            Ok(())
        })
    }

    fn take(&mut self, id: Id, file: &IndexFile) {
        self.index_files.insert(id);
        for (pack, blobs) in &file.packs {
            self.take_pack(*pack, blobs);
        }
    }

    /// Takes in a pack that an index names, or is about to name.
    pub fn take_pack(&mut self, pack: Id, blobs: &[PackedBlob]) {
        for blob in blobs {
            self.table.add(blob.kind, &blob.id);
        }
        self.trees.add(pack, blobs);
    }

    /// Reads the index files that have come since.
    pub fn load_new(&mut self, mut visit: impl FnMut(&Id, &IndexFile)) -> Result<()> {
        let vault = self.vault;
        look_while_index_files_go(|| {
            let listed = vault.list_index_files_to_rely_on()?;
            let new: Vec<Id> = listed.into_iter().filter(|id| !self.index_files.contains(id)).collect();
            self.scan(&new, &mut visit)
        })
    }

    /// As `mark`. While something is missing, index files that were in no list yet are waited for: what a snapshot refers to
    /// was indexed before it was written. `visit` sees each that comes.
    pub fn mark_patiently(
        &mut self,
        wanted: &[(BlobKind, Id)],
        patience: &mut Patience,
        mut found: impl FnMut(BlobKind, Id),
        mut visit: impl FnMut(&Id, &IndexFile),
    ) -> Result<Missing> {
        let mut missing = self.mark(wanted, &mut found)?;
        // From a part of what is missing nobody can walk on.
        while !missing.is_empty() && !missing.is_cut_off && patience.wait() {
            let known = self.index_files.len();
            self.load_new(&mut visit)?;
            if self.index_files.len() > known {
                missing = self.mark(&missing.all(), &mut found)?;
            }
        }
        Ok(missing)
    }

    /// Marks blobs, and everything below those that are trees, as used; what was marked before is not
    /// walked again. `found` hears of each blob that was not used until now.
    pub fn mark(&mut self, wanted: &[(BlobKind, Id)], mut found: impl FnMut(BlobKind, Id)) -> Result<Missing> {
        let mut missing = Missing::default();
        let (mut to_do, mut named) = (Vec::new(), Vec::new());
        for (kind, id) in wanted {
            self.name(*kind, *id, &mut missing, &mut to_do, &mut found);
        }
        while !to_do.is_empty() {
            let batch = self.take_batch(&mut to_do);
            for tree in self.read_trees(&batch)? {
                named.clear();
                for node in tree.nodes() {
                    named.extend(node.subtree.map(|subtree| (BlobKind::Tree, subtree)));
                    named.extend(node.blobs().iter().map(|id| (BlobKind::Data, *id)));
                }
                for group in named.chunks(TOUCHED_AT_ONCE) {
                    self.table.touch(group.iter().map(|(_, id)| id));
                    for (kind, id) in group {
                        self.name(*kind, *id, &mut missing, &mut to_do, &mut found);
                    }
                }
            }
        }
        Ok(missing)
    }

    fn take_batch(&self, to_do: &mut Vec<Id>) -> Vec<Id> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < TREES_AT_ONCE
            && bytes < TREE_BYTES_AT_ONCE
            && let Some(id) = to_do.pop()
        {
            bytes += self.trees.copies(&id).next().map_or(0, |(_, blob)| blob.plaintext_length());
            batch.push(id);
        }
        batch
    }

    fn name(
        &mut self,
        kind: BlobKind,
        id: Id,
        missing: &mut Missing,
        to_do: &mut Vec<Id>,
        found: &mut impl FnMut(BlobKind, Id),
    ) {
        let Some(place) = self.table.find(kind, &id) else { return missing.add(kind, id) };
        if self.table.set(place, Flag::Used) {
            found(kind, id);
            if kind == BlobKind::Tree {
                to_do.push(id);
            }
        }
    }

    /// Reads trees, those that lie in one pack together.
    fn read_trees(&self, ids: &[Id]) -> Result<Vec<Tree>> {
        let mut by_pack: BTreeMap<Id, Vec<PackedBlob>> = BTreeMap::new();
        for id in ids {
            let (pack, blob) = self.trees.copies(id).next().ok_or_else(|| self.missing_tree(id))?;
            by_pack.entry(pack).or_default().push(blob);
        }
        let groups: Vec<(Id, Vec<PackedBlob>)> = by_pack.into_iter().collect();
        let read = |(pack, blobs): &(Id, Vec<PackedBlob>)| -> Result<Vec<Tree>> {
            let mut trees = Vec::with_capacity(blobs.len());
            let all = read_blobs(self.vault, pack, &mut blobs.clone(), |blob, _, json| {
                let tree = match json.and_then(|json| self.parse(&blob.id, json)) {
                    Ok(tree) => tree,
                    Err(error) => self.other_copy(&blob.id, pack, error)?,
                };
                trees.push(tree);
                Ok(())
            });
            match all {
                Ok(()) => Ok(trees),
                // The pack as a whole cannot be read so: each of its trees for itself.
                Err(_) => blobs.iter().map(|blob| self.read_tree(&blob.id)).collect(),
            }
        };
        let mut trees = Vec::with_capacity(ids.len());
        for group in parallel_map(compute_threads(), &groups, read) {
            trees.extend(group?);
        }
        Ok(trees)
    }

    fn missing_tree(&self, id: &Id) -> Error {
        self.vault.missing_blob(BlobKind::Tree, id)
    }

    fn parse(&self, id: &Id, json: &[u8]) -> Result<Tree> {
        Tree::from_json(json).map_err(|reason| self.vault.bad_tree(id, reason))
    }

    /// Reads a tree from whichever copy is sound.
    pub fn read_tree(&self, id: &Id) -> Result<Tree> {
        let mut failure = self.missing_tree(id);
        for (pack, blob) in self.trees.copies(id) {
            match self.read_copy(&TreeRead { id: *id, pack, blob }) {
                Ok(tree) => return Ok(tree),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn other_copy(&self, id: &Id, damaged: &Id, failure: Error) -> Result<Tree> {
        let mut others = self.trees.copies(id).filter(|(pack, _)| pack != damaged);
        let sound = others.find_map(|(pack, blob)| self.read_copy(&TreeRead { id: *id, pack, blob }).ok());
        sound.ok_or(failure)
    }

    fn read_copy(&self, read: &TreeRead) -> Result<Tree> {
        let mut tree = None;
        read_blobs(self.vault, &read.pack, &mut [read.blob], |_, _, json| {
            tree = Some(self.parse(&read.id, json?)?);
            Ok(())
        })?;
        tree.ok_or_else(|| self.missing_tree(&read.id))
    }
}
