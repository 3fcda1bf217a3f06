//! What the keeper of a repository lets a writer add, beyond what a store without its key can tell.

use levee_store::FileType;

use super::Vault;
use crate::problem::with_sources;
use crate::{Error, Id, Result, Snapshot, index_file};

impl Vault {
    /// Looks at a file that a writer adds, whose name is the hash of its content. One that can't be read would be in the way
    /// of every prune; the marks of prunes and the records of forgotten snapshots say when something may be deleted, and
    /// must never be a writer's word.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn look_at_received(&self, file_type: FileType, content: &[u8]) -> Result<(), String> {
        if !matches!(file_type, FileType::Index | FileType::Snapshot | FileType::Lock) {
            return Ok(());
        }
        let json = match self.open_file(file_type, &Id::of(content), content.to_vec()) {
            Ok(json) => json,
            Err(Error::Damaged { reason, .. }) => return Err(reason),
            Err(error) => return Err(with_sources(&error)),
        };
        match file_type {
            FileType::Index => {
                let file = index_file::decode(&json)?;
                match file.marks.is_some() || file.forgotten.is_some() {
                    true => {
                        Err("it says what a prune may delete: that is for the keeper of the repository alone".into())
                    }
                    false => Ok(()),
                }
            }
            FileType::Snapshot => {
                let snapshot = serde_json::from_slice::<Snapshot>(&json);
                snapshot.map(drop).map_err(|error| format!("its JSON is not as it must be: {error}"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use jiff::Timestamp;
    use levee_store::{LocalStore, Store};

    use super::*;
    use crate::forget::record_forgotten;
    use crate::{Chunking, Lock, LockMode, NodeMeta, Password, SnapshotOptions, SnapshotWriter, index_marks};

    #[test]
    fn a_writer_adds_what_can_be_read_and_says_nothing_of_deletions() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(LocalStore::new(folder.path()));
        let vault = Vault::init(store.clone(), &Password::new("password")).unwrap();
        let mut writer = SnapshotWriter::begin(&vault, SnapshotOptions::default()).unwrap();
        let meta = NodeMeta::new(0o600, Timestamp::UNIX_EPOCH);
        writer.file(Path::new("file"), &meta, &mut &b"content"[..], Chunking::Content).unwrap();
        let snapshot = writer.finish().unwrap().snapshot_id.unwrap();
        let lock = Lock::take(&vault, LockMode::Shared).unwrap();
        let look_at_all = |file_type: FileType| -> Vec<Result<(), String>> {
            let entries = store.list(file_type).unwrap();
            assert!(!entries.is_empty(), "{file_type}");
            let look = |name: &str| vault.look_at_received(file_type, &store.read(file_type, name).unwrap());
            entries.iter().map(|entry| look(&entry.name)).collect()
        };
        for file_type in [FileType::Data, FileType::Index, FileType::Snapshot, FileType::Lock] {
            assert!(look_at_all(file_type).iter().all(Result::is_ok), "{file_type}");
            let junk = vault.look_at_received(file_type, b"junk, as long as you like: it opens with no key");
            assert_eq!(junk.is_ok(), file_type == FileType::Data, "{file_type}");
        }
        drop(lock);
        for (file_type, json) in [(FileType::Index, &b"[]]"[..]), (FileType::Snapshot, &b"{}"[..])] {
            let id = vault.write_file_json(file_type, json).unwrap();
            assert_eq!(look_at_all(file_type).iter().filter(|looked| looked.is_err()).count(), 1, "{file_type}");
            store.remove(file_type, &id.to_hex()).unwrap();
        }
        record_forgotten(&vault, &[snapshot], Timestamp::UNIX_EPOCH).unwrap();
        let marks = index_marks::Marks { version: index_marks::VERSION, ..Default::default() };
        vault.write_file_json(FileType::Index, &index_file::encode_marks(&marks).unwrap()).unwrap();
        let refused: Vec<String> = look_at_all(FileType::Index).into_iter().filter_map(Result::err).collect();
        assert!(refused.len() == 2 && refused.iter().all(|reason| reason.contains("may delete")), "{refused:?}");
    }
}
