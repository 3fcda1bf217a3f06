//! The custody record: what a set of volumes holds, who made it when, and the hash of every volume.
//!
//! It is plain JSON, for people and for customs. Its `seal` is the SHA-256 of the rest, sealed with the vault's
//! key: nobody without the key can change the record or make another.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::volume_store::{VolumeStore, is_volume_name, volumes_in};
use crate::accounts::Whoami;
use crate::copy::{Identity, by_identity};
use crate::problem::with_sources;
use crate::vault::to_json;
use crate::{Error, Event, Id, Progress, Result, SnapshotId, Vault};

const FILE_NAME: &str = "custody.json";
const VERSION: u32 = 2;
/// In version 1 a snapshot's `id` was what is its `original` now.
const VERSION_MIN: u32 = 1;
/// A record for a million snapshots stays below this.
const RECORD_BYTES_MAX: u64 = 1 << 30;
const READ_BYTES: usize = 1 << 20;

/// The record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Custody {
    pub version: u32,
    /// The vault that it was made from.
    pub vault: Id,
    pub snapshots: Vec<CustodySnapshot>,
    pub volumes: Vec<CustodyVolume>,
    pub files: u64,
    pub bytes: u64,
    /// Each time that the set was written to, the last one last.
    pub events: Vec<CustodyEvent>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub seal: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CustodySnapshot {
    /// Its name in the vault that it comes from, when it was exported.
    pub id: SnapshotId,
    /// The snapshot that it was made from, by tagging, rewriting or copying, where that is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<Id>,
    /// Its name in the volumes. `None` in records of version 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_as: Option<SnapshotId>,
    #[serde(with = "crate::file_time::as_timestamp")]
    pub time: Timestamp,
    pub hostname: String,
    pub paths: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CustodyVolume {
    pub name: String,
    pub bytes: u64,
    pub sha256: Id,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CustodyEvent {
    pub what: String,
    #[serde(with = "crate::file_time::as_timestamp")]
    pub at: Timestamp,
    pub by: String,
}

impl CustodyEvent {
    pub fn now(what: &str, at: Timestamp) -> Self {
        let Whoami { hostname, username, .. } = Whoami::now();
        Self { what: what.into(), at, by: format!("{username}@{hostname}") }
    }
}

fn failed(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::Target { action, path, source }
}

impl Custody {
    /// Records what is in the volumes now, beside what an earlier record says has happened to them.
    pub(super) fn write(
        vault: &Vault,
        transport: &Vault,
        store: &VolumeStore,
        folder: &Path,
        now: Timestamp,
    ) -> Result<Self> {
        let earlier = Self::read_if_there(folder)?;
        if let Some(earlier) = &earlier {
            earlier.verify_seal(transport)?;
        }
        let earlier = earlier.map(|earlier| (earlier.events, earlier.volumes, earlier.snapshots));
        let (mut events, vouched, recorded) = earlier.unwrap_or_default();
        events.push(CustodyEvent::now("exported", now));
        let snapshots = snapshots_of(vault, transport, &recorded)?;
        let mut volumes = Vec::new();
        for path in volumes_in(folder).map_err(failed(folder, "list"))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let earlier = vouched.iter().find(|earlier| earlier.name == name);
            let hashed = hash_with_beginning(&path, earlier.map_or(0, |earlier| earlier.bytes), &());
            let Hashed { bytes, sha256, beginning } = hashed.map_err(failed(&path, "read"))?;
            // Volumes only grow. What has changed otherwise must not come under a new seal.
            if earlier.is_some_and(|earlier| beginning != Some(earlier.sha256)) {
                let reason = "it is not what the earlier custody record names: put back a sound copy of it, or export \
                              into an empty folder";
                return Err(Error::Custody { path, reason: reason.into() });
            }
            volumes.push(CustodyVolume { name, bytes, sha256 });
        }
        let bytes = volumes.iter().map(|volume| volume.bytes).sum();
        let (version, files, vault, seal) = (VERSION, store.files(), vault.id(), String::new());
        let mut custody = Self { version, vault, snapshots, volumes, files, bytes, events, seal };
        custody.seal = BASE64.encode(transport.key().seal(custody.hash()?.as_bytes())?);
        let path = folder.join(FILE_NAME);
        write_whole(folder, &path, &to_json(&custody)?).map_err(failed(&path, "write"))?;
        Ok(custody)
    }

    /// The hash that the seal holds.
    fn hash(&self) -> Result<Id> {
        Ok(Id::of(&to_json(&Self { seal: String::new(), ..self.clone() })?))
    }

    /// The record in a folder; `None` when there is none yet.
    pub(super) fn read_if_there(folder: &Path) -> Result<Option<Self>> {
        match Self::read(&[folder.to_path_buf()]) {
            Err(Error::NoCustody { .. }) => Ok(None),
            other => other.map(Some),
        }
    }

    /// An error when a volume is not in the folder: another one would get its name.
    pub(super) fn require_volumes(&self, folder: &Path) -> Result<()> {
        match self.volumes.iter().find(|volume| !folder.join(&volume.name).exists()) {
            Some(missing) => Err(Error::MissingVolume { name: missing.name.clone(), count: self.volumes.len() }),
            None => Ok(()),
        }
    }

    /// How many bytes of a volume this record speaks of.
    pub(super) fn vouched_bytes(&self, volume: &str) -> u64 {
        self.volumes.iter().find(|known| known.name == volume).map_or(0, |known| known.bytes)
    }

    /// Reads the record of a set of volumes from whichever of the folders has it. With two different ones nobody could say
    /// which volumes belong to which.
    pub(super) fn read(folders: &[PathBuf]) -> Result<Self> {
        let mut found: Option<(PathBuf, Self)> = None;
        for path in folders.iter().map(|folder| folder.join(FILE_NAME)).filter(|path| path.exists()) {
            let custody = Self::read_from(&path)?;
            match &found {
                None => found = Some((path, custody)),
                Some((first, known)) => {
                    if *known != custody {
                        let reason = format!(
                            "this record is not the same as {}: import one set of volumes at a time, and leave out older copies of it",
                            first.display()
                        );
                        return Err(Error::Custody { path, reason });
                    }
                }
            }
        }
        let none = || Error::NoCustody { folder: folders.first().cloned().unwrap_or_default() };
        found.map(|(_, custody)| custody).ok_or_else(none)
    }

    fn read_from(path: &Path) -> Result<Self> {
        let refused = |reason: String| Error::Custody { path: path.into(), reason };
        let mut json = Vec::new();
        let file = File::open(path).map_err(failed(path, "open"))?;
        file.take(RECORD_BYTES_MAX).read_to_end(&mut json).map_err(failed(path, "read"))?;
        let custody: Self =
            serde_json::from_slice(&json).map_err(|error| refused(format!("it is no custody record: {error}")))?;
        if !(VERSION_MIN..=VERSION).contains(&custody.version) {
            let version = custody.version;
            return Err(refused(format!("version {version} is not supported ({VERSION_MIN} to {VERSION} are)")));
        }
        Ok(custody)
    }

    /// Whether the record is as the holder of the vault's key has written it.
    pub(super) fn verify_seal(&self, transport: &Vault) -> Result<()> {
        let hash = self.hash()?;
        let opened = BASE64.decode(&self.seal).ok().and_then(|mut sealed| {
            let opened = transport.key().open_in_place(&mut sealed).ok()?;
            Some(*opened == hash.as_bytes()[..])
        });
        if opened == Some(true) {
            return Ok(());
        }
        let reason = "its seal is not that of the vault's key: it was changed, or belongs to another set".into();
        Err(Error::Custody { path: FILE_NAME.into(), reason })
    }

    /// Reads every volume and compares it with the record, and gives the files that are as it says, one for each volume. A
    /// volume that is missing, or of which every copy differs, is named.
    pub(super) fn verify_volumes(&self, folders: &[PathBuf], progress: &dyn Progress) -> Result<Vec<PathBuf>> {
        let mut bytes = self.bytes;
        progress.report(Event::Total { items: self.volumes.len() as u64, bytes });
        let mut verified = Vec::new();
        for volume in &self.volumes {
            // The seal is not verified yet, and nothing but volumes is to be read on the record's word.
            if !is_volume_name(&volume.name) {
                let reason = format!("{:?} is no name of a volume", volume.name);
                return Err(Error::Custody { path: FILE_NAME.into(), reason });
            }
            let mut failure = None;
            let mut copies = folders.iter().map(|folder| folder.join(&volume.name)).filter(|path| path.exists());
            let sound = copies.find(|path| match volume.verify(path, progress) {
                Ok(()) => true,
                Err(error) => {
                    failure.get_or_insert(error);
                    // Another copy may be sound, and is read as well.
                    bytes = bytes.saturating_add(volume.bytes);
                    progress.report(Event::Total { items: self.volumes.len() as u64, bytes });
                    false
                }
            });
            match (sound, failure) {
                (Some(path), None) => verified.push(path),
                (Some(path), Some(error)) => {
                    tracing::warn!("{}; {} is used instead", with_sources(&error), path.display());
                    verified.push(path);
                }
                (None, Some(error)) => return Err(error),
                (None, None) => {
                    return Err(Error::MissingVolume { name: volume.name.clone(), count: self.volumes.len() });
                }
            }
        }
        Ok(verified)
    }
}

impl CustodyVolume {
    /// An error when a file is not this volume.
    fn verify(&self, path: &Path, progress: &dyn Progress) -> Result<()> {
        let Hashed { bytes, sha256, .. } = hash_with_beginning(path, 0, progress).map_err(failed(path, "read"))?;
        if (bytes, sha256) == (self.bytes, self.sha256) {
            return Ok(());
        }
        let reason = "it is not the volume that the custody record names: copy it again".into();
        Err(Error::Custody { path: path.into(), reason })
    }
}

/// What is said of the snapshots in the volumes. What they were called in the vault an earlier record knows of those that
/// it names, and the vault of the others.
fn snapshots_of(vault: &Vault, transport: &Vault, recorded: &[CustodySnapshot]) -> Result<Vec<CustodySnapshot>> {
    let recorded = recorded.iter().filter_map(|snapshot| Some((snapshot.stored_as?, snapshot.id)));
    let recorded: HashMap<SnapshotId, SnapshotId> = recorded.collect();
    let in_vault = by_identity(vault.list_snapshots()?.readable)?;
    let mut snapshots = Vec::new();
    for (stored_as, snapshot) in transport.snapshots()? {
        let original = snapshot.original.unwrap_or(stored_as.0);
        let id = match recorded.get(&stored_as) {
            Some(id) => *id,
            // One that was forgotten meanwhile has no name there any more.
            None => in_vault.get(&Identity::of(original, &snapshot)?).copied().unwrap_or(SnapshotId(original)),
        };
        snapshots.push(CustodySnapshot {
            id,
            original: (original != id.0).then_some(original),
            stored_as: Some(stored_as),
            time: snapshot.time,
            hostname: snapshot.hostname,
            paths: snapshot.paths,
        });
    }
    Ok(snapshots)
}

/// A file's hash.
struct Hashed {
    bytes: u64,
    sha256: Id,
    /// That of its beginning alone; `None` when the file is shorter.
    beginning: Option<Id>,
}

/// Reads a file once for both hashes.
fn hash_with_beginning(path: &Path, beginning_bytes: u64, progress: &dyn Progress) -> io::Result<Hashed> {
    let mut file = File::open(path)?;
    let finished = |hasher: Sha256| Id::from_bytes(hasher.finalize().into());
    let (mut hasher, mut bytes, mut beginning) = (Sha256::new(), 0, None);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        if bytes == beginning_bytes {
            beginning = Some(finished(hasher.clone()));
        }
        // No read goes beyond the beginning before its hash was taken.
        let left = beginning_bytes.checked_sub(bytes).filter(|left| *left > 0).unwrap_or(u64::MAX);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let count = file.read(&mut buffer[..length])?;
        if count == 0 {
            return Ok(Hashed { bytes, sha256: finished(hasher), beginning });
        }
        hasher.update(&buffer[..count]);
        bytes += count as u64;
        progress.report(Event::Bytes(count as u64));
    }
}

/// A file that is there whole, or as it was before.
fn write_whole(folder: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("json.new");
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all()
}
