//! Writing small files so that they are whole and durable, or not there at all.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::{Error, Result};

/// Writes beside, syncs, renames, and syncs the folder: after a crash there is the old content or the new.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<()> {
    let beside = path.with_added_extension("tmp");
    let mut file = File::create(&beside).map_err(Error::io("create", &beside))?;
    file.write_all(content).map_err(Error::io("write", &beside))?;
    file.sync_all().map_err(Error::io("sync", &beside))?;
    rename(&beside, path)
}

/// Renames inside one folder, durably.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(Error::io("rename", from))?;
    sync_folder_of(to)
}

pub(crate) fn sync_folder_of(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), sync_folder)
}

pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io("sync", folder))
}

/// Creates a folder and what is missing above it, durably.
pub(crate) fn create_folder(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).map_err(Error::io("create", path))?;
    sync_folder_of(path)
}

/// Removes a file; that it is already gone is fine.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Opens (creating it) a file that is only there to be locked with `flock`.
pub(crate) fn lock_file(path: &Path) -> Result<File> {
    // Not truncated: another process may hold it.
    OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(Error::io("open", path))
}

/// Waits for the lock. It is let go when the file is closed.
pub(crate) fn lock(file: &File, path: &Path, operation: FlockOperation) -> Result<()> {
    loop {
        match flock(file, operation) {
            Err(rustix::io::Errno::INTR) => continue,
            result => return result.map_err(|errno| Error::io("lock", path)(errno.into())),
        }
    }
}
