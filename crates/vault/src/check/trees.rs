use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use levee_store::FileType;

use super::{CheckReport, Indexed};
use crate::pack::PackedBlob;
use crate::vault::BlobOpener;
use crate::{BlobKind, Error, Event, Id, NodeKind, Progress, Snapshot, Tree, Vault};

/// Follows every snapshot down to its files, and looks whether all that is named is in the index.
pub(super) fn check_trees(
    vault: &Vault,
    snapshots: &[(Id, Snapshot)],
    indexed: &Indexed,
    report: &mut CheckReport,
    progress: &dyn Progress,
) {
    let mut blobs: HashMap<(BlobKind, Id), (Id, PackedBlob)> = HashMap::new();
    for (pack, packed) in &indexed.packs {
        for blob in packed {
            blobs.entry((blob.kind, blob.id)).or_insert((*pack, *blob));
        }
    }
    let mut walk = Walk { vault, blobs: &blobs, seen: HashSet::new(), report, progress };
    for (id, snapshot) in snapshots {
        match snapshot.tree {
            Some(tree) => walk.snapshot(id, tree),
            None => walk.report.error(format!("snapshots/{id}"), "it names no tree".into()),
        }
    }
    let used = walk.seen.len() as u64;
    report.unused_blobs = (blobs.len() as u64).saturating_sub(used);
}

struct Walk<'a> {
    vault: &'a Vault,
    blobs: &'a HashMap<(BlobKind, Id), (Id, PackedBlob)>,
    /// Blobs that are referred to and in the index.
    seen: HashSet<(BlobKind, Id)>,
    report: &'a mut CheckReport,
    progress: &'a dyn Progress,
}

impl Walk<'_> {
    fn snapshot(&mut self, snapshot: &Id, root: Id) {
        let mut to_do = vec![(root, PathBuf::from("/"))];
        while let Some((id, path)) = to_do.pop() {
            let key = (BlobKind::Tree, id);
            if self.seen.contains(&key) {
                continue;
            }
            let Some((pack, blob)) = self.blobs.get(&key) else {
                let message = format!("{}: tree blob {id} is not in the index", path.display());
                self.report.error(format!("snapshots/{snapshot}"), message);
                continue;
            };
            self.seen.insert(key);
            match self.read(pack, blob) {
                Ok(tree) => {
                    self.report.trees += 1;
                    self.tree(snapshot, &path, &tree);
                    let below = |node: &crate::Node| Some((node.subtree?, path.join(&node.name)));
                    to_do.extend(tree.nodes().iter().filter_map(below));
                }
                Err(error) => {
                    let pack = *pack;
                    self.report.take(FileType::Data, &pack, &error);
                }
            }
        }
    }

    /// Reads a tree from the store: what is remembered of it proves nothing.
    fn read(&self, pack: &Id, blob: &PackedBlob) -> Result<Tree, Error> {
        let name = pack.to_hex();
        let length = blob.length as usize;
        let mut sealed = self.vault.store().read_range(FileType::Data, &name, u64::from(blob.offset), length)?;
        let mut opener = BlobOpener::new(self.vault)?;
        let json = opener.open(pack, blob, &mut sealed)?;
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
                        match self.blobs.get(&(BlobKind::Data, *id)) {
                            Some((_, blob)) => {
                                size += blob.plaintext_length();
                                self.seen.insert((BlobKind::Data, *id));
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
