//! Whether a snapshot can be rebuilt from what is here, without reading its data.

use std::collections::{HashMap, HashSet};

use levee_store::FileType;

use crate::index::Location;
use crate::{BlobKind, Error, Id, NodeKind, Result, SnapshotId, Vault};

/// For more packs than this one listing is less than asking for each.
const ASKED_ONE_BY_ONE_MAX: usize = 64;

impl Vault {
    /// Opens a snapshot: reads its whole tree, and finds every blob of every file in the index, and a pack
    /// that holds it in the store, long enough for what the index says of it.
    ///
    /// The data themselves are not read: that is `check`'s work.
    pub fn open_snapshot(&self, snapshot: &SnapshotId) -> Result<()> {
        let root = self.root_of(snapshot)?;
        self.refresh_index()?;
        let mut sizes = PackSizes { vault: self, known: HashMap::new(), listed: None };
        let mut seen: HashSet<Id> = HashSet::new();
        self.need(BlobKind::Tree, &root, &mut sizes)?;
        for entry in self.list_tree(snapshot)? {
            let (_, node) = entry?;
            if let Some(subtree) = node.subtree.filter(|_| node.kind == NodeKind::Dir) {
                self.need(BlobKind::Tree, &subtree, &mut sizes)?;
            }
            for blob in node.blobs() {
                if seen.insert(*blob) {
                    self.need(BlobKind::Data, blob, &mut sizes)?;
                }
            }
        }
        Ok(())
    }

    /// A pack that is there must reach to a blob's end. As for whoever reads it, any copy will do: an index can name packs
    /// that are not there, or are cut short.
    fn need(&self, kind: BlobKind, id: &Id, sizes: &mut PackSizes<'_>) -> Result<()> {
        let newest = self.blob_location(kind, id)?;
        let Err(failure) = sizes.check(&newest)? else { return Ok(()) };
        for other in self.with_index(|index| index.locations(kind, id))? {
            if other != newest && sizes.check(&other)?.is_ok() {
                return Ok(());
            }
        }
        Err(failure)
    }
}

/// How long the packs are that were asked for.
struct PackSizes<'a> {
    vault: &'a Vault,
    /// `None` for one that is not there.
    known: HashMap<Id, Option<u64>>,
    listed: Option<HashMap<String, u64>>,
}

impl PackSizes<'_> {
    /// Whether a pack reaches to the end of a blob, or what is wrong with it; an error when that can't be said.
    fn check(&mut self, location: &Location) -> Result<Result<()>> {
        let (pack, end) = (location.pack, location.blob.end());
        Ok(match self.of(&pack)? {
            Some(size) if size >= end => Ok(()),
            Some(size) => {
                let reason = format!("it has {size} bytes, and the index names blobs up to byte {end}");
                Err(self.vault.damaged(FileType::Data, &pack.to_hex(), reason))
            }
            None => {
                let (location, name) = (self.vault.location(), pack.to_hex());
                Err(Error::Store(levee_store::Error::NotFound { location, file_type: FileType::Data, name }))
            }
        })
    }

    fn of(&mut self, pack: &Id) -> Result<Option<u64>> {
        if let Some(known) = self.known.get(pack) {
            return Ok(*known);
        }
        if self.listed.is_none() && self.known.len() >= ASKED_ONE_BY_ONE_MAX {
            let entries = self.vault.store().list(FileType::Data)?;
            self.listed = Some(entries.into_iter().map(|entry| (entry.name, entry.size_bytes)).collect());
        }
        let name = pack.to_hex();
        let size = match self.listed.as_ref().and_then(|listed| listed.get(&name)) {
            Some(size) => Some(*size),
            // A listing may come late: whoever asks for one by its name hears whether it is there.
            None => match self.vault.store().size_bytes(FileType::Data, &name) {
                Ok(size) => Some(size),
                Err(levee_store::Error::NotFound { .. }) => None,
                Err(error) => return Err(error.into()),
            },
        };
        self.known.insert(*pack, size);
        Ok(size)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use jiff::Timestamp;
    use levee_store::LocalStore;

    use super::*;
    use crate::{Chunking, NodeMeta, Password, SnapshotOptions, SnapshotWriter, index_file};

    #[test]
    fn any_copy_will_do_where_an_index_names_packs_that_are_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(LocalStore::new(folder.path()));
        let vault = Vault::init(store.clone(), &Password::new("password")).unwrap();
        let mut writer = SnapshotWriter::begin(&vault, SnapshotOptions::default()).unwrap();
        let meta = NodeMeta::new(0o600, Timestamp::UNIX_EPOCH);
        writer.file(Path::new("file"), &meta, &mut &b"content"[..], Chunking::Content).unwrap();
        let snapshot = writer.finish().unwrap().snapshot_id.unwrap();
        let mut named = Vec::new();
        vault
            .scan_index(&vault.list_ids(FileType::Index).unwrap(), |_, file| {
                named.extend(file.packs.into_iter().flat_map(|(_, blobs)| blobs));
                Ok(())
            })
            .unwrap();
        // Whichever is read last counts as the newest.
        for number in 0..20_u8 {
            let packs = vec![(Id::of(&[number]), named.clone())];
            vault.write_file_json(FileType::Index, &index_file::encode(&packs).unwrap()).unwrap();
        }
        let open = || Vault::open_with_master_key(store.clone(), vault.master_key().clone()).unwrap();
        open().open_snapshot(&snapshot).unwrap();
        let packs: Vec<String> =
            vault.store().list(FileType::Data).unwrap().into_iter().map(|entry| entry.name).collect();
        for pack in packs {
            let content = vault.store().read(FileType::Data, &pack).unwrap();
            vault.store().remove(FileType::Data, &pack).unwrap();
            assert!(open().open_snapshot(&snapshot).unwrap_err().is_damage());
            vault.store().write(FileType::Data, &pack, &content).unwrap();
        }
    }
}
