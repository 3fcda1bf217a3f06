//! What is being done to what, and the errors that say so.

use crate::{Entry, Error, FileType, Result, Store, content_name};

/// Why a repository has vanished from a folder.
pub(crate) const NO_CONFIG: &str = "its folder has no `config`";

#[derive(Clone, Copy)]
pub(crate) struct Operation<'a> {
    pub location: &'a str,
    pub action: &'static str,
    pub file_type: FileType,
    pub name: &'a str,
}

impl Operation<'_> {
    pub(crate) fn unreachable(&self, reason: String) -> Error {
        let (location, name) = (self.location.into(), self.name.into());
        Error::Unreachable { location, action: self.action, file_type: self.file_type, name, reason }
    }

    pub(crate) fn denied(&self, reason: String) -> Error {
        let (location, name) = (self.location.into(), self.name.into());
        Error::Denied { location, action: self.action, file_type: self.file_type, name, reason }
    }

    pub(crate) fn damaged(&self, reason: String) -> Error {
        Error::Damaged { location: self.location.into(), file_type: self.file_type, name: self.name.into(), reason }
    }

    /// The credentials were refused: `reason` is what the service says to it.
    pub(crate) fn refused_credentials(&self, reason: &str) -> Error {
        Error::Unauthorized { location: self.location.into(), reason: refused_credentials(reason) }
    }

    /// What was read of a file, unless it is of another size than the file has: then it was cut on its way, and asking
    /// again may help. What has the right size and the wrong content is damaged where it lies, and that is for the
    /// caller to say.
    pub(crate) fn whole(&self, content: Vec<u8>, size_bytes: impl FnOnce() -> Result<u64>) -> Result<Vec<u8>> {
        if self.file_type != FileType::Config && content_name(&content) == self.name {
            return Ok(content);
        }
        let size = size_bytes()?;
        if size != content.len() as u64 {
            return Err(self.unreachable(format!("{} bytes came of a file of {size}", content.len())));
        }
        Ok(content)
    }
}

/// What became of credentials that a service refuses, and what to do. They may have expired in the middle of work.
pub(crate) fn refused_credentials(reason: &str) -> String {
    format!(
        "the credentials are not accepted ({reason}); if they have expired or were changed, run it again with new ones"
    )
}

/// The listing of the one configuration file, for stores that can only ask for it.
pub(crate) fn listed_config(store: &dyn Store) -> Result<Vec<Entry>> {
    match store.size_bytes(FileType::Config, "") {
        Ok(size_bytes) => Ok(vec![Entry { name: String::new(), size_bytes }]),
        Err(Error::NotFound { .. }) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
