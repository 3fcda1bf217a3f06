use std::path::PathBuf;

use levee_store::FileType;

use super::{CheckReport, Indexed};
use crate::index::{Index, Location};
use crate::pack::PackedBlob;
use crate::vault::BlobOpener;
use crate::{BlobKind, Event, Id, NodeKind, Progress, Result, Snapshot, Tree, Vault};

/// Follows every snapshot down to its files, and looks whether all that is named is in the index.
pub(super) fn check_trees(
    vault: &Vault,
    snapshots: &[(Id, Snapshot)],
    indexed: &Indexed,
    progress: &dyn Progress,
) -> Result<CheckReport> {
    let mut report = CheckReport::default();
    let opener = BlobOpener::new(vault)?;
    let seen = Seen::of(&indexed.index);
    let mut walk = Walk { vault, opener, index: &indexed.index, seen, report: &mut report, progress };
    for (id, snapshot) in snapshots {
        match snapshot.tree {
            Some(tree) => walk.snapshot(id, tree),
            None => walk.report.error(format!("snapshots/{id}"), "it names no tree".into()),
        }
    }
    let used = walk.seen.count;
    report.unused_blobs = (indexed.index.distinct_blobs() as u64).saturating_sub(used);
    Ok(report)
}

/// Blobs of an index that are referred to, by their numbers there: a bit for each, since a set of fifty million ids takes more
/// than two gigabytes.
struct Seen {
    bits: Vec<u64>,
    count: u64,
}

impl Seen {
    fn of(index: &Index) -> Self {
        Self { bits: vec![0; index.numbers_end().div_ceil(u64::BITS as usize)], count: 0 }
    }

    /// Says whether it was not in it until now.
    fn insert(&mut self, number: u32) -> bool {
        let word = &mut self.bits[(number / u64::BITS) as usize];
        let bit = 1_u64 << (number % u64::BITS);
        let is_new = *word & bit == 0;
        *word |= bit;
        self.count += u64::from(is_new);
        is_new
    }
}

struct Walk<'a> {
    vault: &'a Vault,
    opener: BlobOpener<'a>,
    index: &'a Index,
    seen: Seen,
    report: &'a mut CheckReport,
    progress: &'a dyn Progress,
}

impl Walk<'_> {
    fn snapshot(&mut self, snapshot: &Id, root: Id) {
        let mut to_do = vec![(root, PathBuf::from("/"))];
        while let Some((id, path)) = to_do.pop() {
            let Some((number, Location { pack, blob })) = self.index.numbered_location(BlobKind::Tree, &id) else {
                let message = format!("{}: tree blob {id} is not in the index", path.display());
                self.report.error(format!("snapshots/{snapshot}"), message);
                continue;
            };
            if !self.seen.insert(number) {
                continue;
            }
            match self.read(&pack, &blob) {
                Ok(tree) => {
                    self.report.trees += 1;
                    self.tree(snapshot, &path, &tree);
                    let below = |node: &crate::Node| Some((node.subtree?, path.join(&node.name)));
                    to_do.extend(tree.nodes().iter().filter_map(below));
                }
                Err(error) => {
                    self.report.take(FileType::Data, &pack, &error);
                }
            }
        }
    }

    /// Reads a tree from the store: what is remembered of it proves nothing.
    fn read(&mut self, pack: &Id, blob: &PackedBlob) -> Result<Tree> {
        let length = blob.length as usize;
        let mut sealed = self.vault.read_pack_part(pack, u64::from(blob.offset), length)?;
        let json = self.opener.open(pack, blob, &mut sealed)?;
        Tree::from_json(json).map_err(|reason| self.vault.bad_tree(&blob.id, reason))
    }

    fn tree(&mut self, snapshot: &Id, directory: &std::path::Path, tree: &Tree) {
        for node in tree.nodes() {
            let path = directory.join(&node.name);
            let mut wrong = |message: String| {
                self.report.error(format!("snapshots/{snapshot}"), format!("{}: {message}", path.display()));
            };
            match node.kind {
                NodeKind::Dir if node.subtree.is_none() => wrong("the directory has no tree".into()),
                NodeKind::File if node.content.is_none() => wrong("the file has no list of blobs".into()),
                NodeKind::File => {
                    let mut size = 0;
                    let mut missing = false;
                    for id in node.blobs() {
                        match self.index.numbered_location(BlobKind::Data, id) {
                            Some((number, Location { blob, .. })) => {
                                size += blob.plaintext_length();
                                self.seen.insert(number);
                            }
                            None => {
                                missing = true;
                                wrong(format!("data blob {id} is not in the index"));
                            }
                        }
                    }
                    if !missing && size != node.size {
                        wrong(format!("its size is {} bytes, its blobs have {size}", node.size));
                    }
                    self.progress.report(Event::Item { path: &path, change: crate::ItemChange::Unmodified });
                }
                _ => {}
            }
        }
    }
}
