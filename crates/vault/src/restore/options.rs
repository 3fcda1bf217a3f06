//! What can be asked of a restore, and how it says it went.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::owners::{OwnerMap, Owners};
use crate::Problems;

/// What happens to files that are there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overwrite {
    /// Their content is compared, and what differs is written.
    #[default]
    Always,
    /// As `Always`, but a file of the same size and time of change is taken for equal.
    IfChanged,
    /// Only when the snapshot's file is newer.
    IfNewer,
    Never,
}

/// Which files get holes instead of blocks full of zeros. A snapshot says what a file holds, not where the disk had
/// nothing: a file that was written full of zeros cannot be told from one that was never written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Holes {
    /// Those that are made anew. With its zeros written out, a sparse file may be larger than the disk.
    #[default]
    InNew,
    /// Also those that are there: what differs and is to hold zeros is given back to the disk.
    Everywhere,
    /// None, for what must have its blocks, such as swap files.
    Never,
}

/// What to restore, and how.
#[derive(Clone, Debug, Default)]
pub struct RestoreOptions {
    /// Made when it isn't there.
    pub target: PathBuf,
    /// Restore what this directory of the snapshot holds straight into the target.
    pub subfolder: Option<PathBuf>,
    /// Patterns as restic's `--include` has them, of paths that begin at the subfolder; none means everything.
    pub includes: Vec<String>,
    /// The same without regard to capitals.
    pub includes_ignoring_case: Vec<String>,
    /// Patterns as restic's `--exclude` has them.
    pub excludes: Vec<String>,
    pub excludes_ignoring_case: Vec<String>,
    /// Patterns of names of extended attributes, ACLs and capabilities among them; none means all.
    pub include_attributes: Vec<String>,
    pub exclude_attributes: Vec<String>,
    pub overwrite: Overwrite,
    pub holes: Holes,
    /// Read everything again in the end and compare.
    pub verify: bool,
    /// Remove what the snapshot doesn't have, within what the patterns choose.
    pub delete: bool,
    /// Look and compare, but change nothing.
    pub dry_run: bool,
    pub owners: Owners,
    pub owner_map: OwnerMap,
    /// Give everything to this user and group, rather than to those of the snapshot.
    pub owner: Option<(u32, u32)>,
    /// Return only when everything is on the disk.
    pub durable: bool,
    pub lock: RestoreLock,
    /// How long to wait for others' locks.
    pub patience: Duration,
}

/// Whether a restore keeps others from removing what it reads. It never reads anything wrong without: what is gone is an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestoreLock {
    #[default]
    Needed,
    /// Where no lock can be had, or none be written, the restore goes on without one: nothing may hold up what brings an
    /// app back, neither a long check nor a full disk.
    IfPossible,
    /// For repositories that cannot be written to.
    None,
}

/// How a restore went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RestoreSummary {
    pub directories: u64,
    pub files_restored: u64,
    /// Files that needed nothing, or were to be left alone.
    pub files_unchanged: u64,
    pub files_deleted: u64,
    /// Symbolic links, hard links, devices and FIFOs.
    pub others: u64,
    pub total_bytes: u64,
    pub bytes_written: u64,
    /// What could not be restored.
    pub errors: Problems,
}
