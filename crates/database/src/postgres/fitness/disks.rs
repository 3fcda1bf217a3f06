//! The room that a database would need.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Place;
use crate::postgres::base::BaseFacts;
use crate::postgres::restore::default_tablespaces;

const MEBIBYTE: u64 = 1 << 20;

/// What a file system would have to take, against what is free on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The first folder that would be put there.
    pub path: PathBuf,
    pub needed_bytes: u64,
    pub free_bytes: u64,
}

impl Disk {
    pub(super) fn problem(&self) -> Option<String> {
        (self.needed_bytes > self.free_bytes).then(|| {
            format!(
                "the database has no room here: {} needs {} MiB, and {} MiB are free on its disk. Make room there, or give \
                 the database another place",
                self.path.display(),
                self.needed_bytes.div_ceil(MEBIBYTE),
                self.free_bytes / MEBIBYTE
            )
        })
    }
}

/// What whoever is not root may still write on the file system that a folder is on, or would be.
pub fn free_bytes(path: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(existing(path)?).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// The nearest folder that is there already.
fn existing(path: &Path) -> Option<&Path> {
    path.ancestors().find(|folder| folder.is_dir())
}

/// One for each file system that something would be put on.
pub(super) fn of(facts: &BaseFacts, place: &Place<'_>) -> Vec<Disk> {
    let in_tablespaces: u64 = facts.tablespaces.iter().map(|tablespace| tablespace.bytes).sum();
    let data = (place.data_directory.to_path_buf(), facts.bytes.saturating_sub(in_tablespaces));
    let tablespaces = facts.tablespaces.iter().map(|tablespace| {
        let target = match place.tablespaces.get(Path::new(&tablespace.location)) {
            Some(target) => target.clone(),
            None => default_tablespaces(place.data_directory).join(tablespace.oid.to_string()),
        };
        (target, tablespace.bytes)
    });
    let mut disks: BTreeMap<u64, Disk> = BTreeMap::new();
    for (path, bytes) in std::iter::once(data).chain(tablespaces) {
        // It is put together beside its place.
        let Some(folder) = path.parent().and_then(existing) else { continue };
        let (Ok(metadata), Some(free_bytes)) = (folder.metadata(), free_bytes(folder)) else { continue };
        let disk = disks.entry(metadata.dev()).or_insert(Disk { path, needed_bytes: 0, free_bytes });
        disk.needed_bytes = disk.needed_bytes.saturating_add(bytes);
    }
    disks.into_values().collect()
}
