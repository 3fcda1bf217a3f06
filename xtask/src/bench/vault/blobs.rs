//! The repository of many blobs.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use levee_store::{FileType, LocalStore, Store};
use levee_vault::measure::{SyntheticRepository, make_synthetic};
use levee_vault::{Password, Vault};

use super::tools::PASSWORD;

/// What a small backup holds.
pub const SMALL_BACKUP_FILES: u64 = 2000;

/// Fills the empty repository of a folder.
pub fn make(repository: &Path, blobs: u64) -> Result<SyntheticRepository> {
    let store = Arc::new(LocalStore::new(repository));
    let vault = Vault::open(store, &Password::new(PASSWORD))?;
    Ok(make_synthetic(&vault, repository, blobs)?)
}

/// How many packs there are.
pub fn packs(repository: &Path) -> Result<u64> {
    Ok(LocalStore::new(repository).list(FileType::Data)?.len() as u64)
}
