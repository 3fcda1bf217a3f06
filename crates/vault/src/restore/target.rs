use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Stat};

use crate::{Error, Result};

/// The directory that is restored into. Every path is relative to it, and none can lead out of it: the
/// kernel refuses symbolic links anywhere on the way (openat2, Linux 5.6).
pub(super) struct Target {
    path: PathBuf,
    root: OwnedFd,
}

const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

impl Target {
    /// Opens the directory, and makes it when it isn't there.
    pub fn open(path: &Path) -> Result<Self> {
        if path.as_os_str().is_empty() {
            return Err(Error::InvalidTarget { target: path.to_path_buf(), reason: "it is empty" });
        }
        let failed = |action, source| Error::Target { action, path: path.to_path_buf(), source };
        std::fs::create_dir_all(path).map_err(|source| failed("create", source))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| failed("open", errno.into()))?;
        Ok(Self { path: path.to_path_buf(), root })
    }

    pub fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// The full path, for messages and for calls that only take paths.
    pub fn full_path(&self, path: &Path) -> PathBuf {
        self.path.join(path)
    }

    pub fn error(&self, action: &'static str, path: &Path, source: io::Error) -> Error {
        Error::Target { action, path: self.full_path(path), source }
    }

    /// Opens something below the target; the last part may not be a symbolic link either.
    pub fn open_at(&self, path: &Path, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        loop {
            match rustix::fs::openat2(&self.root, path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, mode, RESOLVE) {
                // The kernel asks to try again when a directory was renamed meanwhile.
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                result => return result,
            }
        }
    }

    pub fn open_directory(&self, path: &Path) -> Result<OwnedFd> {
        self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
            .map_err(|errno| self.error("open the directory", path, errno.into()))
    }

    /// The directory that a path lies in, and its last part.
    pub fn parent_of<'a>(&self, path: &'a Path) -> Result<(OwnedFd, &'a std::ffi::OsStr)> {
        let name = path.file_name().ok_or_else(|| self.error("use", path, io::ErrorKind::InvalidInput.into()))?;
        Ok((self.open_directory(path.parent().unwrap_or(Path::new("")))?, name))
    }

    pub fn open_file(&self, path: &Path, flags: OFlags) -> Result<File> {
        self.open_at(path, flags | OFlags::NONBLOCK, Mode::empty())
            .map(File::from)
            .map_err(|errno| self.error("open", path, errno.into()))
    }
}

/// What is at a place, without following a link; `None` when there is nothing.
pub(super) fn stat(directory: &OwnedFd, name: &std::ffi::OsStr) -> rustix::io::Result<Option<Stat>> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}
