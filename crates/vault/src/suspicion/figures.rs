use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::Changes;
use crate::{BlobKind, Error, Id, Node, NodeKind, Result, SnapshotId, Vault};

/// What is stored of a file is at most this share of it, in percent: it could be compressed.
const COMPRESSIBLE_PERCENT: u64 = 90;
/// And at least this: it could not.
const NOISE_PERCENT: u64 = 99;
/// Smaller files say nothing.
const FILE_BYTES_MIN: u64 = 512;
/// Different endings that are counted; no ransomware uses so many.
const ENDINGS_MAX: usize = 10_000;

impl Vault {
    /// What has changed from one snapshot to another. The paths that both were made of must be the same.
    /// Without a word on how many files there were, all directories of the first are read to count them.
    pub fn changes(&self, before: &SnapshotId, after: &SnapshotId, files_before: Option<u64>) -> Result<Changes> {
        let (before, after) = (self.root_of(before)?, self.root_of(after)?);
        self.refresh_index()?;
        let mut walk = Walk::new(self);
        walk.changes.files_before = match files_before {
            Some(files) => files,
            None => walk.count(&before)?,
        };
        walk.pair(before, after)?;
        walk.singles()?;
        Ok(walk.into_changes())
    }
}

/// Whether a file's data can be compressed, as they were stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Texture {
    Compressible,
    Noise,
    /// Too small, or in between.
    Neither,
}

/// Of so many bytes that take so many in the vault.
pub(crate) fn texture_of(plain: u64, stored: u64) -> Texture {
    match stored.saturating_mul(100) {
        _ if plain < FILE_BYTES_MIN => Texture::Neither,
        hundredfold if hundredfold <= plain * COMPRESSIBLE_PERCENT => Texture::Compressible,
        hundredfold if hundredfold >= plain * NOISE_PERCENT => Texture::Noise,
        _ => Texture::Neither,
    }
}

/// Files of one directory that are there on one side only.
#[derive(Default)]
struct OneSided {
    before: Vec<Node>,
    after: Vec<Node>,
}

struct Walk<'a> {
    vault: &'a Vault,
    changes: Changes,
    directories: Vec<OneSided>,
    /// Directories that are there on one side only.
    trees_before: HashSet<Id>,
    trees_after: HashSet<Id>,
    endings: HashMap<OsString, (u64, u64)>,
}

impl<'a> Walk<'a> {
    fn new(vault: &'a Vault) -> Self {
        Self {
            vault,
            changes: Changes::default(),
            directories: Vec::new(),
            trees_before: HashSet::new(),
            trees_after: HashSet::new(),
            endings: HashMap::new(),
        }
    }

    fn files_below(&self, root: &Id, visit: &mut dyn FnMut(&Node)) -> Result<()> {
        let mut open = vec![*root];
        while let Some(tree) = open.pop() {
            for node in self.vault.tree(&tree)?.nodes() {
                match node.kind {
                    NodeKind::File => visit(node),
                    NodeKind::Dir => open.extend(node.subtree),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn count(&self, root: &Id) -> Result<u64> {
        let mut files = 0;
        self.files_below(root, &mut |_| files += 1)?;
        Ok(files)
    }

    fn pair(&mut self, before: Id, after: Id) -> Result<()> {
        let mut open = vec![(before, after)];
        while let Some((before, after)) = open.pop() {
            if before == after {
                continue;
            }
            let (before, after) = (self.vault.tree(&before)?, self.vault.tree(&after)?);
            let mut left: BTreeMap<&OsStr, &Node> =
                before.nodes().iter().map(|node| (node.name.as_os_str(), node)).collect();
            let mut directory = OneSided::default();
            for node in after.nodes() {
                match (left.remove(node.name.as_os_str()), node.kind) {
                    (Some(old), NodeKind::Dir) if old.kind == NodeKind::Dir => {
                        open.extend(old.subtree.zip(node.subtree));
                    }
                    (Some(old), NodeKind::File) if old.kind == NodeKind::File => self.file(old, node)?,
                    (old, kind) => {
                        if let Some(old) = old {
                            left.insert(old.name.as_os_str(), old);
                        }
                        match kind {
                            NodeKind::File => directory.after.push(node.clone()),
                            NodeKind::Dir => self.trees_after.extend(node.subtree),
                            _ => {}
                        }
                    }
                }
            }
            for node in left.into_values() {
                match node.kind {
                    NodeKind::File => directory.before.push(node.clone()),
                    NodeKind::Dir => self.trees_before.extend(node.subtree),
                    _ => {}
                }
            }
            self.directories.push(directory);
        }
        Ok(())
    }

    /// A file that has kept its name.
    fn file(&mut self, before: &Node, after: &Node) -> Result<()> {
        if before.content == after.content {
            return Ok(());
        }
        self.changes.files_changed += 1;
        if self.texture(after)? == Texture::Noise {
            self.changes.changed_incompressible += 1;
            if self.texture(before)? == Texture::Compressible {
                self.changes.files_scrambled += 1;
            }
        }
        Ok(())
    }

    /// What is there on one side only: moved, renamed, new or gone.
    fn singles(&mut self) -> Result<()> {
        // A directory that was moved is the same tree in another place.
        let moved: Vec<Id> = self.trees_before.intersection(&self.trees_after).copied().collect();
        for tree in moved {
            self.trees_before.remove(&tree);
            self.trees_after.remove(&tree);
        }
        for tree in std::mem::take(&mut self.trees_before) {
            let mut directory = OneSided::default();
            self.files_below(&tree, &mut |node| directory.before.push(node.clone()))?;
            self.directories.push(directory);
        }
        for tree in std::mem::take(&mut self.trees_after) {
            let mut directory = OneSided::default();
            self.files_below(&tree, &mut |node| directory.after.push(node.clone()))?;
            self.directories.push(directory);
        }
        let directories = std::mem::take(&mut self.directories);
        let content = |node: &Node| node.content.as_ref().and_then(|content| content.first().copied());
        let contents = |nodes: &mut dyn Iterator<Item = &Node>| -> HashSet<Id> { nodes.filter_map(content).collect() };
        let gone = contents(&mut directories.iter().flat_map(|directory| &directory.before));
        let come = contents(&mut directories.iter().flat_map(|directory| &directory.after));
        let is_moved = |node: &Node| content(node).is_some_and(|id| gone.contains(&id) && come.contains(&id));
        for OneSided { before, after } in directories {
            let mut before = Originals::new(before.into_iter().filter(|node| !is_moved(node)));
            for node in after.into_iter().filter(|node| !is_moved(node)) {
                let is_noise = self.texture(&node)? == Texture::Noise;
                match before.take_for(&node.name) {
                    Some(old) => {
                        self.changes.files_renamed += 1;
                        let ending = Path::new(&node.name).extension().unwrap_or_default().to_string_lossy();
                        if is_noise
                            && !super::is_of_compressed_files(&ending)
                            && self.texture(&old)? == Texture::Compressible
                        {
                            self.changes.files_scrambled += 1;
                        }
                    }
                    None => self.changes.files_new += 1,
                }
                if let Some(ending) = Path::new(&node.name).extension()
                    && (self.endings.len() < ENDINGS_MAX || self.endings.contains_key(ending))
                {
                    let (files, noise) = self.endings.entry(ending.to_os_string()).or_default();
                    *files += 1;
                    *noise += u64::from(is_noise);
                }
            }
            self.changes.files_removed += before.left();
        }
        Ok(())
    }

    fn texture(&self, node: &Node) -> Result<Texture> {
        let (mut plain, mut stored) = (0u64, 0u64);
        for blob in node.blobs() {
            match self.vault.blob_location(BlobKind::Data, blob) {
                Ok(location) => {
                    plain += location.blob.plaintext_length();
                    stored += u64::from(location.blob.length).saturating_sub(crate::crypto::OVERHEAD as u64);
                }
                // It can't be restored; that is for others to say.
                Err(Error::MissingBlob { .. }) => return Ok(Texture::Neither),
                Err(error) => return Err(error),
            }
        }
        Ok(texture_of(plain, stored))
    }

    fn into_changes(self) -> Changes {
        let most = self.endings.into_iter().max_by_key(|(ending, (files, noise))| (*noise, *files, ending.clone()));
        let mut changes = self.changes;
        if let Some((ending, (files, noise))) = most {
            changes.ending = Some((ending.to_string_lossy().into_owned(), files));
            changes.ending_incompressible = noise;
        }
        changes
    }
}

/// Files of one directory that are gone, by what they could be called now: `report.docx` becomes `report.docx.locked`
/// or `report.locked`.
struct Originals {
    nodes: Vec<Option<Node>>,
    by_name: HashMap<Vec<u8>, usize>,
    by_stem: HashMap<Vec<u8>, Vec<usize>>,
}

impl Originals {
    fn new(nodes: impl Iterator<Item = Node>) -> Self {
        let mut originals = Self { nodes: Vec::new(), by_name: HashMap::new(), by_stem: HashMap::new() };
        for (position, node) in nodes.enumerate() {
            let name = node.name.as_encoded_bytes();
            originals.by_name.insert(name.to_vec(), position);
            originals.by_stem.entry(stem(name).to_vec()).or_default().push(position);
            originals.nodes.push(Some(node));
        }
        originals
    }

    fn take_for(&mut self, name: &OsStr) -> Option<Node> {
        let name = name.as_encoded_bytes();
        let dots = name.iter().enumerate().rev().filter(|(position, byte)| **byte == b'.' && *position > 0);
        for (dot, _) in dots {
            if let Some(position) = self.by_name.get(&name[..dot])
                && let Some(node) = self.nodes[*position].take()
            {
                return Some(node);
            }
        }
        if stem(name).len() == name.len() {
            return None;
        }
        let same_stem = self.by_stem.get_mut(stem(name))?;
        while let Some(position) = same_stem.pop() {
            if let Some(node) = self.nodes[position].take() {
                return Some(node);
            }
        }
        None
    }

    fn left(&self) -> u64 {
        self.nodes.iter().flatten().count() as u64
    }
}

/// A name without its ending.
fn stem(name: &[u8]) -> &[u8] {
    let dot = name.iter().rposition(|byte| *byte == b'.').filter(|dot| *dot > 0);
    &name[..dot.unwrap_or(name.len())]
}
