//! Reading the files in an image.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use crate::ext4::Ext4;
use crate::probe::{Contents, probe};
use crate::xfs::Xfs;
use crate::{Error, ReadAt, Result};

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    File,
    Dir,
    Symlink,
    /// A block device.
    Dev,
    CharDev,
    Fifo,
    Socket,
}

impl FileKind {
    /// By the highest four bits of the mode as Unix has them.
    pub(crate) fn of_mode(mode: u32) -> Option<Self> {
        Some(match mode >> 12 {
            0o1 => FileKind::Fifo,
            0o2 => FileKind::CharDev,
            0o4 => FileKind::Dir,
            0o6 => FileKind::Dev,
            0o10 => FileKind::File,
            0o12 => FileKind::Symlink,
            0o14 => FileKind::Socket,
            _ => return None,
        })
    }
}

/// A moment as file systems keep it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Since 1970.
    pub seconds: i64,
    pub nanoseconds: u32,
}

/// What a file system says of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    pub kind: FileKind,
    /// At most 0o7777.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size_bytes: u64,
    pub mtime: Moment,
    pub atime: Moment,
    /// Major and minor number of a device, where the file system's reader tells them.
    pub device: Option<(u32, u32)>,
}

/// An entry of a directory.
#[derive(Debug)]
pub struct DirEntry {
    /// Without `/` and NUL, and neither `.` nor `..`.
    pub name: OsString,
    /// One damaged entry does not hide the others.
    pub attributes: Result<Attributes>,
}

/// A file system that is read. Paths are absolute; links on the way are followed inside of it, the last
/// component is not.
pub trait FileSystem {
    fn contents(&self) -> Contents;
    fn label(&self) -> String;
    fn attributes(&self, path: &Path) -> Result<Attributes>;
    /// In the order of names.
    fn read_dir(&self, path: &Path) -> Result<Vec<DirEntry>>;
    fn read_link(&self, path: &Path) -> Result<PathBuf>;
    /// A file's content. Holes read as zeros.
    fn open(&self, path: &Path) -> Result<Box<dyn Read + '_>>;
}

/// Opens the file system in a disk or partition.
pub fn open_file_system(disk: Arc<dyn ReadAt>) -> Result<Box<dyn FileSystem>> {
    let what = match probe(&*disk).map_err(|source| Error::Unreadable { what: "the beginning".into(), source })? {
        Contents::Ext4 => return Ok(Box::new(Ext4::open(disk)?)),
        Contents::Xfs => return Ok(Box::new(Xfs::open(disk)?)),
        Contents::Lvm => "a physical volume of LVM, whose volumes are not looked into",
        Contents::Luks => "encrypted with LUKS",
        Contents::Raid => "a member of a software RAID",
        Contents::Swap => "swap space, which has no files",
        Contents::Btrfs => "btrfs, which is not read; ext4 and xfs are",
        Contents::Ntfs => "NTFS, which is not read; ext4 and xfs are",
        Contents::Fat => "FAT, which is not read; ext4 and xfs are",
        Contents::Unknown => "no file system that is known",
    };
    Err(Error::NoFileSystem { what })
}

/// Whether a name can be an entry's on any file system here.
pub(crate) fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && !name.contains(&b'/') && !name.contains(&0) && name != b"." && name != b".."
}
