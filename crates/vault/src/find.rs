//! Finding entries by name, and the users of a blob, a tree or a pack.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use levee_store::FileType;

use crate::pattern::Patterns;
use crate::{BlobKind, Error, FileCount, Id, Node, NodeKind, Result, SnapshotId, Vault, pack};

/// Which entries are looked for.
#[derive(Clone, Debug)]
pub struct Query {
    patterns: Patterns,
    oldest: Option<Timestamp>,
    newest: Option<Timestamp>,
}

impl Query {
    /// Patterns as restic's `find` has them; the times bound the times of change.
    pub fn new(
        patterns: &[String],
        ignore_case: bool,
        oldest: Option<Timestamp>,
        newest: Option<Timestamp>,
    ) -> Result<Self> {
        let patterns = match ignore_case {
            true => Patterns::default().and_ignoring_case(patterns)?,
            false => Patterns::parse(patterns)?,
        };
        Ok(Self { patterns, oldest, newest })
    }

    fn matches(&self, path: &Path, node: &Node) -> bool {
        let time = node.mtime.to_timestamp();
        self.oldest.is_none_or(|oldest| time >= oldest)
            && self.newest.is_none_or(|newest| time <= newest)
            && self.patterns.matches(path)
    }
}

/// A blob or a tree that is looked for, and where it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundObject {
    pub kind: BlobKind,
    pub id: Id,
    /// The file or directory.
    pub path: PathBuf,
    /// The directory that names it; `None` for a snapshot's root.
    pub parent_tree: Option<Id>,
}

/// The objects that are looked for, by the first digits of their ids.
#[derive(Clone, Debug, Default)]
pub struct ObjectQuery {
    pub blobs: Vec<String>,
    pub trees: Vec<String>,
}

impl ObjectQuery {
    fn wants(&self, kind: BlobKind, id: &Id) -> bool {
        let prefixes = if kind == BlobKind::Tree { &self.trees } else { &self.blobs };
        if prefixes.is_empty() {
            return false;
        }
        let id = id.to_hex();
        prefixes.iter().any(|prefix| id.starts_with(prefix.as_str()))
    }
}

impl Vault {
    /// The entries of a snapshot that a query chooses, with their paths from the root.
    pub fn find_entries(
        &self,
        snapshot: &SnapshotId,
        query: &Query,
        count: &mut FileCount<'_>,
    ) -> Result<Vec<(PathBuf, Node)>> {
        let mut found = Vec::new();
        for entry in self.list_tree(snapshot)? {
            let (path, node) = entry?;
            if node.kind == NodeKind::File {
                count.file();
            }
            let path = Path::new("/").join(path);
            if query.matches(&path, &node) {
                found.push((path, node));
            }
        }
        Ok(found)
    }

    /// Where a snapshot uses the objects. Each is named once for each place.
    pub fn find_objects(
        &self,
        snapshot: &SnapshotId,
        query: &ObjectQuery,
        count: &mut FileCount<'_>,
    ) -> Result<Vec<FoundObject>> {
        let mut found = Vec::new();
        let root = self.root_of(snapshot)?;
        if query.wants(BlobKind::Tree, &root) {
            found.push(FoundObject { kind: BlobKind::Tree, id: root, path: "/".into(), parent_tree: None });
        }
        let mut to_do = vec![(root, PathBuf::from("/"))];
        while let Some((parent, directory)) = to_do.pop() {
            let tree = self.tree(&parent)?;
            for node in tree.nodes() {
                let path = directory.join(&node.name);
                if node.kind == NodeKind::File {
                    count.file();
                }
                let mut note = |kind, id: &Id| {
                    let (id, path) = (*id, path.clone());
                    found.push(FoundObject { kind, id, path, parent_tree: Some(parent) });
                };
                let mut seen = HashSet::new();
                let is_new = |id: &&Id| query.wants(BlobKind::Data, id) && seen.insert(**id);
                node.blobs().iter().filter(is_new).for_each(|id| note(BlobKind::Data, id));
                if let Some(subtree) = node.subtree.filter(|_| node.kind == NodeKind::Dir) {
                    if query.wants(BlobKind::Tree, &subtree) {
                        note(BlobKind::Tree, &subtree);
                    }
                    to_do.push((subtree, path));
                }
            }
        }
        Ok(found)
    }

    /// What lies in the packs whose ids begin so, by the packs themselves.
    pub fn objects_in_packs(&self, prefixes: &[String]) -> Result<ObjectQuery> {
        let mut query = ObjectQuery::default();
        let mut missing: Vec<&String> = prefixes.iter().collect();
        for entry in self.store().list(FileType::Data)? {
            if !prefixes.iter().any(|prefix| entry.name.starts_with(prefix.as_str())) {
                continue;
            }
            let read = |offset, length| Ok(self.store().read_range(FileType::Data, &entry.name, offset, length)?);
            let header = match pack::read_header(self.key(), entry.size_bytes, read) {
                // A prune has removed it; a list may have it for a while.
                Err(Error::Store(levee_store::Error::NotFound { .. })) => continue,
                header => header?,
            };
            let blobs = header.map_err(|reason| self.damaged(FileType::Data, &entry.name, reason))?;
            missing.retain(|prefix| !entry.name.starts_with(prefix.as_str()));
            for blob in blobs {
                let ids = if blob.kind == BlobKind::Tree { &mut query.trees } else { &mut query.blobs };
                ids.push(blob.id.to_hex());
            }
        }
        match missing.first() {
            Some(prefix) => Err(Error::PackNotFound { location: self.location(), wanted: prefix.to_string() }),
            None => Ok(query),
        }
    }

    /// The pack that holds a blob.
    pub fn pack_of(&self, kind: BlobKind, id: &Id) -> Result<Id> {
        Ok(self.blob_location(kind, id)?.pack)
    }
}
