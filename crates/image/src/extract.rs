//! Files out of an image's file system into a folder.
//!
//! The image may come from anyone: everything is made below the target by handles of folders, and no link is ever
//! followed there, also not one that the image itself has put in place.

mod compare;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::file_system::{Attributes, FileKind, FileSystem, Moment};
use crate::{Error, Result};
pub use compare::{CompareEvent, Compared, Reading, compare};

/// Read at once.
const BUFFER_BYTES: usize = 1 << 20;
/// Zeros become holes in pieces of this size.
const HOLE_BYTES: usize = 64 << 10;

/// Where files go.
#[derive(Clone, Debug, Default)]
pub struct ExtractOptions {
    /// Made when it isn't there. What has the name of something that comes is replaced, folders are joined.
    pub target: PathBuf,
    /// Give everything to the users and groups of the image; only root can.
    pub owners: bool,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extracted {
    pub directories: u64,
    pub files: u64,
    /// Links, FIFOs and devices.
    pub others: u64,
    pub bytes: u64,
    /// Entries that could not be brought out.
    pub problems: u64,
}

/// Something worth showing while it goes on.
#[derive(Clone, Copy, Debug)]
pub enum ExtractEvent<'a> {
    Bytes(u64),
    Done(&'a Path),
    Problem(&'a Path, &'a str),
}

/// Brings out what a folder holds, or one file, straight into the target. What cannot be brought out is
/// reported, and the rest goes on.
pub fn extract(
    file_system: &dyn FileSystem,
    from: &Path,
    options: &ExtractOptions,
    report: &mut dyn FnMut(ExtractEvent<'_>),
) -> Result<Extracted> {
    let attributes = file_system.attributes(from)?;
    std::fs::create_dir_all(&options.target).map_err(Error::io("create", &options.target))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let target = rustix::fs::openat(CWD, &options.target, flags, Mode::empty());
    let target = target.map_err(Error::io("open", &options.target))?;
    let mut extraction = Extraction {
        file_system,
        owners: options.owners,
        report,
        done: Extracted::default(),
        buffer: vec![0; BUFFER_BYTES],
    };
    if attributes.kind == FileKind::Dir {
        extraction.folder(&target, from);
    } else {
        let name = from.file_name().ok_or_else(|| Error::NoSuchFile { path: from.to_path_buf() })?;
        extraction.entry(&target, from, name, &attributes);
    }
    // One call for everything.
    rustix::fs::syncfs(&target).map_err(Error::io("sync", &options.target))?;
    Ok(extraction.done)
}

struct Extraction<'a> {
    file_system: &'a dyn FileSystem,
    owners: bool,
    report: &'a mut dyn FnMut(ExtractEvent<'_>),
    done: Extracted,
    buffer: Vec<u8>,
}

/// What is in the way, where that is no folder, goes.
fn clear(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn times_of(attributes: &Attributes) -> Timestamps {
    let time = |moment: Moment| Timespec { tv_sec: moment.seconds, tv_nsec: i64::from(moment.nanoseconds) };
    Timestamps { last_access: time(attributes.atime), last_modification: time(attributes.mtime) }
}

impl Extraction<'_> {
    fn problem(&mut self, path: &Path, message: &str) {
        self.done.problems += 1;
        (self.report)(ExtractEvent::Problem(path, message));
    }

    fn folder(&mut self, target: &OwnedFd, path: &Path) {
        let entries = match self.file_system.read_dir(path) {
            Ok(entries) => entries,
            Err(error) => return self.problem(path, &error.to_string()),
        };
        for entry in entries {
            match &entry.attributes {
                Ok(attributes) => self.entry(target, &path.join(&entry.name), &entry.name, attributes),
                Err(error) => self.problem(&path.join(&entry.name), &error.to_string()),
            }
        }
    }

    fn entry(&mut self, parent: &OwnedFd, path: &Path, name: &OsStr, attributes: &Attributes) {
        let made = match attributes.kind {
            FileKind::Dir => self.make_folder(parent, path, name, attributes),
            FileKind::File => self.make_file(parent, path, name, attributes),
            FileKind::Symlink => self.make_link(parent, path, name, attributes),
            FileKind::Fifo | FileKind::Dev | FileKind::CharDev => self.make_node(parent, name, attributes),
            // The process that listens makes it.
            FileKind::Socket => return,
        };
        match made {
            Ok(()) => (self.report)(ExtractEvent::Done(path)),
            Err(error) => self.problem(path, &error.to_string()),
        }
    }

    fn make_folder(&mut self, parent: &OwnedFd, path: &Path, name: &OsStr, attributes: &Attributes) -> io::Result<()> {
        let open = || {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(parent, name, flags, Mode::empty())
        };
        let folder = match open() {
            Ok(folder) => folder,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                clear(parent, name)?;
                rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
                open()?
            }
            Err(errno) => return Err(errno.into()),
        };
        self.folder(&folder, path);
        self.done.directories += 1;
        self.set_attributes(&folder, attributes)
    }

    fn make_file(&mut self, parent: &OwnedFd, path: &Path, name: &OsStr, attributes: &Attributes) -> io::Result<()> {
        clear(parent, name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?);
        let mut content = self.file_system.open(path).map_err(io::Error::other)?;
        let mut offset = 0;
        loop {
            let count = fill(&mut *content, &mut self.buffer)?;
            for (number, piece) in (0_u64..).zip(self.buffer[..count].chunks(HOLE_BYTES)) {
                if piece.iter().any(|byte| *byte != 0) {
                    file.write_all_at(piece, offset + number * HOLE_BYTES as u64)?;
                }
            }
            offset += count as u64;
            (self.report)(ExtractEvent::Bytes(count as u64));
            if count < BUFFER_BYTES {
                break;
            }
        }
        file.set_len(offset)?;
        if offset != attributes.size_bytes {
            let message = format!("{offset} of its {} bytes could be read", attributes.size_bytes);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        self.done.files += 1;
        self.done.bytes += offset;
        self.set_attributes(&file, attributes)
    }

    fn make_link(&mut self, parent: &OwnedFd, path: &Path, name: &OsStr, attributes: &Attributes) -> io::Result<()> {
        let target = self.file_system.read_link(path).map_err(io::Error::other)?;
        clear(parent, name)?;
        rustix::fs::symlinkat(target.as_os_str().as_bytes(), parent, name)?;
        self.done.others += 1;
        self.set_attributes_of_name(parent, name, attributes)
    }

    fn make_node(&mut self, parent: &OwnedFd, name: &OsStr, attributes: &Attributes) -> io::Result<()> {
        let (file_type, device) = match (attributes.kind, attributes.device) {
            (FileKind::Fifo, _) => (FileType::Fifo, 0),
            (FileKind::Dev, Some((major, minor))) => (FileType::BlockDevice, rustix::fs::makedev(major, minor)),
            (_, Some((major, minor))) => (FileType::CharacterDevice, rustix::fs::makedev(major, minor)),
            (_, None) => return Err(io::Error::other("the number of the device is not known here")),
        };
        clear(parent, name)?;
        rustix::fs::mknodat(parent, name, file_type, Mode::RUSR | Mode::WUSR, device)?;
        self.done.others += 1;
        self.set_attributes_of_name(parent, name, attributes)?;
        // The kernel sets modes by path alone and follows links: the path is that of a handle that did not.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(parent, name, flags, Mode::empty())?;
        if FileType::from_raw_mode(rustix::fs::fstat(&handle)?.st_mode) == FileType::Symlink {
            return Err(Errno::LOOP.into());
        }
        let through = format!("/proc/self/fd/{}", handle.as_raw_fd());
        rustix::fs::chmod(through, Mode::from_raw_mode(attributes.mode))?;
        Ok(())
    }

    /// The owner first: giving a file away takes its setuid bit.
    fn set_attributes(&self, file: &impl AsFd, attributes: &Attributes) -> io::Result<()> {
        let mut mode = attributes.mode;
        if self.owners {
            let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
            rustix::fs::fchown(file, Some(uid), Some(gid))?;
        } else {
            // Whoever gets it is not whom the image meant.
            mode &= 0o1777;
        }
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?;
        rustix::fs::futimens(file, &times_of(attributes))?;
        Ok(())
    }

    fn set_attributes_of_name(&self, parent: &OwnedFd, name: &OsStr, attributes: &Attributes) -> io::Result<()> {
        if self.owners {
            let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
            rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        rustix::fs::utimensat(parent, name, &times_of(attributes), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }
}

/// Fills the buffer, less only at the end.
fn fill(content: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match content.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
