//! Bringing back what was hidden or overwritten in a bucket that keeps versions.

use bytes::Bytes;

use super::s3::{Kind, S3};
use super::s3_versions::VERSIONS_PER_PAGE;
use super::undoing::{FileHistory, FileVersion};
use super::{ObjectStore, name_at, path};
use crate::operation::Operation;
use crate::{Error, FileType, Result, content_name};

/// How a version became the current one again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BroughtBack {
    /// What lay above it is gone.
    Uncovered,
    /// What lies above it could not be removed: it was written once more, above that.
    WrittenAgain,
}

impl ObjectStore {
    /// Every file of a type that is or was there, with all that the bucket keeps of it. An error where the service is not
    /// S3, or the bucket keeps nothing of what is removed.
    pub fn histories(&self, file_type: FileType) -> Result<Vec<FileHistory>> {
        self.histories_by_pages(file_type, VERSIONS_PER_PAGE)
    }

    /// As `histories`, in pages of so many versions: from 1 to 1,000.
    pub fn histories_by_pages(&self, file_type: FileType, versions_per_page: u16) -> Result<Vec<FileHistory>> {
        let operation = Operation { location: &self.location, action: "list the versions of", file_type, name: "" };
        let s3 = self.with_versions(&operation)?;
        let keeps_versions = self.runtime.block_on(s3.keeps_versions()).map_err(|error| operation.failure(&error))?;
        if !keeps_versions {
            let reason =
                "the bucket keeps no versions: nothing is left of what was removed or overwritten in it".into();
            return Err(Error::Unauthorized { location: self.location.clone(), reason });
        }
        let beginning = match file_type {
            FileType::Config => path(file_type, ""),
            _ => format!("{}/", file_type.folder()),
        };
        let listed = self.runtime.block_on(s3.versions(&beginning, versions_per_page));
        let listed = listed.map_err(|error| operation.failure(&error))?;
        let mut histories: Vec<FileHistory> = Vec::new();
        for listed in listed {
            let Some(name) = listed_name(file_type, &listed.path) else { continue };
            match histories.last_mut().filter(|history| history.name == name) {
                Some(history) => history.versions.push(listed.version),
                None => histories.push(FileHistory { name: name.into(), versions: vec![listed.version] }),
            }
        }
        Ok(histories)
    }

    /// Reads a version of a file whole.
    pub fn read_version(&self, file_type: FileType, name: &str, version: &FileVersion) -> Result<Vec<u8>> {
        let operation = self.operation("read a version of", file_type, name)?;
        self.content_of(&operation, &path(file_type, name), version).map(Vec::from)
    }

    /// Makes a version of a file the current one again. What lies above it is removed or, where it cannot be, left there
    /// and the version's content written above it, with this store's locks.
    ///
    /// `above` must not hold a version that is the file's content: it is removed for good.
    pub fn bring_back(
        &self,
        file_type: FileType,
        name: &str,
        version: &FileVersion,
        above: &[FileVersion],
    ) -> Result<BroughtBack> {
        let operation = self.operation("bring back", file_type, name)?;
        let s3 = self.with_versions(&operation)?;
        let path = path(file_type, name);
        let mut brought_back = BroughtBack::Uncovered;
        for covering in above {
            let removed = self.runtime.block_on(s3.remove_version(&path, &covering.id));
            match removed.map_err(|error| operation.failure(&error)) {
                // The answer to an attempt before this one was lost.
                Ok(()) | Err(Error::NotFound { .. }) => {}
                // It is locked, or these keys may remove no versions.
                Err(Error::Denied { .. }) => {
                    brought_back = BroughtBack::WrittenAgain;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        if brought_back == BroughtBack::WrittenAgain {
            self.write_again(&operation, s3, &path, version)?;
        }
        let size_bytes = self.stat(&operation, &path)?.content_length();
        if size_bytes != version.size_bytes {
            let reason = format!("{size_bytes} bytes stand there instead of the version's {}", version.size_bytes);
            return Err(operation.unreachable(reason));
        }
        Ok(brought_back)
    }

    fn write_again(&self, operation: &Operation<'_>, s3: &S3, path: &str, version: &FileVersion) -> Result<()> {
        let content = self.content_of(operation, path, version)?;
        if operation.file_type != FileType::Config && content_name(&content) != operation.name {
            return Err(operation.damaged("the oldest version that is left is another content".into()));
        }
        // What was in the usual class stays there: it may hold trees.
        let is_usual = matches!(version.class.as_str(), "" | "STANDARD");
        let kind = if is_usual { Kind::Hot } else { Kind::Contents };
        let written = self.runtime.block_on(s3.put(path, operation.file_type, kind, content, false));
        written.map_err(|error| operation.failure(&error))
    }

    fn content_of(&self, operation: &Operation<'_>, path: &str, version: &FileVersion) -> Result<Bytes> {
        let s3 = self.with_versions(operation)?;
        let read = self.runtime.block_on(s3.read_version(path, &version.id));
        let content = read.map_err(|error| operation.failure(&error))?;
        if content.len() as u64 != version.size_bytes {
            let reason = format!("{} bytes came of a version of {}", content.len(), version.size_bytes);
            return Err(operation.unreachable(reason));
        }
        Ok(content)
    }

    fn with_versions(&self, operation: &Operation<'_>) -> Result<&S3> {
        self.s3.as_ref().ok_or_else(|| operation.denied("only S3 is asked for versions".into()))
    }
}

/// The name of the file of a type at a path. The configuration has none.
fn listed_name(file_type: FileType, listed: &str) -> Option<&str> {
    match file_type {
        FileType::Config => (listed == path(file_type, "")).then_some(""),
        _ => name_at(file_type, listed),
    }
}
