use std::io;
use std::path::{Path, PathBuf};

use levee_model::Epoch;
use levee_model::postgres::{Lsn, SystemIdentifier, TimelineId};

pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong in a journal. Each variant says what was being done, to what, and what helps.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Nothing of what did not fit was acknowledged.
    #[error(
        "no space left while trying to {action} {}; nothing beyond the last flush was acknowledged: free some space, \
         the archive goes on by itself",
        path.display()
    )]
    Full { action: &'static str, path: PathBuf },
    #[error("{what} is not {expected}")]
    InvalidKey { what: String, expected: &'static str },
    #[error("no recipient was given: a journal can't be written without the public key of whoever is to read it")]
    NoRecipients,
    #[error("{} is sealed, and no identity was given to open it: pass the recovery side's identity file", path.display())]
    NoIdentity { path: PathBuf },
    #[error(
        "{} can't be opened with this identity: it was written for other recipients; use the identity file of the \
         site that received it",
        path.display()
    )]
    WrongIdentity { path: PathBuf },
    #[error("cannot seal a key for the journal's recipients: {reason}")]
    Seal { reason: String },
    #[error("{} is damaged at byte {offset}: {reason}", path.display())]
    Damaged { path: PathBuf, offset: u64, reason: String },
    /// What was acknowledged is not readable any more: this is a loss, not a torn end.
    #[error(
        "{} has lost acknowledged log: it is readable only up to {readable}, but was acknowledged up to \
         {acknowledged}; recover the file, or take a new base backup and begin a new journal after the gap",
        path.display()
    )]
    Lost { path: PathBuf, readable: Lsn, acknowledged: Lsn },
    #[error(
        "the log of {system_identifier} on timeline {timeline} has a gap: the journal continues at {expected}, and \
         what came starts at {found}; the part between is needed, or a new base backup behind the gap"
    )]
    Gap { system_identifier: SystemIdentifier, timeline: TimelineId, expected: Lsn, found: Lsn },
    #[error("the journal is sealed at epoch {sealed}: a writer of epoch {epoch} may not write here any more")]
    StaleEpoch { epoch: Epoch, sealed: Epoch },
    #[error(
        "{} holds the log of system {known}, and was asked to take in that of system {found}: another cluster needs \
         another journal; set this folder aside if the old cluster is gone for good",
        dir.display()
    )]
    UnknownLineage { dir: PathBuf, known: SystemIdentifier, found: SystemIdentifier },
    #[error("the journal's segments are of {known} bytes, and the source's of {found} bytes")]
    SegmentSize { known: u64, found: u64 },
    #[error("{} is being written by somebody else; one writer at a time", dir.display())]
    Busy { dir: PathBuf },
    #[error(
        "timeline {timeline} of system {system_identifier} has another history here than the one that came: two \
         promotions have taken the same number; do not go on before it is known which one is right"
    )]
    HistoryConflict { system_identifier: SystemIdentifier, timeline: TimelineId },
    /// After a failed write or flush it is unknown what is on the disk; only reading it again tells.
    #[error("the journal's writer has failed before: open a new writer, which reads again what is durable")]
    WriterFailed,
    #[error("the journal in {} has format version {found}; this Levee reads version {known}", dir.display())]
    Version { dir: PathBuf, found: u32, known: u32 },
    #[error("the journal holds nothing of system {system_identifier} on timeline {timeline} at {lsn}")]
    NotHere { system_identifier: SystemIdentifier, timeline: TimelineId, lsn: Lsn },
}

impl Error {
    /// An I/O error with what was being done; a full disk gets its own name.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_path_buf();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Full { action, path },
            _ => Error::Io { action, path, source },
        }
    }

    pub(crate) fn damaged(path: &Path, offset: u64, reason: impl Into<String>) -> Error {
        Error::Damaged { path: path.to_path_buf(), offset, reason: reason.into() }
    }

    /// Whether the disk could not give what is on it.
    pub(crate) fn is_of_the_disk(&self) -> bool {
        matches!(self, Error::Io { source, .. } if source.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()))
    }

    /// Whether a file had gone between listing and opening it, which a closing tail does, and a trimmed segment.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}
