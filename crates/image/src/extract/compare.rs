//! An image's files beside what a folder holds: what a restore would bring, and whether what it has brought is there.
//!
//! As in a restore, no link is ever followed in the folder.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Advice, AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{BUFFER_BYTES, fill};
use crate::file_system::{Attributes, FileKind, FileSystem};
use crate::{Error, Result};

/// Why an entry differs whose name something of another kind has.
const OTHER_KIND: &str = "something else has its name there";

/// Where a file's content is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// From memory where the system has it there.
    Cached,
    /// From the disk. What was written before must be durable.
    FromDisk,
}

/// What an image's file system holds, and what of it stands in a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    pub directories: u64,
    pub files: u64,
    /// Links, FIFOs and devices.
    pub others: u64,
    pub bytes: u64,
    /// Files whose content stands in the folder.
    pub same_files: u64,
    pub same_bytes: u64,
}

/// Something worth showing while it goes on.
#[derive(Clone, Copy, Debug)]
pub enum CompareEvent<'a> {
    Bytes(u64),
    /// An entry is missing in the folder or is something else, and how. Nothing is said of what a missing folder holds.
    Differs(&'a Path, &'a str),
    /// An entry of the image could not be read, or could not be restored.
    Problem(&'a Path, &'a str),
}

/// Compares what `extract` would bring out into `target`, or has: kinds, contents and the targets of links. The content of
/// a file is read where one of its size stands in the target. Nothing is changed, and a target that isn't there holds nothing.
pub fn compare(
    file_system: &dyn FileSystem,
    from: &Path,
    target: &Path,
    reading: Reading,
    report: &mut dyn FnMut(CompareEvent<'_>),
) -> Result<Compared> {
    let attributes = file_system.attributes(from)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = match rustix::fs::openat(CWD, target, flags, Mode::empty()) {
        Ok(folder) => Some(folder),
        Err(Errno::NOENT) => None,
        Err(errno) => return Err(Error::io("open", target)(errno)),
    };
    let mut comparison = Comparison {
        file_system,
        reading,
        report,
        compared: Compared::default(),
        image: vec![0; BUFFER_BYTES],
        disk: vec![0; BUFFER_BYTES],
    };
    if attributes.kind == FileKind::Dir {
        comparison.content_of_folder(folder.as_ref(), from);
    } else {
        let name = from.file_name().ok_or_else(|| Error::NoSuchFile { path: from.to_path_buf() })?;
        comparison.entry(folder.as_ref(), from, name, &attributes);
    }
    Ok(comparison.compared)
}

struct Comparison<'a> {
    file_system: &'a dyn FileSystem,
    reading: Reading,
    report: &'a mut dyn FnMut(CompareEvent<'_>),
    compared: Compared,
    /// What the image has.
    image: Vec<u8>,
    /// What stands in the folder.
    disk: Vec<u8>,
}

/// Why what is there could not be opened.
fn unopened(errno: Errno) -> String {
    match errno {
        Errno::NOENT => "it is missing".into(),
        Errno::NOTDIR | Errno::LOOP | Errno::INVAL => OTHER_KIND.into(),
        Errno::ACCESS => "its mode keeps this user from reading it back: verify as root".into(),
        errno => format!("it cannot be read back: {}", io::Error::from(errno)),
    }
}

impl Comparison<'_> {
    fn problem(&mut self, path: &Path, message: &str) {
        (self.report)(CompareEvent::Problem(path, message));
    }

    fn differs(&mut self, path: &Path, how: &str) {
        (self.report)(CompareEvent::Differs(path, how));
    }

    /// `there` is the folder that it is compared with, where there is one.
    fn content_of_folder(&mut self, there: Option<&OwnedFd>, path: &Path) {
        let entries = match self.file_system.read_dir(path) {
            Ok(entries) => entries,
            Err(error) => return self.problem(path, &error.to_string()),
        };
        for entry in entries {
            let path = path.join(&entry.name);
            match &entry.attributes {
                Ok(attributes) => self.entry(there, &path, &entry.name, attributes),
                Err(error) => self.problem(&path, &error.to_string()),
            }
        }
    }

    fn entry(&mut self, parent: Option<&OwnedFd>, path: &Path, name: &OsStr, attributes: &Attributes) {
        match attributes.kind {
            FileKind::Dir => self.folder(parent, path, name),
            FileKind::File => self.file(parent, path, name, attributes),
            FileKind::Symlink => self.link(parent, path, name),
            FileKind::Fifo | FileKind::Dev | FileKind::CharDev => self.node(parent, path, name, attributes),
            // A restore makes none.
            FileKind::Socket => {}
        }
    }

    fn folder(&mut self, parent: Option<&OwnedFd>, path: &Path, name: &OsStr) {
        self.compared.directories += 1;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let there = match parent.map(|parent| rustix::fs::openat(parent, name, flags, Mode::empty())) {
            Some(Ok(folder)) => Some(folder),
            Some(Err(errno)) => {
                self.differs(path, &unopened(errno));
                None
            }
            None => None,
        };
        self.content_of_folder(there.as_ref(), path);
    }

    fn file(&mut self, parent: Option<&OwnedFd>, path: &Path, name: &OsStr, attributes: &Attributes) {
        self.compared.files += 1;
        self.compared.bytes += attributes.size_bytes;
        let difference = match parent.map(|parent| open_file(parent, name, attributes.size_bytes)) {
            Some(Ok(file)) => self.difference(path, file, attributes.size_bytes),
            Some(Err(how)) => Ok(Some(how)),
            // Its folder is missing, which was said of that.
            None => return,
        };
        match difference {
            Ok(None) => {
                self.compared.same_files += 1;
                self.compared.same_bytes += attributes.size_bytes;
            }
            Ok(Some(how)) => self.differs(path, &how),
            Err(error) => self.problem(path, &error.to_string()),
        }
    }

    /// How a file of the right size differs from the image's. An error is one of the image.
    fn difference(&mut self, path: &Path, mut file: File, size_bytes: u64) -> io::Result<Option<String>> {
        if self.reading == Reading::FromDisk {
            // Advice; without it the cache is read.
            let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        }
        let mut content = self.file_system.open(path).map_err(io::Error::other)?;
        let mut offset = 0;
        loop {
            let count = fill(&mut *content, &mut self.image)?;
            let found = match fill(&mut file, &mut self.disk[..count]) {
                Ok(found) => found,
                Err(error) => return Ok(Some(format!("it cannot be read back: {error}"))),
            };
            let (image, disk) = (&self.image[..count], &self.disk[..found]);
            if image != disk {
                let same = image.iter().zip(disk).take_while(|(a, b)| a == b).count() as u64;
                return Ok(Some(format!("its content is another one from byte {} on", offset + same)));
            }
            offset += count as u64;
            (self.report)(CompareEvent::Bytes(count as u64));
            if count < BUFFER_BYTES {
                break;
            }
        }
        if offset != size_bytes {
            let message = format!("{offset} of its {size_bytes} bytes could be read");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        Ok(None)
    }

    fn link(&mut self, parent: Option<&OwnedFd>, path: &Path, name: &OsStr) {
        self.compared.others += 1;
        let target = match self.file_system.read_link(path) {
            Ok(target) => target,
            Err(error) => return self.problem(path, &error.to_string()),
        };
        match parent.map(|parent| rustix::fs::readlinkat(parent, name, Vec::new())) {
            Some(Ok(found)) if found.as_bytes() != target.as_os_str().as_bytes() => {
                self.differs(path, "it leads elsewhere");
            }
            Some(Err(errno)) => self.differs(path, &unopened(errno)),
            Some(Ok(_)) | None => {}
        }
    }

    fn node(&mut self, parent: Option<&OwnedFd>, path: &Path, name: &OsStr, attributes: &Attributes) {
        let wanted = match (attributes.kind, attributes.device) {
            (FileKind::Fifo, _) => FileType::Fifo,
            (FileKind::Dev, Some(_)) => FileType::BlockDevice,
            (_, Some(_)) => FileType::CharacterDevice,
            (_, None) => return self.problem(path, "the number of the device is not known here"),
        };
        self.compared.others += 1;
        match parent.map(|parent| kind_and_size(parent, name)) {
            Some(Ok((kind, _))) if kind != wanted => self.differs(path, OTHER_KIND),
            Some(Err(errno)) => self.differs(path, &unopened(errno)),
            Some(Ok(_)) | None => {}
        }
    }
}

fn kind_and_size(parent: &OwnedFd, name: &OsStr) -> rustix::io::Result<(FileType, u64)> {
    let found = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok((FileType::from_raw_mode(found.st_mode), found.st_size as u64))
}

/// Opens a file of this size; the error says what is there instead. Nothing but a file is opened: a device may act on that.
fn open_file(parent: &OwnedFd, name: &OsStr, size_bytes: u64) -> Result<File, String> {
    match kind_and_size(parent, name).map_err(unopened)? {
        (FileType::RegularFile, size) if size != size_bytes => return Err(format!("it has {size} bytes there")),
        (FileType::RegularFile, _) => {}
        _ => return Err(OTHER_KIND.into()),
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty()).map(File::from).map_err(unopened)
}
