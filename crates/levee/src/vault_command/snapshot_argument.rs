//! `SNAPSHOT:FOLDER`, as restic takes it.

use std::path::{Path, PathBuf};

use levee_vault::{Id, Snapshot, SnapshotId, SnapshotSelection, Vault};

use super::ended;

/// The snapshot and the folder in it that an argument names.
pub struct Chosen {
    pub id: SnapshotId,
    pub snapshot: Snapshot,
    /// `/` when none was named.
    pub folder: PathBuf,
}

impl Chosen {
    pub fn find(vault: &Vault, argument: &str, filter: &SnapshotSelection) -> anyhow::Result<Self> {
        let (wanted, folder) = argument.split_once(':').unwrap_or((argument, "/"));
        let (id, snapshot) = vault.find_snapshot(wanted, filter).map_err(ended)?;
        Ok(Self { id, snapshot, folder: PathBuf::from(folder) })
    }

    /// How many files the snapshot says it holds. `None` when it doesn't say, and when only a folder of it is meant.
    pub fn files(&self) -> Option<u64> {
        let summary = self.snapshot.summary.as_ref().filter(|_| self.folder == Path::new("/"));
        summary.map(|summary| summary.total_files_processed)
    }

    /// The tree of the folder.
    pub fn tree(&self, vault: &Vault) -> anyhow::Result<Id> {
        vault.directory_tree(&self.id, &self.folder).map_err(ended)
    }
}
