//! Whether a snapshot can be rebuilt from what is here, without reading its data.

use std::collections::{HashMap, HashSet};

use levee_store::FileType;

use crate::{BlobKind, Id, NodeKind, Result, SnapshotId, Vault};

/// For more packs than this one listing is less than asking for each.
const ASKED_ONE_BY_ONE_MAX: usize = 64;

impl Vault {
    /// Opens a snapshot: reads its whole tree, finds every blob of every file in the index, and every pack
    /// that holds one in the store, long enough for what the index says of it.
    ///
    /// The data themselves are not read: that is `check`'s work.
    pub fn open_snapshot(&self, snapshot: &SnapshotId) -> Result<()> {
        let root = self.root_of(snapshot)?;
        self.refresh_index()?;
        let mut packs: HashMap<Id, u64> = HashMap::new();
        let mut seen: HashSet<Id> = HashSet::new();
        self.need(BlobKind::Tree, &root, &mut packs)?;
        for entry in self.list_tree(snapshot)? {
            let (_, node) = entry?;
            if let Some(subtree) = node.subtree.filter(|_| node.kind == NodeKind::Dir) {
                self.need(BlobKind::Tree, &subtree, &mut packs)?;
            }
            for blob in node.blobs() {
                if seen.insert(*blob) {
                    self.need(BlobKind::Data, blob, &mut packs)?;
                }
            }
        }
        let listed = match packs.len() > ASKED_ONE_BY_ONE_MAX {
            true => self.store().list(FileType::Data)?,
            false => Vec::new(),
        };
        let listed: HashMap<&str, u64> = listed.iter().map(|entry| (entry.name.as_str(), entry.size_bytes)).collect();
        for (pack, end) in packs {
            let name = pack.to_hex();
            let size = match listed.get(name.as_str()) {
                Some(size) => *size,
                // A listing may come late, and whoever asks for what is not there hears it by name.
                None => self.store().size_bytes(FileType::Data, &name)?,
            };
            if size < end {
                let reason = format!("it has {size} bytes, and the index names blobs up to byte {end}");
                return Err(self.damaged(FileType::Data, &name, reason));
            }
        }
        Ok(())
    }

    /// Notes that a blob's pack must reach to the blob's end.
    fn need(&self, kind: BlobKind, id: &Id, packs: &mut HashMap<Id, u64>) -> Result<()> {
        let location = self.blob_location(kind, id)?;
        let end = location.blob.end();
        let known = packs.entry(location.pack).or_default();
        *known = (*known).max(end);
        Ok(())
    }
}
