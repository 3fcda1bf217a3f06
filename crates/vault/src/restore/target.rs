use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::{Error, Result};

/// The directory that is restored into. Every path is relative to it, and none can lead out of it: the
/// kernel refuses symbolic links anywhere on the way (openat2, Linux 5.6).
pub(super) struct Target {
    path: PathBuf,
    /// `None` only for a dry run into a directory that isn't there.
    root: Option<OwnedFd>,
}

const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

impl Target {
    /// Opens the directory, and makes it when it isn't there.
    pub fn open(path: &Path) -> Result<Self> {
        if !path.as_os_str().is_empty() {
            let failed = |source| Error::Target { action: "create", path: path.to_path_buf(), source };
            std::fs::create_dir_all(path).map_err(failed)?;
        }
        Self::look_at(path)
    }

    /// Opens the directory if it is there.
    pub fn look_at(path: &Path) -> Result<Self> {
        if path.as_os_str().is_empty() {
            return Err(Error::InvalidTarget { target: path.to_path_buf(), reason: "it is empty" });
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(root) => Some(root),
            Err(Errno::NOENT) => None,
            Err(errno) => {
                return Err(Error::Target { action: "open", path: path.to_path_buf(), source: errno.into() });
            }
        };
        Ok(Self { path: path.to_path_buf(), root })
    }

    pub fn root(&self) -> rustix::io::Result<&OwnedFd> {
        self.root.as_ref().ok_or(Errno::NOENT)
    }

    pub fn error(&self, action: &'static str, path: &Path, source: io::Error) -> Error {
        Error::Target { action, path: self.path.join(path), source }
    }

    /// Opens something below the target; the last part may not be a symbolic link either.
    pub fn open_at(&self, path: &Path, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        loop {
            match rustix::fs::openat2(self.root()?, path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, mode, RESOLVE) {
                // The kernel asks to try again when a directory was renamed meanwhile.
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return result,
            }
        }
    }

    pub fn open_directory(&self, path: &Path) -> Result<OwnedFd> {
        self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
            .map_err(|errno| self.error("open the directory", path, errno.into()))
    }

    /// The directory that a path lies in, and its last part.
    pub fn parent_of<'a>(&self, path: &'a Path) -> Result<(OwnedFd, &'a OsStr)> {
        let name = path.file_name().ok_or_else(|| self.error("use", path, io::ErrorKind::InvalidInput.into()))?;
        Ok((self.open_directory(path.parent().unwrap_or(Path::new("")))?, name))
    }

    /// What is at a path; `None` when nothing is there or can be there.
    pub fn stat(&self, path: &Path) -> Result<Option<Stat>> {
        let opened = self.open_at(path, OFlags::PATH, Mode::empty());
        match opened.and_then(rustix::fs::fstat) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(errno) => Err(self.error("look at", path, errno.into())),
        }
    }

    pub fn open_file(&self, path: &Path, flags: OFlags) -> Result<File> {
        self.open_at(path, flags | OFlags::NONBLOCK, Mode::empty())
            .map(File::from)
            .map_err(|errno| self.error("open", path, errno.into()))
    }

    /// Makes a file that nobody else can read until its metadata are set.
    pub fn create_file(&self, path: &Path) -> Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        self.open_at(path, flags, Mode::RUSR | Mode::WUSR)
            .map(File::from)
            .map_err(|errno| self.error("create", path, errno.into()))
    }
}

/// What is at a place, without following a link; `None` when there is nothing.
pub(super) fn stat(directory: &OwnedFd, name: &OsStr) -> rustix::io::Result<Option<Stat>> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}
