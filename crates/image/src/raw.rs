//! Raw files and block devices.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;

use crate::read_at::check_range;
use crate::{Error, Extent, ReadAt, Result};

/// An opened raw image.
#[derive(Debug)]
pub(crate) struct RawImage {
    file: File,
    size_bytes: u64,
    is_device: bool,
}

impl RawImage {
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        Self::of(file, path)
    }

    /// For writing. A device is opened for this process alone: the kernel refuses that for one that is
    /// mounted, or a part of which is.
    pub fn open_for_writing(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(Error::io("look at", path))?;
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        if metadata.file_type().is_block_device() {
            options.custom_flags(OFlags::EXCL.bits() as i32);
        }
        let file = options.open(path).map_err(|source| match source.raw_os_error() {
            Some(code) if code == Errno::BUSY.raw_os_error() => Error::InUse { path: path.to_path_buf() },
            _ => Error::io("open for writing", path)(source),
        })?;
        Self::of(file, path)
    }

    /// A new file of this size, all of it a hole. What is there already is an error.
    pub fn create(path: &Path, size_bytes: u64) -> Result<Self> {
        let file = File::options().create_new(true).read(true).write(true).open(path);
        let file = file.map_err(Error::io("create", path))?;
        file.set_len(size_bytes).map_err(Error::io("set the length of", path))?;
        Ok(Self { file, size_bytes, is_device: false })
    }

    fn of(mut file: File, path: &Path) -> Result<Self> {
        let file_type = file.metadata().map_err(Error::io("look at", path))?.file_type();
        let is_device = file_type.is_block_device();
        if !is_device && !file_type.is_file() {
            return Err(Error::NotAnImage { path: path.to_path_buf() });
        }
        // The end of a device is where its last byte lies; its metadata say nothing of that.
        let size_bytes = file.seek(SeekFrom::End(0)).map_err(Error::io("find the end of", path))?;
        Ok(Self { file, size_bytes, is_device })
    }

    pub fn is_device(&self) -> bool {
        self.is_device
    }

    pub fn set_len(&mut self, size_bytes: u64) -> io::Result<()> {
        self.file.set_len(size_bytes)?;
        self.size_bytes = size_bytes;
        Ok(())
    }

    /// What lies at an offset, and up to where.
    pub fn extent_at(&self, offset: u64) -> io::Result<(Extent, u64)> {
        let end = self.size_bytes;
        if self.is_device || offset >= end {
            return Ok((Extent::Data, end));
        }
        match rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(offset)) {
            Ok(data) if data > offset => Ok((Extent::Zero, data.min(end))),
            Ok(_) => match rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Hole(offset)) {
                Ok(hole) => Ok((Extent::Data, hole.clamp(offset + 1, end))),
                Err(errno) => Err(errno.into()),
            },
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => Ok((Extent::Zero, end)),
            // File systems that keep no account of holes.
            Err(Errno::INVAL | Errno::NOTSUP) => Ok((Extent::Data, end)),
            Err(errno) => Err(errno.into()),
        }
    }

    pub fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        check_range(self.size_bytes, offset, bytes.len())?;
        self.file.write_all_at(bytes, offset)
    }

    /// Makes a range read as zeros and gives its room back where that is possible.
    pub fn write_zeros(&self, offset: u64, length: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if rustix::fs::fallocate(&self.file, flags, offset, length).is_ok() {
            return Ok(());
        }
        const PIECE_BYTES: u64 = 1 << 20;
        let zeros = vec![0; length.min(PIECE_BYTES) as usize];
        let mut at = offset;
        while at < offset + length {
            let count = (offset + length - at).min(PIECE_BYTES);
            self.file.write_all_at(&zeros[..count as usize], at)?;
            at += count;
        }
        Ok(())
    }

    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Lets the system forget what it knows of the content, so that it is read from the disk next.
    pub fn drop_cache(&self) {
        // Advice; without it the cache is read.
        let _ = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed);
    }
}

impl ReadAt for RawImage {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}
