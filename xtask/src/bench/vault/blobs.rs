//! The repository of many blobs.

use std::fs;
use std::path::Path;

use anyhow::Result;
use serde::Deserialize;

use super::within;

/// What a small backup holds.
pub const SMALL_BACKUP_FILES: u64 = 2000;

#[derive(Debug, Deserialize)]
pub struct Made {
    /// A snapshot without which a fiftieth of the packs can be pruned.
    pub to_remove: String,
    pub packs: u64,
}

/// Fills the empty repository of a folder.
pub fn make(repository: &Path, blobs: u64) -> Result<Made> {
    within::measure(&["fill", &repository.to_string_lossy(), &blobs.to_string()])
}

/// How many packs there are.
pub fn packs(repository: &Path) -> Result<u64> {
    let mut packs = 0;
    for folder in fs::read_dir(repository.join("data"))? {
        packs += fs::read_dir(folder?.path())?.count() as u64;
    }
    Ok(packs)
}
