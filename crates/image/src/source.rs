use std::io;
use std::path::{Path, PathBuf};

use crate::qcow2::Qcow2Image;
use crate::raw::RawImage;
use crate::{Error, Extent, Format, ReadAt, Result, SparseRead, detect_format};

/// Whether files that an image names are opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackingFiles {
    /// An image from a stranger may name any file of this machine.
    #[default]
    Refuse,
    Follow,
}

/// An image that is read.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Raw(RawImage),
    Qcow2(Qcow2Image),
}

impl Source {
    /// Opens a file or a block device, in the given format or as what it looks like.
    pub fn open(path: &Path, format: Option<Format>, backing: BackingFiles) -> Result<Self> {
        Self::open_at_depth(path, format, backing, 0)
    }

    /// `depth` counts the images that stand on this one.
    pub(crate) fn open_at_depth(
        path: &Path,
        format: Option<Format>,
        backing: BackingFiles,
        depth: u32,
    ) -> Result<Self> {
        let file_type = std::fs::metadata(path).map_err(Error::io("look at", path))?.file_type();
        // Opening a FIFO would wait for its writer.
        if !file_type.is_file() && !std::os::unix::fs::FileTypeExt::is_block_device(&file_type) {
            return Err(Error::NotAnImage { path: path.to_path_buf() });
        }
        let format = match format {
            Some(format) => format,
            None => detect_format(path)?,
        };
        let kind = match format {
            Format::Raw => Kind::Raw(RawImage::open(path)?),
            Format::Qcow2 => Kind::Qcow2(Qcow2Image::open_at_depth(path, backing, depth)?),
        };
        Ok(Self { path: path.to_path_buf(), kind })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn format(&self) -> Format {
        match self.kind {
            Kind::Raw(_) => Format::Raw,
            Kind::Qcow2(_) => Format::Qcow2,
        }
    }

    pub fn is_device(&self) -> bool {
        matches!(&self.kind, Kind::Raw(raw) if raw.is_device())
    }

    /// Whether the file's own times say when its content changed last: not those of a device, and not when
    /// a part of it lies in another file.
    pub fn times_can_be_trusted(&self) -> bool {
        match &self.kind {
            Kind::Raw(raw) => !raw.is_device(),
            Kind::Qcow2(qcow2) => !qcow2.has_backing_file(),
        }
    }
}

impl ReadAt for Source {
    fn size_bytes(&self) -> u64 {
        match &self.kind {
            Kind::Raw(raw) => raw.size_bytes(),
            Kind::Qcow2(qcow2) => qcow2.size_bytes(),
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match &self.kind {
            Kind::Raw(raw) => raw.read_at(buffer, offset),
            Kind::Qcow2(qcow2) => qcow2.read_at(buffer, offset),
        }
    }
}

impl SparseRead for Source {
    fn extent_at(&self, offset: u64) -> io::Result<(Extent, u64)> {
        match &self.kind {
            Kind::Raw(raw) => raw.extent_at(offset),
            Kind::Qcow2(qcow2) => qcow2.extent_at(offset),
        }
    }
}
