//! What differs between two trees, as `restic diff` counts it.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::{BlobKind, Event, Id, Node, NodeKind, Progress, Result, Vault};

/// What one side has more than the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DiffCounts {
    pub files: u64,
    pub dirs: u64,
    pub others: u64,
    pub data_blobs: u64,
    pub tree_blobs: u64,
    /// Of those blobs, before compression.
    pub bytes: u64,
}

/// How two trees differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DiffSummary {
    /// Files with other content.
    pub changed_files: u64,
    pub added: DiffCounts,
    pub removed: DiffCounts,
}

type Blobs = HashSet<(BlobKind, Id)>;

/// Compares two trees. `report` gets what happened to an entry (restic's letters: `+` added, `-` removed,
/// `M` other content, `M?` other content with the same metadata, `T` another type, `U` other metadata) and
/// its path below the trees. `progress` hears of the files of both trees.
pub fn diff(
    vault: &Vault,
    before: &Id,
    after: &Id,
    metadata: bool,
    report: &mut dyn FnMut(&str, &Path, NodeKind) -> Result<()>,
    progress: &dyn Progress,
) -> Result<DiffSummary> {
    let (summary, blobs) = (DiffSummary::default(), [(); 3].map(|()| Blobs::new()));
    let mut run = Run { vault, metadata, report, progress, summary, blobs };
    run.trees(before, after)?;
    let Run { mut summary, blobs: [before, after, common], .. } = run;
    let only = |blobs: &Blobs, other: &Blobs, counts: &mut DiffCounts| -> Result<()> {
        for (kind, id) in blobs.difference(other).filter(|blob| !common.contains(blob)) {
            match kind {
                BlobKind::Data => counts.data_blobs += 1,
                BlobKind::Tree => counts.tree_blobs += 1,
            }
            counts.bytes += vault.blob_location(*kind, id)?.blob.plaintext_length();
        }
        Ok(())
    };
    only(&after, &before, &mut summary.added)?;
    only(&before, &after, &mut summary.removed)?;
    Ok(summary)
}

/// Where an entry stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Before,
    After,
    /// Below a directory that is the same on both sides.
    Both,
}

/// A directory, or a pair of them, that is being gone through.
struct Open {
    path: PathBuf,
    side: Option<Side>,
    entries: std::vec::IntoIter<(Option<Node>, Option<Node>)>,
}

struct Run<'a> {
    vault: &'a Vault,
    metadata: bool,
    report: &'a mut dyn FnMut(&str, &Path, NodeKind) -> Result<()>,
    progress: &'a dyn Progress,
    summary: DiffSummary,
    /// Of before, after and both.
    blobs: [Blobs; 3],
}

impl Run<'_> {
    fn trees(&mut self, before: &Id, after: &Id) -> Result<()> {
        self.blobs[0].insert((BlobKind::Tree, *before));
        self.blobs[1].insert((BlobKind::Tree, *after));
        let mut open = vec![self.open(PathBuf::from("/"), Some(before), Some(after))?];
        while let Some(directory) = open.last_mut() {
            let (path, side) = (directory.path.clone(), directory.side);
            match directory.entries.next() {
                None => drop(open.pop()),
                Some((Some(before), Some(after))) => open.extend(self.pair(&path, &before, &after)?),
                Some((Some(node), None)) => open.extend(self.single(&path, &node, side.unwrap_or(Side::Before))?),
                Some((None, Some(node))) => open.extend(self.single(&path, &node, side.unwrap_or(Side::After))?),
                Some((None, None)) => {}
            }
        }
        Ok(())
    }

    fn open(&self, path: PathBuf, before: Option<&Id>, after: Option<&Id>) -> Result<Open> {
        let nodes = |tree: Option<&Id>| -> Result<Vec<Node>> {
            tree.map_or(Ok(Vec::new()), |tree| Ok(self.vault.tree(tree)?.nodes().to_vec()))
        };
        Ok(Open { path, side: None, entries: merge(nodes(before)?, nodes(after)?).into_iter() })
    }

    fn pair(&mut self, directory: &Path, before: &Node, after: &Node) -> Result<Option<Open>> {
        self.note(before, Side::Before);
        self.note(after, Side::After);
        let path = directory.join(&after.name);
        let mut letters = String::new();
        if before.kind != after.kind {
            letters.push('T');
        }
        if before.kind == NodeKind::File && after.kind == NodeKind::File && before.content != after.content {
            letters.push('M');
            self.summary.changed_files += 1;
            let without_content = |node: &Node| Node { content: None, ..node.clone() };
            if without_content(before) == without_content(after) {
                letters.push('?');
            }
        } else if self.metadata && before != after {
            letters.push('U');
        }
        if !letters.is_empty() {
            (self.report)(&letters, &path, after.kind)?;
        }
        match (before.subtree, after.subtree) {
            (Some(one), Some(other)) if before.kind == NodeKind::Dir && after.kind == NodeKind::Dir => {
                if one == other {
                    let side = Some(Side::Both);
                    return Ok(Some(Open { side, ..self.open(path, Some(&one), None)? }));
                }
                Ok(Some(self.open(path, Some(&one), Some(&other))?))
            }
            _ => Ok(None),
        }
    }

    fn single(&mut self, directory: &Path, node: &Node, side: Side) -> Result<Option<Open>> {
        self.note(node, side);
        let path = directory.join(&node.name);
        if side != Side::Both {
            let (letter, counts) = match side {
                Side::Before => ("-", &mut self.summary.removed),
                _ => ("+", &mut self.summary.added),
            };
            match node.kind {
                NodeKind::File => counts.files += 1,
                NodeKind::Dir => counts.dirs += 1,
                _ => counts.others += 1,
            }
            (self.report)(letter, &path, node.kind)?;
        }
        let Some(subtree) = node.subtree.filter(|_| node.kind == NodeKind::Dir) else { return Ok(None) };
        Ok(Some(Open { side: Some(side), ..self.open(path, Some(&subtree), None)? }))
    }

    fn note(&mut self, node: &Node, side: Side) {
        let blobs = &mut self.blobs[side as usize];
        match node.kind {
            NodeKind::File => {
                blobs.extend(node.blobs().iter().map(|id| (BlobKind::Data, *id)));
                self.progress.report(Event::Files(if side == Side::Both { 2 } else { 1 }));
            }
            NodeKind::Dir => blobs.extend(node.subtree.map(|id| (BlobKind::Tree, id))),
            _ => {}
        }
    }
}

/// Joins two sorted lists by name.
fn merge(before: Vec<Node>, after: Vec<Node>) -> Vec<(Option<Node>, Option<Node>)> {
    let (mut before, mut after) = (before.into_iter().peekable(), after.into_iter().peekable());
    let mut merged = Vec::new();
    loop {
        let order = match (before.peek(), after.peek()) {
            (None, None) => return merged,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(one), Some(other)) => one.name.cmp(&other.name),
        };
        merged.push(match order {
            Ordering::Less => (before.next(), None),
            Ordering::Greater => (None, after.next()),
            Ordering::Equal => (before.next(), after.next()),
        });
    }
}
