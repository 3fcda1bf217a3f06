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
use levee_store::{FileType, Store};
use rustix::fs::FlockOperation;
use rustix::io::Errno;

pub use custody::{Custody, CustodyEvent, CustodySnapshot, CustodyVolume};
pub use volume_store::VolumeStore;

use crate::{CopyOptions, CopyReport, Error, Id, Progress, Result, Vault, copy};
use volume_store::volumes_in;

/// Volumes are not made smaller than this: a pack must fit in.
pub const VOLUME_BYTES_MIN: u64 = 64 << 20;

/// Where the records of a volume end.
#[cfg(any(test, fuzzing))]
pub(crate) fn scan_volume(file: &File) -> std::io::Result<Option<u64>> {
    Ok(volume::scan(file)?.map(|(_, end)| end))
}

/// What an export has written.
#[derive(Debug)]
pub struct Exported {
    pub report: CopyReport,
    pub custody: Custody,
    /// Key files in the volumes that are none of the vault's any more. Nothing is ever removed from volumes, so that the
    /// passwords of these open them still.
    pub old_keys: Vec<Id>,
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
) -> Result<Exported> {
    let _claim = claim(folder)?;
    // Not to be trusted before its seal is verified, but whatever it vouches for is not cut off.
    let earlier = Custody::read_if_there(folder)?;
    if let Some(earlier) = &earlier {
        earlier.require_volumes(folder)?;
    }
    let vouched = |name: &str| earlier.as_ref().map_or(0, |earlier| earlier.vouched_bytes(name));
    let store = Arc::new(VolumeStore::for_writing(folder, volume_bytes.max(VOLUME_BYTES_MIN), &vouched)?);
    let key_files = vault.key_files()?;
    let transport = match Vault::open_with_master_key(store.clone(), vault.master_key().clone()) {
        Err(Error::NoRepository { .. }) => Vault::init_with_keys(store.clone(), vault.master_key(), &key_files)?,
        other => other?,
    };
    // Passwords may have changed since the set was begun, and today's must open it. What is there already is not written.
    for key_file in &key_files {
        store.write(FileType::Key, &key_file.id, &key_file.content)?;
    }
    let mut old_keys = transport.list_ids(FileType::Key)?;
    old_keys.retain(|id| !key_files.iter().any(|key_file| key_file.id == id.to_hex()));
    let report = copy(vault, &transport, options, progress)?;
    let custody = Custody::write(vault, &transport, &store, folder, now)?;
    Ok(Exported { report, custody, old_keys })
}

/// What an export into a folder would write there. Nothing is written, and no folder is made.
pub fn plan_export(vault: &Vault, folder: &Path, options: &CopyOptions, progress: &dyn Progress) -> Result<CopyReport> {
    let list = |source| Error::Target { action: "list", path: folder.into(), source };
    let volumes = if folder.is_dir() { volumes_in(folder).map_err(list)? } else { Vec::new() };
    if let Some(earlier) = Custody::read_if_there(folder)? {
        earlier.require_volumes(folder)?;
    }
    let store: Arc<dyn Store> = Arc::new(VolumeStore::for_reading(folder, &volumes)?);
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
/// store to open the vault in it with. Of volumes that lie there more than once any sound copy does, and nothing that was
/// not verified is in the store.
pub fn open_volumes(folders: &[PathBuf], progress: &dyn Progress) -> Result<(Arc<dyn Store>, Custody)> {
    let custody = Custody::read(folders)?;
    let volumes = custody.verify_volumes(folders, progress)?;
    let first = folders.first().cloned().unwrap_or_default();
    Ok((Arc::new(VolumeStore::for_reading(&first, &volumes)?), custody))
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
