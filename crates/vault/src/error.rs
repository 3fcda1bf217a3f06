use std::io;
use std::path::PathBuf;

use jiff::Timestamp;
use levee_store::FileType;

use crate::{BlobKind, Id};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong in a repository.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] levee_store::Error),
    #[error(transparent)]
    Image(#[from] levee_image::Error),
    #[error("snapshot {snapshot} has no image {name}{}", if images.is_empty() {
        "; it has no images at all".into()
    } else {
        format!("; it has {images}")
    })]
    ImageNotFound { snapshot: String, name: String, images: String },
    #[error("snapshot {snapshot} has several images of the name {name}: give the whole path")]
    AmbiguousImage { snapshot: String, name: String },
    #[error("the image {path} in the snapshot is not as it must be: {reason}")]
    DamagedImage { path: PathBuf, reason: String },
    #[error("{location}: there is no repository here; create one with `levee vault init`")]
    NoRepository { location: String },
    #[error("{location}: there is already a repository here; nothing was changed")]
    AlreadyInitialized { location: String },
    #[error("{location}: repositories of version {version} are not supported (1 and 2 are)")]
    UnknownVersion { location: String, version: u32 },
    #[error("{location}: wrong password: it opens none of the {key_files} key files")]
    WrongPassword { location: String, key_files: usize },
    #[error("the master key is not the JSON of a restic master key")]
    InvalidMasterKey,
    /// The content of a file is not what it must be. `file` is the type and the name.
    #[error("{location}: {file} is damaged: {reason}")]
    Damaged { location: String, file: String, reason: String },
    #[error(
        "{location}: {packs} packs ({bytes} bytes) lie in an archive class and cannot be read: thaw them first with `levee vault thaw --all --wait`"
    )]
    PacksFrozen { location: String, packs: u64, bytes: u64 },
    /// No index names it that can be read. `unread_index` is one that can't.
    #[error(
        "{location}: {kind} blob {id} is not in the index{}",
        match unread_index {
            None => "; run `levee vault check`".into(),
            Some(file) => format!(", but may be in {file}: `levee vault repair index --apply` makes the index anew"),
        }
    )]
    MissingBlob { location: String, kind: BlobKind, id: Id, unread_index: Option<String> },
    #[error(
        "{location}: locked{} by {by} since {since}{}",
        if *exclusive { " exclusively" } else { "" },
        if *stale { "; the lock is stale, remove it with `levee vault unlock`" } else { "; try again when that has ended" }
    )]
    Locked { location: String, exclusive: bool, by: String, since: Timestamp, stale: bool },
    #[error(
        "{location}: the lock could not be refreshed for {minutes} minutes, so that others may take it for stale; nothing was recorded, run it again"
    )]
    LockLost { location: String, minutes: u64 },
    #[error(
        "{location}: somebody has removed the lock while this was running, so that what it relies on may be gone; nothing more was recorded, run it again"
    )]
    LockGone { location: String },
    #[error("{location}: there is no snapshot {wanted}")]
    SnapshotNotFound { location: String, wanted: String },
    #[error("{location}: more than one snapshot starts with {prefix}; give more digits")]
    AmbiguousSnapshot { location: String, prefix: String },
    #[error("{location}: no forgotten snapshot {wanted} is known; `levee vault undelete --list` shows those that are")]
    NotForgotten { location: String, wanted: String },
    #[error("{folder}: there is no custody record (custody.json) here: name the folder that has it, too")]
    NoCustody { folder: PathBuf },
    #[error("{path}: {reason}")]
    Custody { path: PathBuf, reason: String },
    #[error("volume {name} is missing ({count} belong together): name the folder that it is in, too")]
    MissingVolume { name: String, count: usize },
    #[error("no policy says what to keep; nothing was forgotten: give a --keep-… option or the ids of snapshots")]
    EmptyPolicy,
    #[error(
        "the policy keeps none of a group of {snapshots} snapshots; nothing was forgotten: change it, or say --unsafe-allow-remove-all"
    )]
    NothingKept { snapshots: usize },
    #[error("{location}: there is no pack {wanted}")]
    PackNotFound { location: String, wanted: String },
    #[error("snapshot {snapshot}: there is no {path}")]
    PathNotFound { snapshot: String, path: PathBuf },
    #[error("{path} is not a {wanted} in snapshot {snapshot}")]
    WrongNodeKind { snapshot: String, path: PathBuf, wanted: &'static str },
    #[error("key {key} is the one in use; open the repository with another password to remove it")]
    KeyInUse { key: String },
    #[error("pattern {pattern:?} is malformed: {reason}")]
    Pattern { pattern: String, reason: &'static str },
    #[error("the mapping of owners {mapping:?} cannot be used: {reason}")]
    OwnerMap { mapping: String, reason: &'static str },
    #[error("{path} cannot be stored: {reason}")]
    InvalidPath { path: PathBuf, reason: &'static str },
    #[error("none of the sources can be read; the first is {path}")]
    NoSource {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A stream handed over for storing failed.
    #[error("cannot read what should become {path}")]
    Source {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot {action} {path}")]
    Target {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{target} is no place to restore to: {reason}")]
    InvalidTarget { target: PathBuf, reason: &'static str },
    /// Nobody could read it back.
    #[error(
        "a {kind} blob of {bytes} bytes is larger than the 1 GiB that can be read back; split the directory if it has millions of entries"
    )]
    BlobTooLarge { kind: BlobKind, bytes: u64 },
    /// A freshly made blob could not be read back: memory or the processor is at fault.
    #[error("a blob did not survive being read back before it was stored ({reason}); check this machine's memory")]
    ReadBack { reason: String },
    #[error("cannot {action}")]
    System {
        action: &'static str,
        #[source]
        source: io::Error,
    },
    /// The pipeline has ended because of an error that is reported elsewhere.
    #[error("the backup was ended before it was complete; no snapshot was made")]
    Stopped,
}

/// `EIO`: the disk below a repository can't give back what it was given.
const DISK_FAILED: i32 = 5;

impl Error {
    /// Whether something of the repository is damaged or gone, so that trying again gives the same: unlike a full disk,
    /// a cut link or a wrong password.
    pub fn is_damage(&self) -> bool {
        match self {
            Error::Damaged { .. } | Error::MissingBlob { .. } => true,
            Error::Store(levee_store::Error::Damaged { .. } | levee_store::Error::NotFound { .. }) => true,
            Error::Store(levee_store::Error::Io { source, .. }) => source.raw_os_error() == Some(DISK_FAILED),
            _ => false,
        }
    }

    pub(crate) fn damaged(location: String, file_type: FileType, name: &str, reason: impl Into<String>) -> Self {
        let file = if name.is_empty() { file_type.to_string() } else { format!("{file_type}/{name}") };
        Self::Damaged { location, file, reason: reason.into() }
    }
}
