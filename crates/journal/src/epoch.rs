//! The sealed epoch of a journal: once it is raised, no flush of an older one succeeds.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use levee_model::Epoch;
use rustix::fs::FlockOperation;

use crate::{Error, Result, durable};

/// Guards the epoch between processes and threads: a flush holds the lock shared, sealing alone.
pub(crate) struct EpochGate {
    file: PathBuf,
    lock_path: PathBuf,
    lock: File,
}

impl EpochGate {
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let lock_path = dir.join("epoch.lock");
        let lock = durable::lock_file(&lock_path)?;
        Ok(Self { file: dir.join("epoch"), lock_path, lock })
    }

    /// Raises the epoch durably. When it returns, whatever an older writer has got acknowledged is
    /// already readable, and nothing more will be.
    pub(crate) fn seal(&self, epoch: Epoch) -> Result<()> {
        let _locked = self.locked(FlockOperation::LockExclusive)?;
        let sealed = read(&self.file)?;
        match epoch.cmp(&sealed) {
            std::cmp::Ordering::Less => Err(Error::StaleEpoch { epoch, sealed }),
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Greater => durable::write(&self.file, format!("{epoch}\n").as_bytes()),
        }
    }

    /// Does the work only while no newer epoch is sealed, and holds off sealing until it is done.
    pub(crate) fn while_current<T>(&self, epoch: Epoch, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let _locked = self.locked(FlockOperation::LockShared)?;
        let sealed = read(&self.file)?;
        if epoch < sealed {
            return Err(Error::StaleEpoch { epoch, sealed });
        }
        work()
    }

    fn locked(&self, operation: FlockOperation) -> Result<Unlock<'_>> {
        durable::lock(&self.lock, &self.lock_path, operation)?;
        Ok(Unlock(&self.lock))
    }
}

struct Unlock<'a>(&'a File);

impl Drop for Unlock<'_> {
    fn drop(&mut self) {
        // Can't fail on an open file; closing it would unlock it as well.
        let _ = rustix::fs::flock(self.0, FlockOperation::Unlock);
    }
}

/// The sealed epoch; 0 when nothing was ever sealed.
pub(crate) fn current(dir: &Path) -> Result<Epoch> {
    read(&dir.join("epoch"))
}

fn read(file: &Path) -> Result<Epoch> {
    match fs::read_to_string(file) {
        Ok(text) => text
            .trim()
            .parse()
            .map(Epoch)
            .map_err(|_| Error::damaged(file, 0, "it should hold one number, the sealed epoch")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Epoch(0)),
        Err(error) => Err(Error::io("read", file)(error)),
    }
}
