//! ext2, ext3 and ext4, through the library `ext4-view`, which also reads what is still in the journal.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ext4_view::{Ext4Error, Ext4Read, Metadata, PathBuf as Ext4Path};

use crate::file_system::{Attributes, DirEntry, FileKind, FileSystem, Moment, is_name};
use crate::probe::Contents;
use crate::{Error, ReadAt, Result};

pub(crate) struct Ext4(ext4_view::Ext4);

struct Reader(Arc<dyn ReadAt>);

impl Ext4Read for Reader {
    fn read(
        &mut self,
        start_byte: u64,
        buffer: &mut [u8],
    ) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        self.0.read_at(buffer, start_byte).map_err(Into::into)
    }
}

impl Ext4 {
    pub fn open(disk: Arc<dyn ReadAt>) -> Result<Self> {
        ext4_view::Ext4::load(Box::new(Reader(disk))).map(Self).map_err(|error| failed(Path::new("/"), error))
    }
}

fn failed(path: &Path, error: Ext4Error) -> Error {
    match error {
        Ext4Error::NotFound => Error::NoSuchFile { path: path.to_path_buf() },
        Ext4Error::NotADirectory => Error::WrongKind { path: path.to_path_buf(), wanted: "folder" },
        error => Error::FileSystem { path: path.to_path_buf(), reason: error.to_string() },
    }
}

fn inner_path(path: &Path) -> Result<Ext4Path> {
    Ext4Path::try_from(path.as_os_str().as_bytes()).map_err(|_| Error::NoSuchFile { path: path.to_path_buf() })
}

fn attributes_of(metadata: &Metadata) -> Attributes {
    let moment = |time: ext4_view::Timestamp| Moment { seconds: time.seconds(), nanoseconds: time.nanoseconds() };
    let file_type = metadata.file_type();
    let kind = match () {
        () if file_type.is_dir() => FileKind::Dir,
        () if file_type.is_symlink() => FileKind::Symlink,
        () if file_type.is_block_dev() => FileKind::Dev,
        () if file_type.is_char_dev() => FileKind::CharDev,
        () if file_type.is_fifo() => FileKind::Fifo,
        () if file_type.is_socket() => FileKind::Socket,
        () => FileKind::File,
    };
    Attributes {
        kind,
        mode: u32::from(metadata.mode()) & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        size_bytes: metadata.len(),
        mtime: moment(metadata.modified()),
        atime: moment(metadata.accessed()),
        device: None,
    }
}

impl FileSystem for Ext4 {
    fn contents(&self) -> Contents {
        Contents::Ext4
    }

    fn label(&self) -> String {
        self.0.label().to_str().unwrap_or_default().to_string()
    }

    fn attributes(&self, path: &Path) -> Result<Attributes> {
        let metadata = self.0.symlink_metadata(&inner_path(path)?).map_err(|error| failed(path, error))?;
        Ok(attributes_of(&metadata))
    }

    fn read_dir(&self, path: &Path) -> Result<Vec<DirEntry>> {
        let failed = |error| failed(path, error);
        let mut entries = Vec::new();
        for entry in self.0.read_dir(&inner_path(path)?).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if !is_name(name.as_ref()) {
                continue;
            }
            let name = OsStr::from_bytes(name.as_ref()).to_os_string();
            let attributes = entry.metadata().map(|metadata| attributes_of(&metadata));
            let attributes = attributes.map_err(|error| self::failed(&path.join(&name), error));
            entries.push(DirEntry { name, attributes });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf> {
        let target = self.0.read_link(&inner_path(path)?).map_err(|error| failed(path, error))?;
        Ok(PathBuf::from(OsStr::from_bytes(target.as_ref())))
    }

    fn open(&self, path: &Path) -> Result<Box<dyn Read + '_>> {
        let file = self.0.open(&inner_path(path)?).map_err(|error| failed(path, error))?;
        Ok(Box::new(Content(file)))
    }
}

struct Content(ext4_view::File);

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_bytes(buffer).map_err(io::Error::other)
    }
}
