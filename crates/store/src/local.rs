//! A repository in a local folder, in restic's layout.
//!
//! A file appears under its name only when it is whole and on disk: it is written without a name, synced,
//! given its name, and then its folder is synced.

mod direct;
mod durable;
mod identity;
mod limited;

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::operation::NO_CONFIG;
use crate::standing::Standing;
use crate::{Entry, Error, FileType, Parallelism, Result, Store, name};
use identity::Identity;
pub(crate) use limited::LimitedFolder;

/// A file that stands in a repository, with the time at which this machine received it.
///
/// A writer can forge the times inside its files, but not this one: it is the age that counts for the
/// staleness of a lock and for keeping snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub name: String,
    pub size_bytes: u64,
    pub received_at: Timestamp,
}

/// There is a folder, but not the repository that was in it, for this reason.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct HasVanished(&'static str);

/// A repository in a local folder.
#[derive(Clone, Debug)]
pub struct LocalStore {
    dir: PathBuf,
    /// The repository whose configuration was seen here since this was made: it stands, and does not go by itself.
    identity: Arc<Mutex<Option<Identity>>>,
}

impl LocalStore {
    /// Nothing is read or made until an operation asks for it.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), identity: Arc::default() }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Every file of a type with the time at which it was received.
    pub fn received(&self, file_type: FileType) -> Result<Vec<Received>> {
        let mut found = Vec::new();
        self.walk(file_type, &mut |name, metadata| {
            let received_at =
                metadata.modified().and_then(|time| Timestamp::try_from(time).map_err(io::Error::other))?;
            found.push(Received { name, size_bytes: metadata.len(), received_at });
            Ok(())
        })
        .map_err(|source| self.io_error("list", file_type, "", source))?;
        Ok(found)
    }

    fn folder(&self, file_type: FileType, name: &str) -> PathBuf {
        match file_type {
            FileType::Config => self.dir.clone(),
            FileType::Data => self.dir.join("data").join(name.get(..2).unwrap_or_default()),
            _ => self.dir.join(file_type.folder()),
        }
    }

    fn path(&self, file_type: FileType, name: &str) -> PathBuf {
        match file_type {
            FileType::Config => self.dir.join("config"),
            _ => self.folder(file_type, name).join(name),
        }
    }

    fn checked_path(&self, action: &'static str, file_type: FileType, name: &str) -> Result<PathBuf> {
        name::check(&self.location(), action, file_type, name)?;
        Ok(self.path(file_type, name))
    }

    fn io_error(&self, action: &'static str, file_type: FileType, name: &str, source: io::Error) -> Error {
        let (location, name) = (self.location(), name.to_string());
        let source = match source.kind() {
            // What another folder does not have says nothing about the repository.
            ErrorKind::NotFound => self.require_same_repository().err().unwrap_or(source),
            _ => source,
        };
        if let Some(HasVanished(reason)) = source.get_ref().and_then(|inner| inner.downcast_ref()) {
            return Error::Vanished { location, reason };
        }
        match source.kind() {
            ErrorKind::NotFound => Error::NotFound { location, file_type, name },
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::Full { location, file_type, name },
            _ => Error::Io { location, action, file_type, name, source },
        }
    }

    fn damaged(&self, file_type: FileType, name: &str, reason: String) -> Error {
        Error::Damaged { location: self.location(), file_type, name: name.into(), reason }
    }

    fn publish(&self, file_type: FileType, name: &str, content: &[u8]) -> io::Result<Standing> {
        let (folder, path) = (self.folder(file_type, name), self.path(file_type, name));
        let mut written = durable::write_new(&folder, &path, content);
        if written.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            // A server that makes folders as they are needed, or a person, may have left it out. But the folder of a
            // disk that is not mounted is there, too: what is written below it would be lost to the repository.
            self.require_config()?;
            durable::create_folder(&folder)?;
            written = durable::write_new(&folder, &path, content);
        }
        match written {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            // The same is now there.
            other => return other.map(|()| Standing::Same),
        }
        let present = fs::read(&path)?;
        let standing = Standing::of(file_type, name, &present, content);
        match standing {
            Standing::Same => {
                // Whoever wrote it may have crashed before its name was on disk.
                File::open(&path)?.sync_all()?;
                durable::sync_folder(&folder)?;
            }
            Standing::Conflict => {}
            Standing::Damaged => durable::replace(&folder, &path, content)?,
        }
        Ok(standing)
    }

    /// Whether the configuration of a repository was seen here.
    pub fn knows_repository(&self) -> bool {
        self.identity().is_some()
    }

    /// An error when the repository whose configuration was seen here does not stand here any more. Before one was seen,
    /// anything may.
    pub fn require_standing(&self) -> Result<()> {
        self.require_same_repository().map_err(|source| match source.kind() {
            ErrorKind::NotFound => Error::Vanished { location: self.location(), reason: "its folder is gone" },
            _ => self.io_error("look up", FileType::Config, "", source),
        })
    }

    fn identity(&self) -> MutexGuard<'_, Option<Identity>> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_config(&self, file_type: FileType, config: &[u8]) {
        let mut identity = self.identity();
        if file_type == FileType::Config && identity.is_none() {
            // Where this fails the next operation does, too.
            *identity = Identity::of(&self.dir, config).ok();
        }
    }

    /// An error when the path leads to something else than the repository that was found there.
    fn require_same_repository(&self) -> io::Result<()> {
        let mut identity = self.identity();
        let Some(identity) = &mut *identity else { return Ok(()) };
        match identity.stands_in(&self.dir)? {
            true => Ok(()),
            false => Err(io::Error::other(HasVanished("another folder is in its place"))),
        }
    }

    /// An error when no repository stands in the folder.
    fn require_config(&self) -> io::Result<()> {
        fs::metadata(self.path(FileType::Config, "")).map(drop).map_err(|error| match error.kind() {
            ErrorKind::NotFound if self.dir.is_dir() => io::Error::other(HasVanished(NO_CONFIG)),
            _ => error,
        })
    }

    fn walk(
        &self,
        file_type: FileType,
        visit: &mut dyn FnMut(String, fs::Metadata) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut is_missing = false;
        let mut walk_folder = |folder: &Path| walk_folder(file_type, folder, &mut is_missing, visit);
        match file_type {
            FileType::Config => match fs::metadata(self.path(file_type, "")) {
                Ok(metadata) => visit(String::new(), metadata),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error),
            }?,
            FileType::Data => {
                (0..=u8::MAX).try_for_each(|byte| walk_folder(&self.folder(file_type, &hex::encode([byte]))))?;
            }
            _ => walk_folder(&self.folder(file_type, ""))?,
        }
        self.require_same_repository()?;
        // Nothing there is an answer only where there is a repository.
        if is_missing && self.knows_repository() { self.require_config() } else { Ok(()) }
    }
}

impl Store for LocalStore {
    fn create(&self) -> Result<()> {
        let make = || {
            durable::create_folder(&self.dir)?;
            for file_type in FileType::ALL.into_iter().filter(|file_type| *file_type != FileType::Config) {
                durable::create_folder(&self.dir.join(file_type.folder()))?;
            }
            for byte in 0..=u8::MAX {
                durable::make_folder(&self.dir.join("data").join(hex::encode([byte])))?;
            }
            durable::sync_folder(&self.dir.join("data"))
        };
        make().map_err(|source| self.io_error("create", FileType::Config, "", source))
    }

    fn write(&self, file_type: FileType, name: &str, content: &[u8]) -> Result<()> {
        self.checked_path("write", file_type, name)?;
        // Looked at afterwards, too: the disk may go while the file is written, and nothing is reported as stored that is
        // not in the repository.
        let published = self
            .require_same_repository()
            .and_then(|()| self.publish(file_type, name, content))
            .and_then(|standing| self.require_same_repository().map(|()| standing));
        match published {
            Ok(Standing::Same | Standing::Damaged) => {
                self.note_config(file_type, content);
                if let Some(identity) = &mut *self.identity() {
                    identity.note_written(file_type, self.path(file_type, name));
                }
                Ok(())
            }
            Ok(Standing::Conflict) if file_type == FileType::Config => Err(Error::Denied {
                location: self.location(),
                action: "write",
                file_type,
                name: name.into(),
                reason: "there is a repository already".into(),
            }),
            Ok(Standing::Conflict) => {
                Err(self.damaged(file_type, name, "what was to be written is not the content of that name".into()))
            }
            Err(source) => Err(self.io_error("write", file_type, name, source)),
        }
    }

    fn read(&self, file_type: FileType, name: &str) -> Result<Vec<u8>> {
        let path = self.checked_path("read", file_type, name)?;
        let content = fs::read(path).map_err(|source| self.io_error("read", file_type, name, source))?;
        self.note_config(file_type, &content);
        Ok(content)
    }

    fn read_range(&self, file_type: FileType, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        let mut content = Vec::new();
        self.read_range_into(file_type, name, offset, length, &mut content)?;
        Ok(content)
    }

    fn read_range_into(
        &self,
        file_type: FileType,
        name: &str,
        offset: u64,
        length: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<()> {
        let path = self.checked_path("read", file_type, name)?;
        let file = File::open(path).map_err(|source| self.io_error("read", file_type, name, source))?;
        // Asked first, so that a wrong length in an index doesn't take the memory it names.
        let size = file.metadata().map_err(|source| self.io_error("read", file_type, name, source))?.len();
        if offset.checked_add(length as u64).is_none_or(|end| end > size) {
            let reason = format!("it has {size} bytes, and {length} bytes from {offset} were asked for");
            return Err(self.damaged(file_type, name, reason));
        }
        if buffer.len() < length {
            // Nothing of it is worth copying when it moves.
            buffer.clear();
            buffer.resize(length, 0);
        }
        file.read_exact_at(&mut buffer[..length], offset)
            .map_err(|source| self.io_error("read", file_type, name, source))
    }

    fn size_bytes(&self, file_type: FileType, name: &str) -> Result<u64> {
        let path = self.checked_path("look up", file_type, name)?;
        let metadata = fs::metadata(path).map_err(|source| self.io_error("look up", file_type, name, source))?;
        Ok(metadata.len())
    }

    fn list(&self, file_type: FileType) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        self.walk(file_type, &mut |name, metadata| {
            entries.push(Entry { name, size_bytes: metadata.len() });
            Ok(())
        })
        .map_err(|source| self.io_error("list", file_type, "", source))?;
        Ok(entries)
    }

    fn remove(&self, file_type: FileType, name: &str) -> Result<()> {
        let path = self.checked_path("remove", file_type, name)?;
        // Synced, because what is removed next may rest on this being gone.
        self.require_same_repository()
            .and_then(|()| fs::remove_file(&path))
            .and_then(|()| durable::sync_folder(&self.folder(file_type, name)))
            .map_err(|source| self.io_error("remove", file_type, name, source))?;
        if let Some(identity) = &mut *self.identity() {
            identity.note_removed(&path);
        }
        Ok(())
    }

    fn parallelism(&self) -> Parallelism {
        Parallelism::of_path(&self.dir)
    }

    fn location(&self) -> String {
        self.dir.display().to_string()
    }
}

fn walk_folder(
    file_type: FileType,
    folder: &Path,
    is_missing: &mut bool,
    visit: &mut dyn FnMut(String, fs::Metadata) -> io::Result<()>,
) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            *is_missing = true;
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().map(str::to_string) else { continue };
        let stands_here = file_type != FileType::Data || folder.ends_with(name.get(..2).unwrap_or_default());
        if !name::is_valid(file_type, &name) || !stands_here {
            continue;
        }
        match fs::metadata(entry.path()) {
            Ok(metadata) if metadata.is_file() => visit(name, metadata)?,
            Ok(_) => {}
            // Removed since the folder was read: locks come and go.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
