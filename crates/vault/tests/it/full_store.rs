//! A store that has no room left, not even for an index file.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use levee_store::{Error, FileType, Result, Store};
use levee_vault::repair::{RepairOptions, repair_index};
use levee_vault::{Chunking, NodeMeta, PruneOptions, SnapshotId, SnapshotOptions, SnapshotWriter, Vault};

use crate::breaking::{BREAKS, Breaking, OPERATIONS_MAX};
use crate::support::*;

/// Index files are written only into what was freed before.
struct FullStore {
    store: Arc<dyn Store>,
    free_bytes: AtomicU64,
}

impl Store for FullStore {
    levee_store::forward!(store: create, read, read_range, size_bytes, list, location);

    fn write(&self, file_type: FileType, name: &str, content: &[u8]) -> Result<()> {
        if file_type == FileType::Index {
            let needed = content.len() as u64;
            let taken =
                self.free_bytes.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |free| free.checked_sub(needed));
            taken.map_err(|_| Error::Full { location: self.location(), file_type, name: name.into() })?;
        }
        self.store.write(file_type, name, content)
    }

    fn remove(&self, file_type: FileType, name: &str) -> Result<()> {
        let freed = self.store.size_bytes(file_type, name)?;
        self.store.remove(file_type, name)?;
        self.free_bytes.fetch_add(freed, Ordering::SeqCst);
        Ok(())
    }
}

fn store(vault: &Vault, seed: u64) -> SnapshotId {
    let mut writer = SnapshotWriter::begin(vault, SnapshotOptions::default()).unwrap();
    let meta = NodeMeta::new(0o600, Timestamp::UNIX_EPOCH);
    writer.file(Path::new("file"), &meta, &mut &noise(60_000, seed)[..], Chunking::Content).unwrap();
    writer.finish().unwrap().snapshot_id.unwrap()
}

const APPLY: RepairOptions = RepairOptions { apply: true, patience: std::time::Duration::ZERO };

#[test]
fn a_store_without_room_for_an_index_gets_its_space_back() {
    let original = Scratch::new();
    let vault = original.init();
    let (gone, kept) = (store(&vault, 1), store(&vault, 2));
    vault.remove_snapshot(&gone).unwrap();
    // One index file for all packs, so that it has to be written anew.
    original.files("index").iter().for_each(|file| std::fs::remove_file(file).unwrap());
    assert_eq!(repair_index(&original.open(), false, APPLY, &()).unwrap().added_packs.len(), 4);
    let key = vault.master_key();
    for operations in 0..OPERATIONS_MAX {
        let scratch = original.copied();
        let full = Arc::new(FullStore { store: scratch.store(), free_bytes: AtomicU64::new(0) });
        let how = BREAKS[operations as usize % BREAKS.len()];
        let options = PruneOptions { recover_space: true, ..PruneOptions::default() };
        let pruned =
            levee_vault::prune(&Breaking::vault_on(full, key, operations, how), &options, Timestamp::now(), &());
        let context = format!("{how:?} operation {operations}: {pruned:?}");
        let vault = scratch.open_with(key);
        levee_vault::unlock(&vault, true).unwrap();
        // What the index names is there, so that no backup relies on what is gone.
        let report = levee_vault::check(&vault, READ_ALL, &()).unwrap();
        assert!(
            report.errors.iter().all(|finding| !finding.message.contains("it is missing")),
            "{context}: {report:?}"
        );
        if pruned.is_err() {
            repair_index(&scratch.open_with(key), false, APPLY, &()).unwrap();
        }
        let vault = scratch.open_with(key);
        let report = levee_vault::check(&vault, READ_ALL, &()).unwrap();
        assert!(report.is_sound(), "{context}: {report:?}");
        assert!(vault.read_file(&kept, Path::new("file")).unwrap() == noise(60_000, 2), "{context}");
        if let Ok(report) = pruned {
            assert_eq!((report.packs_deleted, scratch.files("data").len()), (2, 2), "{context}");
            assert!(operations > 8, "{context}");
            return;
        }
    }
    panic!("it never succeeds");
}
