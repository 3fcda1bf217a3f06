//! A set of volumes as a store, so that a vault can be opened in it.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use levee_store::{Entry, Error, FileType, Parallelism, Result, Store};

use super::volume::{MAGIC, Place, RECORD_HEADER_BYTES, encode_header, name_of, scan};
use crate::Id;

const SUFFIX: &str = ".volume";
/// A volume's number has so many digits, or more when it needs them.
const NUMBER_DIGITS: usize = 6;

/// Volumes in one or several folders. Files are added and never removed.
pub struct VolumeStore {
    folder: PathBuf,
    /// No volume grows beyond this; `None` when nothing may be written.
    volume_bytes: Option<u64>,
    content: Mutex<Content>,
}

#[derive(Default)]
struct Content {
    volumes: Vec<Volume>,
    files: HashMap<(FileType, String), (usize, Place)>,
    /// Locks are of this process alone: nobody else can write to these volumes meanwhile.
    locks: BTreeMap<String, Vec<u8>>,
}

struct Volume {
    path: PathBuf,
    file: File,
    end: u64,
}

/// Whether a volume may be called so. Other computers that the disk was put into leave files of their own beside the
/// volumes, such as `._000001.volume`.
pub(super) fn is_volume_name(name: &str) -> bool {
    let number = name.strip_suffix(SUFFIX);
    number.is_some_and(|number| number.len() >= NUMBER_DIGITS && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The volumes in a folder, in the order of their numbers.
pub(super) fn volumes_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut volumes = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.file_name().and_then(|name| name.to_str()).is_some_and(is_volume_name) {
            volumes.push(path);
        }
    }
    volumes.sort();
    Ok(volumes)
}

impl VolumeStore {
    /// Volumes that may be added to. What an interrupted export left half-written is cut off: that can only be the end of
    /// the last volume, behind what an earlier record vouches for, which is `vouched` for a volume's name in bytes.
    pub(super) fn for_writing(folder: &Path, volume_bytes: u64, vouched: &dyn Fn(&str) -> u64) -> Result<Self> {
        let store =
            Self { folder: folder.into(), volume_bytes: Some(volume_bytes), content: Mutex::new(Content::default()) };
        let opened = volumes_in(folder).and_then(|volumes| store.take_in(&volumes, vouched));
        opened.map_err(|source| store.io_error("open", FileType::Config, "", source))?;
        Ok(store)
    }

    /// These volumes as they are, and no others. The folder is what they are called by together.
    pub(super) fn for_reading(folder: &Path, volumes: &[PathBuf]) -> Result<Self> {
        let store = Self { folder: folder.into(), volume_bytes: None, content: Mutex::new(Content::default()) };
        store.take_in(volumes, &|_| 0).map_err(|source| store.io_error("open", FileType::Config, "", source))?;
        Ok(store)
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_in(&self, paths: &[PathBuf], vouched: &dyn Fn(&str) -> u64) -> io::Result<()> {
        let mut content = self.content();
        for (position, path) in paths.iter().enumerate() {
            let path = path.clone();
            let writable = self.volume_bytes.is_some();
            let vouched_bytes = vouched(path.file_name().and_then(|name| name.to_str()).unwrap_or_default());
            let may_be_cut = position + 1 == paths.len();
            let file = OpenOptions::new().read(true).write(writable).open(&path)?;
            let Some((records, end)) = scan(&file)? else {
                if writable && may_be_cut && vouched_bytes == 0 && file.metadata()?.len() < MAGIC.len() as u64 {
                    // Made and not yet begun when the writer was stopped.
                    fs::remove_file(&path)?;
                    continue;
                }
                let message = format!("{} is no volume of an export", path.display());
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            };
            let bytes = file.metadata()?.len();
            if writable && (end < vouched_bytes || (bytes > end && !may_be_cut)) {
                let message = format!(
                    "{} is damaged at byte {end} of {bytes}: put back a sound copy of it, or export into an empty folder",
                    path.display()
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            if writable && bytes > end {
                file.set_len(end)?;
                file.sync_all()?;
            }
            let number = content.volumes.len();
            for record in records {
                content.files.insert((record.file_type, record.name), (number, record.place));
            }
            content.volumes.push(Volume { path, file, end });
        }
        Ok(())
    }

    /// How many files there are, without locks.
    pub fn files(&self) -> u64 {
        self.content().files.len() as u64
    }

    fn io_error(&self, action: &'static str, file_type: FileType, name: &str, source: io::Error) -> Error {
        let (location, name) = (self.location(), name.to_string());
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Full { location, file_type, name },
            _ => Error::Io { location, action, file_type, name, source },
        }
    }

    fn not_found(&self, file_type: FileType, name: &str) -> Error {
        Error::NotFound { location: self.location(), file_type, name: name.into() }
    }

    fn denied(&self, action: &'static str, file_type: FileType, name: &str, reason: &str) -> Error {
        Error::Denied { location: self.location(), action, file_type, name: name.into(), reason: reason.into() }
    }

    /// Appends a record to the last volume, or to a new one when it would grow too large.
    fn append(&self, file_type: FileType, data: &[u8], volume_bytes: u64) -> io::Result<()> {
        let mut content = self.content();
        let name = name_of(file_type, &Id::of(data));
        let Some(header) = encode_header(file_type, data) else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "such a file has no place in a volume"));
        };
        let needed = RECORD_HEADER_BYTES + data.len() as u64;
        if content.volumes.last().is_none_or(|last| last.end + needed > volume_bytes) {
            let path = self.folder.join(format!("{:0NUMBER_DIGITS$}{SUFFIX}", content.volumes.len() + 1));
            let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
            file.write_all_at(MAGIC, 0)?;
            file.sync_all()?;
            File::open(&self.folder)?.sync_all()?;
            content.volumes.push(Volume { path, file, end: MAGIC.len() as u64 });
        }
        let number = content.volumes.len() - 1;
        let Some(last) = content.volumes.last_mut() else { return Ok(()) };
        let offset = last.end + RECORD_HEADER_BYTES;
        // The header comes last: without it the rest is not there.
        let write = || {
            last.file.write_all_at(data, offset)?;
            last.file.sync_data()?;
            last.file.write_all_at(&header, last.end)?;
            last.file.sync_data()
        };
        if let Err(error) = write() {
            // Another record may still find room in a later volume, and only the last one may end in half a record.
            let _ = last.file.set_len(last.end);
            return Err(error);
        }
        last.end = offset + data.len() as u64;
        let place = Place { offset, length: data.len() as u64 };
        content.files.insert((file_type, name), (number, place));
        Ok(())
    }

    fn read_at(&self, file_type: FileType, name: &str, range: Option<(u64, usize)>) -> Result<Vec<u8>> {
        let content = self.content();
        if file_type == FileType::Lock {
            return content.locks.get(name).cloned().ok_or_else(|| self.not_found(file_type, name));
        }
        let key = (file_type, name.to_string());
        let (number, place) = *content.files.get(&key).ok_or_else(|| self.not_found(file_type, name))?;
        let (offset, length) = range.unwrap_or((0, usize::try_from(place.length).unwrap_or(usize::MAX)));
        if offset.checked_add(length as u64).is_none_or(|end| end > place.length) {
            let reason = format!("it has {} bytes, and {length} bytes from {offset} were asked for", place.length);
            return Err(Error::Damaged { location: self.location(), file_type, name: name.into(), reason });
        }
        let mut data = vec![0; length];
        let volume = &content.volumes[number];
        let read = volume.file.read_exact_at(&mut data, place.offset + offset);
        read.map_err(|source| {
            let source = io::Error::new(source.kind(), format!("{}: {source}", volume.path.display()));
            self.io_error("read", file_type, name, source)
        })?;
        Ok(data)
    }
}

impl Store for VolumeStore {
    fn create(&self) -> Result<()> {
        Ok(())
    }

    fn write(&self, file_type: FileType, name: &str, data: &[u8]) -> Result<()> {
        if file_type == FileType::Lock {
            self.content().locks.insert(name.into(), data.into());
            return Ok(());
        }
        let Some(volume_bytes) = self.volume_bytes else {
            return Err(self.denied("write", file_type, name, "these volumes are only read"));
        };
        if file_type != FileType::Config && Id::of(data).to_hex() != name {
            return Err(self.denied("write", file_type, name, "the name is not the SHA-256 of the content"));
        }
        if self.content().files.contains_key(&(file_type, name.to_string())) {
            return match file_type {
                FileType::Config => Err(self.denied("write", file_type, name, "there is a repository already")),
                _ => Ok(()),
            };
        }
        self.append(file_type, data, volume_bytes).map_err(|source| self.io_error("write", file_type, name, source))
    }

    fn read(&self, file_type: FileType, name: &str) -> Result<Vec<u8>> {
        self.read_at(file_type, name, None)
    }

    fn read_range(&self, file_type: FileType, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.read_at(file_type, name, Some((offset, length)))
    }

    fn size_bytes(&self, file_type: FileType, name: &str) -> Result<u64> {
        let content = self.content();
        if file_type == FileType::Lock {
            let found = content.locks.get(name).map(|data| data.len() as u64);
            return found.ok_or_else(|| self.not_found(file_type, name));
        }
        let place = content.files.get(&(file_type, name.to_string()));
        place.map(|(_, place)| place.length).ok_or_else(|| self.not_found(file_type, name))
    }

    fn list(&self, file_type: FileType) -> Result<Vec<Entry>> {
        let content = self.content();
        if file_type == FileType::Lock {
            let entry = |(name, data): (&String, &Vec<u8>)| Entry { name: name.clone(), size_bytes: data.len() as u64 };
            return Ok(content.locks.iter().map(entry).collect());
        }
        let files = content.files.iter().filter(|((kind, _), _)| *kind == file_type);
        Ok(files.map(|((_, name), (_, place))| Entry { name: name.clone(), size_bytes: place.length }).collect())
    }

    fn remove(&self, file_type: FileType, name: &str) -> Result<()> {
        if file_type != FileType::Lock {
            return Err(self.denied("remove", file_type, name, "nothing is removed from volumes"));
        }
        self.content().locks.remove(name).map(drop).ok_or_else(|| self.not_found(file_type, name))
    }

    fn parallelism(&self) -> Parallelism {
        Parallelism::of_path(&self.folder)
    }

    fn location(&self) -> String {
        self.folder.display().to_string()
    }
}
