//! Carrying snapshots on disks: a set of volumes, with a record of who made it, when, and of what.
//!
//! The volumes hold a vault of their own in the repository's format, under the same key and passwords as the
//! vault that they come from. So exporting and importing are copying, with everything that copying
//! verifies and leaves out; an export that was cut short goes on where it was.

mod custody;
mod volume;
mod volume_store;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use levee_store::Store;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

pub use custody::{Custody, CustodyEvent, CustodySnapshot, CustodyVolume};
pub use volume_store::VolumeStore;

use crate::{CopyOptions, CopyReport, Error, Progress, Result, Vault, copy};

/// Volumes are not made smaller than this: a pack must fit in.
pub const VOLUME_BYTES_MIN: u64 = 64 << 20;

/// Where the records of a volume end.
#[cfg(any(test, fuzzing))]
pub(crate) fn scan_volume(file: &File) -> std::io::Result<Option<u64>> {
    Ok(volume::scan(file)?.map(|(_, end)| end))
}

/// Writes the chosen snapshots of a vault into a folder of volumes, none larger than `volume_bytes`, and
/// then their custody record.
pub fn export(
    vault: &Vault,
    folder: &Path,
    volume_bytes: u64,
    options: &CopyOptions,
    now: Timestamp,
    progress: &dyn Progress,
) -> Result<(CopyReport, Custody)> {
    let _claim = claim(folder)?;
    // Not to be trusted before its seal is verified, but whatever it vouches for is not cut off.
    let earlier = Custody::read_if_there(folder)?;
    if let Some(earlier) = &earlier {
        earlier.require_volumes(folder)?;
    }
    let vouched = |name: &str| earlier.as_ref().map_or(0, |earlier| earlier.vouched_bytes(name));
    let store = Arc::new(VolumeStore::for_writing(folder, volume_bytes.max(VOLUME_BYTES_MIN), &vouched)?);
    let transport = match Vault::open_with_master_key(store.clone(), vault.master_key().clone()) {
        Err(Error::NoRepository { .. }) => {
            Vault::init_with_keys(store.clone(), vault.master_key(), &vault.key_files()?)?
        }
        other => other?,
    };
    let report = copy(vault, &transport, options, progress)?;
    let custody = Custody::write(vault, &transport, &store, folder, now)?;
    Ok((report, custody))
}

/// What an export into a folder would write there. Nothing is written, and no folder is made.
pub fn plan_export(vault: &Vault, folder: &Path, options: &CopyOptions, progress: &dyn Progress) -> Result<CopyReport> {
    let folders = if folder.is_dir() { vec![folder.to_path_buf()] } else { Vec::new() };
    if let Some(earlier) = Custody::read_if_there(folder)? {
        earlier.require_volumes(folder)?;
    }
    let store: Arc<dyn Store> = Arc::new(VolumeStore::for_reading(&folders)?);
    let transport = match Vault::open_with_master_key(store.clone(), vault.master_key().clone()) {
        Err(Error::NoRepository { .. }) => Vault::unstored(store, vault.master_key())?,
        other => other?,
    };
    copy(vault, &transport, &CopyOptions { dry_run: true, ..options.clone() }, progress)
}

/// Keeps other exports out of a folder, which is made when it isn't there, until what it gives is dropped: two that
/// append to one volume would write over each other.
fn claim(folder: &Path) -> Result<File> {
    let target = |source| Error::Target { action: "open", path: folder.into(), source };
    std::fs::create_dir_all(folder).map_err(target)?;
    let claim = File::open(folder).map_err(target)?;
    match rustix::fs::flock(&claim, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => {
            let reason = "another export into this folder is under way; try again when it has ended".into();
            Err(Error::Custody { path: folder.into(), reason })
        }
        // Not every file system can lock a folder; then nobody is kept out.
        _ => Ok(claim),
    }
}

/// Verifies a set of volumes, which may lie in several folders, against its custody record, and gives the
/// store to open the vault in it with.
pub fn open_volumes(folders: &[PathBuf], progress: &dyn Progress) -> Result<(Arc<dyn Store>, Custody)> {
    let custody = Custody::read(folders)?;
    custody.verify_volumes(folders, progress)?;
    Ok((Arc::new(VolumeStore::for_reading(folders)?), custody))
}

/// Copies everything from an opened set of volumes into a vault. The custody record must be the one that
/// the key's holder made.
pub fn import(
    transport: &Vault,
    custody: &Custody,
    vault: &Vault,
    options: &CopyOptions,
    progress: &dyn Progress,
) -> Result<CopyReport> {
    custody.verify_seal(transport)?;
    copy(transport, vault, options, progress)
}
