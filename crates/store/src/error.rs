use levee_model::InvalidAddress;

use crate::FileType;

pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong in a store. Each variant says what was being done, to what.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{location}: there is no {file_type}/{name}")]
    NotFound { location: String, file_type: FileType, name: String },
    /// The store refuses this to this caller: an append-only server, or an existing `config`.
    #[error("{location}: not allowed to {action} {file_type}/{name}: {reason}")]
    Denied { location: String, action: &'static str, file_type: FileType, name: String, reason: String },
    /// The content doesn't have the size or the hash that it should have.
    #[error("{location}: {file_type}/{name} is damaged: {reason}")]
    Damaged { location: String, file_type: FileType, name: String, reason: String },
    #[error(
        "{location}: {file_type}/{name} lies in an archive class and cannot be read before it is thawed: `levee vault thaw SNAPSHOT --wait` does so on S3 and Azure"
    )]
    Frozen { location: String, file_type: FileType, name: String },
    #[error("{location}: no space left while writing {file_type}/{name}; free some space and run it again")]
    Full { location: String, file_type: FileType, name: String },
    /// The folder stands, but the repository in it does not: as on a bare mount point.
    #[error("{location}: the repository is not here any more: {reason}; see whether the disk that it is on is mounted")]
    Vanished { location: String, reason: &'static str },
    #[error(transparent)]
    Address(#[from] InvalidAddress),
    /// What opens a store of this kind was not all given.
    #[error("a vault at {scheme}…: {reason}")]
    Credentials { scheme: String, reason: String },
    /// Certificates, passwords, an unknown peer: trying again will not help.
    #[error("{location}: {reason}")]
    Unauthorized { location: String, reason: String },
    #[error("{location}: cannot {action} {file_type}/{name}")]
    Io {
        location: String,
        action: &'static str,
        file_type: FileType,
        name: String,
        #[source]
        source: std::io::Error,
    },
    /// The network or the server failed; the operation may be tried again.
    #[error("{location}: cannot {action} {file_type}/{name}: {reason}")]
    Unreachable { location: String, action: &'static str, file_type: FileType, name: String, reason: String },
}
