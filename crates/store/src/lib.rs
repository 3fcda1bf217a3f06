//! Blobs by key: the few operations that a backup repository needs of whatever holds it.
//!
//! Synchronous outside; a store that speaks to a network keeps a private runtime inside.

pub mod conformance;
mod error;
mod extent;
mod forward;
pub mod limit;
mod link;
mod local;
mod name;
pub mod object_store;
mod opening;
mod operation;
mod parallelism;
mod pause;
mod proxies;
pub mod rest_server;
mod rest_store;
mod retry;
mod sftp_store;
mod standing;
mod thaw;
pub mod trust;

use std::fmt;

pub use error::{Error, Result};
pub use levee_model::{Address, BucketAddress, ContainerAddress, InvalidAddress, SftpAddress};
pub use local::{LocalStore, Received};
pub use name::content_name;
pub use object_store::ObjectStore;
pub use opening::Opening;
pub use parallelism::Parallelism;
pub use proxies::Proxies;
pub use rest_store::{RestOptions, RestStore};
pub use retry::{RetryPolicy, RetryStore};
pub use sftp_store::{SftpOptions, SftpStore};
pub use thaw::{Temperature, ThawRequest, ThawSpeed};

/// The kinds of file in a repository, as the restic format has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileType {
    Config,
    Data,
    Index,
    Key,
    Lock,
    Snapshot,
}

impl FileType {
    pub const ALL: [FileType; 6] =
        [FileType::Config, FileType::Data, FileType::Index, FileType::Key, FileType::Lock, FileType::Snapshot];

    /// The name of its folder in a local repository and of its path in the REST protocol.
    pub fn folder(self) -> &'static str {
        match self {
            FileType::Config => "config",
            FileType::Data => "data",
            FileType::Index => "index",
            FileType::Key => "keys",
            FileType::Lock => "locks",
            FileType::Snapshot => "snapshots",
        }
    }
}

impl fmt::Display for FileType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.folder())
    }
}

/// One file of a listing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    pub name: String,
    pub size_bytes: u64,
}

/// A place that holds the files of one repository.
///
/// `name` is the lower-case hexadecimal SHA-256 of the content, and empty for `FileType::Config`.
pub trait Store: Send + Sync {
    /// Creates what a new repository needs to exist (folders). Does nothing when it is there.
    fn create(&self) -> Result<()>;

    /// Stores a file. When it returns, the content is durable, whole, and of the right size.
    /// Writing a name that exists with the same content succeeds; `Config` is never overwritten.
    fn write(&self, file_type: FileType, name: &str, content: &[u8]) -> Result<()>;

    /// Stores a pack that holds trees, which every listing and restore reads first: a store with storage classes
    /// keeps it in the quickest one.
    fn write_tree_pack(&self, name: &str, content: &[u8]) -> Result<()> {
        self.write(FileType::Data, name, content)
    }

    /// Reads a whole file.
    fn read(&self, file_type: FileType, name: &str) -> Result<Vec<u8>>;

    /// Reads exactly `length` bytes from `offset`; fewer is an error.
    fn read_range(&self, file_type: FileType, name: &str, offset: u64, length: usize) -> Result<Vec<u8>>;

    /// As `read_range`, to the beginning of a buffer that is used again. It grows where it must; what lies behind the
    /// range in it means nothing.
    fn read_range_into(
        &self,
        file_type: FileType,
        name: &str,
        offset: u64,
        length: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<()> {
        *buffer = self.read_range(file_type, name, offset, length)?;
        Ok(())
    }

    /// The size of a file in bytes.
    fn size_bytes(&self, file_type: FileType, name: &str) -> Result<u64>;

    /// Every file of a type, in no order. Temporary and foreign names are left out.
    fn list(&self, file_type: FileType) -> Result<Vec<Entry>>;

    /// Removes a file. `Error::NotFound` when it is not there.
    fn remove(&self, file_type: FileType, name: &str) -> Result<()>;

    /// How many requests serve it best at once. Where there is a machine on the other side, those of a network.
    fn parallelism(&self) -> Parallelism {
        Parallelism::NETWORK
    }

    /// The files of a type that lie in an archive class, whether they were thawed or not; where thawing moves a file out
    /// of it, as at Azure, only until it is done. Only stores with such classes have any.
    fn archived(&self, _file_type: FileType) -> Result<Vec<Entry>> {
        Ok(Vec::new())
    }

    /// How far a file is from being read.
    fn temperature(&self, _file_type: FileType, _name: &str) -> Result<Temperature> {
        Ok(Temperature::Readable)
    }

    /// Asks for a file in an archive class, and says how far it is then. Asking again does no harm.
    fn thaw(&self, file_type: FileType, name: &str, _request: &ThawRequest) -> Result<Temperature> {
        self.temperature(file_type, name)
    }

    /// Where this is, for messages. Never holds a secret.
    fn location(&self) -> String;
}
