use std::io;
use std::path::PathBuf;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong with a disk image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {action} {path}")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is no disk image: it is neither a file nor a block device")]
    NotAnImage { path: PathBuf },
    /// A qcow2 image with a property that is not supported. `reason` says what to do.
    #[error("{path}: this qcow2 image {reason}")]
    Unsupported { path: PathBuf, reason: String },
    #[error("{path} is in use: it, or a part of it, is mounted or belongs to another device; nothing was written")]
    InUse { path: PathBuf },
    #[error("{path} holds {size_bytes} bytes and the image {wanted_bytes}: {reason}; nothing was written")]
    WrongSize { path: PathBuf, size_bytes: u64, wanted_bytes: u64, reason: &'static str },
    #[error("{path} cannot take a qcow2 image: {reason}; nothing was written")]
    NoPlaceForQcow2 { path: PathBuf, reason: &'static str },
    #[error("cannot read {what} of the image")]
    Unreadable {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("this is {what}; restore the image and open it there")]
    NoFileSystem { what: &'static str },
    #[error("there is no {path} in this file system")]
    NoSuchFile { path: PathBuf },
    #[error("{path} is not a {wanted}")]
    WrongKind { path: PathBuf, wanted: &'static str },
    /// Damage, or a property that is not known.
    #[error("cannot read {path} in the image's file system: {reason}")]
    FileSystem { path: PathBuf, reason: String },
}

impl Error {
    /// For `map_err` on what the system answered.
    pub(crate) fn io<E: Into<io::Error>>(action: &'static str, path: &std::path::Path) -> impl FnOnce(E) -> Error {
        move |source| Error::Io { action, path: path.to_path_buf(), source: source.into() }
    }
}
