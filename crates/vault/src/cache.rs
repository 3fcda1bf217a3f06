//! A repository's index, snapshots and directories on a local disk, for stores that are far away.
//!
//! A cache is never needed and never trusted: every file is named by the hash of its content, and one that
//! has another content is removed and fetched again. It holds what the store holds, sealed as there.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use levee_store::FileType;

use crate::{Error, Id, Result};

/// Larger packs of directories are read piece by piece rather than kept.
pub(crate) const PACK_BYTES_MAX: u64 = 64 << 20;

/// What marks folders that backups may leave out. Source: <https://bford.info/cachedir/>.
const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n# This folder holds copies that can be made again.\n";

/// One repository's cache.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    /// Packs whose hash was found right in this process.
    sound_packs: Mutex<HashSet<Id>>,
}

/// What is known of a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheInfo {
    /// The repository's id.
    pub id: Id,
    pub folder: PathBuf,
    pub last_used: SystemTime,
    pub size_bytes: u64,
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Target { action, path: path.to_path_buf(), source }
}

impl Cache {
    /// Opens the cache of a repository below a folder, both made when they aren't there.
    pub fn open(caches: &Path, repository: &Id) -> Result<Self> {
        let folder = caches.join(repository.to_hex());
        // Names and sizes are nobody else's business.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(failed("create", &folder))?;
        let tag = caches.join("CACHEDIR.TAG");
        if !tag.exists() {
            fs::write(&tag, TAG).map_err(failed("write", &tag))?;
        }
        let used = File::open(&folder).and_then(|folder| folder.set_modified(SystemTime::now()));
        used.map_err(failed("use", &folder))?;
        Ok(Self { folder, sound_packs: Mutex::default() })
    }

    fn path(&self, file_type: FileType, id: &Id) -> PathBuf {
        let name = id.to_hex();
        self.folder.join(file_type.folder()).join(&name[..2]).join(name)
    }

    /// A whole file, if it is here and right.
    pub(crate) fn read(&self, file_type: FileType, id: &Id) -> Option<Vec<u8>> {
        let path = self.path(file_type, id);
        let content = fs::read(&path).ok()?;
        if Id::of(&content) == *id {
            return Some(content);
        }
        tracing::warn!(path = %path.display(), "a file of the cache is damaged; it is fetched again");
        let _ = fs::remove_file(&path);
        None
    }

    /// Keeps a file whose hash was found right. A cache that cannot be written to only makes things slower.
    pub(crate) fn write(&self, file_type: FileType, id: &Id, content: &[u8]) {
        if let Err(error) = self.try_write(file_type, id, content) {
            tracing::warn!(%error, folder = %self.folder.display(), "the cache cannot be written to");
        }
    }

    fn try_write(&self, file_type: FileType, id: &Id, content: &[u8]) -> io::Result<()> {
        let path = self.path(file_type, id);
        let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        // Another process may write the same file: each has its own until it is whole.
        let unfinished = folder.join(format!("{}-{}.tmp", id.short(), std::process::id()));
        let written = File::create(&unfinished).and_then(|mut file| file.write_all(content));
        written.and_then(|()| fs::rename(&unfinished, &path)).inspect_err(|_| {
            let _ = fs::remove_file(&unfinished);
        })
    }

    /// A part of a pack, if the pack is here and right. It is hashed once in each process.
    pub(crate) fn read_pack(&self, pack: &Id, offset: u64, length: usize) -> Option<Vec<u8>> {
        let sound = |packs: &Mutex<HashSet<Id>>| packs.lock().unwrap_or_else(PoisonError::into_inner).contains(pack);
        if !sound(&self.sound_packs) {
            let content = self.read(FileType::Data, pack)?;
            self.note_sound(pack);
            let from = usize::try_from(offset).ok()?;
            return content.get(from..from.checked_add(length)?).map(<[u8]>::to_vec);
        }
        let file = File::open(self.path(FileType::Data, pack)).ok()?;
        // Before memory is asked for that an index only claims to be needed.
        let size = file.metadata().ok()?.len();
        offset.checked_add(length as u64).filter(|end| *end <= size)?;
        let mut content = vec![0; length];
        file.read_exact_at(&mut content, offset).ok()?;
        Some(content)
    }

    pub(crate) fn write_pack(&self, pack: &Id, content: &[u8]) {
        self.write(FileType::Data, pack, content);
        self.note_sound(pack);
    }

    fn note_sound(&self, pack: &Id) {
        self.sound_packs.lock().unwrap_or_else(PoisonError::into_inner).insert(*pack);
    }

    /// Whether a file is here; reading it tells whether it is right.
    pub(crate) fn has(&self, file_type: FileType, id: &Id) -> bool {
        self.path(file_type, id).is_file()
    }

    /// Removes a file that the repository no longer has.
    pub(crate) fn remove(&self, file_type: FileType, id: &Id) {
        let _ = fs::remove_file(self.path(file_type, id));
    }

    /// Removes the files of a type that the repository no longer has.
    pub(crate) fn retain(&self, file_type: FileType, is_there: impl Fn(&Id) -> bool) {
        let folders = fs::read_dir(self.folder.join(file_type.folder())).into_iter().flatten().flatten();
        let files = folders.flat_map(|folder| fs::read_dir(folder.path()).into_iter().flatten().flatten());
        for file in files {
            let id = file.file_name().to_str().and_then(|name| name.parse::<Id>().ok());
            if id.is_some_and(|id| !is_there(&id)) {
                let _ = fs::remove_file(file.path());
            }
        }
    }
}

/// All caches below a folder, by id.
pub fn list_caches(caches: &Path) -> Result<Vec<CacheInfo>> {
    let entries = match fs::read_dir(caches) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed("list", caches))?,
    };
    let mut infos = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed("list", caches))?;
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let folder = entry.path();
        let metadata = entry.metadata().map_err(failed("look at", &folder))?;
        let last_used = metadata.modified().map_err(failed("look at", &folder))?;
        infos.push(CacheInfo { id, size_bytes: size_of(&folder), folder, last_used });
    }
    infos.sort_by_key(|info| info.id);
    Ok(infos)
}

/// The caches that were not used for so long.
pub fn unused_caches(caches: &Path, unused_for: Duration, now: SystemTime) -> Result<Vec<CacheInfo>> {
    let is_old = |info: &CacheInfo| now.duration_since(info.last_used).is_ok_and(|age| age > unused_for);
    Ok(list_caches(caches)?.into_iter().filter(is_old).collect())
}

/// Removes the caches that were not used for so long, and gives what was removed.
pub fn clean_caches(caches: &Path, unused_for: Duration, now: SystemTime) -> Result<Vec<CacheInfo>> {
    let unused = unused_caches(caches, unused_for, now)?;
    for info in &unused {
        fs::remove_dir_all(&info.folder).map_err(failed("remove", &info.folder))?;
    }
    Ok(unused)
}

fn size_of(folder: &Path) -> u64 {
    let mut bytes = 0;
    let mut to_do = vec![folder.to_path_buf()];
    while let Some(folder) = to_do.pop() {
        // What vanishes meanwhile has no size.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => to_do.push(entry.path()),
                Ok(metadata) => bytes += metadata.len(),
                Err(_) => {}
            }
        }
    }
    bytes
}
