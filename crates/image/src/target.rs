use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::qcow2::Qcow2Image;
use crate::raw::RawImage;
use crate::{BackingFiles, Error, Extent, Format, ReadAt, Result, Source, SparseRead, detect_format};

const SECTOR_BYTES: u64 = 512;

/// Whether a target is to be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Write,
    /// Look and compare only.
    LookOnly,
}

/// What a target was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetState {
    /// Made anew: reads as zeros.
    Fresh,
    /// It was there, and holds something.
    Old,
}

/// An image that is written.
#[derive(Debug)]
pub struct Target {
    path: PathBuf,
    format: Format,
    state: TargetState,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Raw(RawImage),
    Qcow2(Qcow2Image),
    /// What is there, opened for reading.
    Seen(Source),
    /// Nothing is there, and nothing is made.
    Absent {
        size_bytes: u64,
    },
}

impl Target {
    /// Opens or makes a place for an image of this size. Without a format, an existing qcow2 file and a new
    /// file whose name ends in `.qcow2` are qcow2, all else is raw.
    pub fn open(path: &Path, format: Option<Format>, size_bytes: u64, change: Change) -> Result<Self> {
        let existing = match std::fs::metadata(path) {
            Ok(metadata) => Some(metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(Error::io("look at", path)(error)),
        };
        let is_device = existing.as_ref().is_some_and(|metadata| metadata.file_type().is_block_device());
        if existing.as_ref().is_some_and(|metadata| !is_device && !metadata.is_file()) {
            return Err(Error::NotAnImage { path: path.to_path_buf() });
        }
        let is_empty_file = existing.as_ref().is_some_and(|metadata| !is_device && metadata.len() == 0);
        let is_fresh = existing.is_none() || is_empty_file;
        let format = match format {
            Some(format) => format,
            None if is_fresh => by_name(path),
            None => detect_format(path)?,
        };
        if format == Format::Qcow2 && is_device {
            let reason = "a block device takes raw images";
            return Err(Error::NoPlaceForQcow2 { path: path.to_path_buf(), reason });
        }
        // The format counts in sectors.
        let size_bytes = match format {
            Format::Raw => size_bytes,
            Format::Qcow2 => size_bytes.next_multiple_of(SECTOR_BYTES),
        };
        let state = if is_fresh { TargetState::Fresh } else { TargetState::Old };
        let kind = match (change, is_fresh) {
            (Change::LookOnly, true) => Kind::Absent { size_bytes },
            (Change::LookOnly, false) => Kind::Seen(Source::open(path, Some(format), BackingFiles::Refuse)?),
            (Change::Write, true) => make(path, format, size_bytes, existing.is_some())?,
            (Change::Write, false) if format == Format::Qcow2 => Kind::Qcow2(Qcow2Image::open_for_writing(path)?),
            (Change::Write, false) => Kind::Raw(RawImage::open_for_writing(path)?),
        };
        let target = Self { path: path.to_path_buf(), format, state, kind };
        check_size(&target, size_bytes, is_device)?;
        Ok(target)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn format(&self) -> Format {
        self.format
    }

    pub fn state(&self) -> TargetState {
        self.state
    }

    pub fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match &self.kind {
            Kind::Raw(raw) => raw.write_at(bytes, offset),
            Kind::Qcow2(qcow2) => qcow2.write_at(bytes, offset),
            Kind::Seen(_) | Kind::Absent { .. } => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        }
    }

    /// Makes a range read as zeros; as a hole where that is possible.
    pub fn write_zeros(&self, offset: u64, length: u64) -> io::Result<()> {
        match &self.kind {
            Kind::Raw(raw) => raw.write_zeros(offset, length),
            Kind::Qcow2(qcow2) => qcow2.write_zeros(offset, length),
            Kind::Seen(_) | Kind::Absent { .. } => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        }
    }

    /// Returns when everything is on the disk, the file's name among it.
    pub fn make_durable(&self) -> Result<()> {
        match &self.kind {
            Kind::Raw(raw) => raw.sync().map_err(Error::io("sync", &self.path))?,
            Kind::Qcow2(qcow2) => qcow2.sync().map_err(Error::io("sync", &self.path))?,
            Kind::Seen(_) | Kind::Absent { .. } => return Ok(()),
        }
        if self.state == TargetState::Fresh {
            let folder = match self.path.parent() {
                Some(folder) if !folder.as_os_str().is_empty() => folder,
                _ => Path::new("."),
            };
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io("sync", folder))?;
        }
        Ok(())
    }

    /// The same image opened again for reading, from the disk and not from memory, as another program would find it.
    /// What was written must be durable.
    pub fn reopen(&self) -> Result<Source> {
        match &self.kind {
            Kind::Raw(raw) => raw.drop_cache(),
            Kind::Qcow2(qcow2) => qcow2.drop_cache(),
            Kind::Seen(_) | Kind::Absent { .. } => {}
        }
        Source::open(&self.path, Some(self.format), BackingFiles::Refuse)
    }
}

fn by_name(path: &Path) -> Format {
    match path.extension() {
        Some(extension) if extension.eq_ignore_ascii_case("qcow2") => Format::Qcow2,
        _ => Format::Raw,
    }
}

fn make(path: &Path, format: Format, size_bytes: u64, is_there: bool) -> Result<Kind> {
    Ok(match (format, is_there) {
        (Format::Raw, false) => Kind::Raw(RawImage::create(path, size_bytes)?),
        (Format::Raw, true) => {
            let mut raw = RawImage::open_for_writing(path)?;
            raw.set_len(size_bytes).map_err(Error::io("set the length of", path))?;
            Kind::Raw(raw)
        }
        (Format::Qcow2, false) => Kind::Qcow2(Qcow2Image::create(path, size_bytes)?),
        (Format::Qcow2, true) => Kind::Qcow2(Qcow2Image::create_in_empty(path, size_bytes)?),
    })
}

/// A device may be larger than the image; a file has its length from it.
fn check_size(target: &Target, wanted_bytes: u64, is_device: bool) -> Result<()> {
    let size_bytes = target.size_bytes();
    let reason = match size_bytes.cmp(&wanted_bytes) {
        std::cmp::Ordering::Equal => return Ok(()),
        std::cmp::Ordering::Greater if is_device => return Ok(()),
        _ if is_device => "take a larger device",
        _ => "take another name, or remove what is there",
    };
    Err(Error::WrongSize { path: target.path.clone(), size_bytes, wanted_bytes, reason })
}

impl ReadAt for Target {
    fn size_bytes(&self) -> u64 {
        match &self.kind {
            Kind::Raw(raw) => raw.size_bytes(),
            Kind::Qcow2(qcow2) => qcow2.size_bytes(),
            Kind::Seen(source) => source.size_bytes(),
            Kind::Absent { size_bytes } => *size_bytes,
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match &self.kind {
            Kind::Raw(raw) => raw.read_at(buffer, offset),
            Kind::Qcow2(qcow2) => qcow2.read_at(buffer, offset),
            Kind::Seen(source) => source.read_at(buffer, offset),
            Kind::Absent { .. } => {
                buffer.fill(0);
                Ok(())
            }
        }
    }
}

impl SparseRead for Target {
    fn extent_at(&self, offset: u64) -> io::Result<(Extent, u64)> {
        match &self.kind {
            Kind::Raw(raw) => raw.extent_at(offset),
            Kind::Qcow2(qcow2) => qcow2.extent_at(offset),
            Kind::Seen(source) => source.extent_at(offset),
            Kind::Absent { size_bytes } => Ok((Extent::Zero, *size_bytes)),
        }
    }
}
