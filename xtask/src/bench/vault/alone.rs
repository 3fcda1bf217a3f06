//! The ceiling: what a backup, a restore and a check must compute of these bytes in any case, with nothing around it.

use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::within;

/// What computing alone came to, on one core.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Ceiling {
    pub mib_per_cpu_second: f64,
    /// Of a first backup.
    pub cpu_s: f64,
    pub stored_bytes: u64,
    /// Every blob decrypted, decompressed and hashed.
    pub restore_cpu_s: f64,
    /// The same, and every pack hashed.
    pub check_cpu_s: f64,
}

/// Computes what a first backup of a folder computes (every file cut, hashed, compressed, encrypted and read back), and what
/// a restore and a check of it do.
pub fn measure(folder: &Path) -> Result<Ceiling> {
    eprintln!("computing alone");
    within::measure(&["ceiling", &folder.to_string_lossy()])
}
