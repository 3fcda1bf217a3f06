//! What is being done to what, and the errors that say so.

use crate::{Entry, Error, FileType, Result, Store};

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
}

/// The listing of the one configuration file, for stores that can only ask for it.
pub(crate) fn listed_config(store: &dyn Store) -> Result<Vec<Entry>> {
    match store.size_bytes(FileType::Config, "") {
        Ok(size_bytes) => Ok(vec![Entry { name: String::new(), size_bytes }]),
        Err(Error::NotFound { .. }) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
