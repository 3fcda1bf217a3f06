//! A repository as its owner looks after it: stopped at once when this site's part changes.
//!
//! A run that brings the app here must not wait for a prune, and beside a writer nothing is removed. Every operation
//! asks for both, so that what is under way ends at its next one; each step of a prune leaves a sound repository.

use std::fs::OpenOptions;
use std::io::{Error as IoError, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use levee_database::StopSignal;
use levee_store::{Entry, Error, FileType, LocalStore, Parallelism, Result, Store, Temperature, ThawRequest};

use super::app::App;

/// Removes the locks that this site's earlier process has left behind. Nothing of this process may be at work on the
/// repository yet.
pub fn remove_left_locks(store: &dyn Store, own_locks: &Path) -> Result<()> {
    let failed = |action: &'static str, source: IoError| Error::Io {
        location: own_locks.display().to_string(),
        action,
        file_type: FileType::Lock,
        name: String::new(),
        source,
    };
    let names = match std::fs::read(own_locks) {
        Ok(names) => String::from_utf8_lossy(&names).into_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("read", error)),
    };
    for name in names.lines().filter(|name| !name.is_empty()) {
        match store.remove(FileType::Lock, name) {
            // A name that a crash has cut off was never written.
            Ok(()) | Err(Error::NotFound { .. } | Error::Denied { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    std::fs::remove_file(own_locks).map_err(|error| failed("remove", error))
}

pub struct OwnerStore {
    store: Arc<dyn Store>,
    /// Where the locks are noted that this site takes there.
    own_locks: PathBuf,
    app: Arc<App>,
    stop: StopSignal,
}

impl OwnerStore {
    /// The repository at this site.
    pub fn new(app: &Arc<App>, stop: &StopSignal) -> Self {
        let store = LocalStore::new(app.folder.repository());
        Self::elsewhere(Arc::new(store), app.folder.own_locks(), app, stop)
    }

    /// A repository of this site's in another place.
    pub fn elsewhere(store: Arc<dyn Store>, own_locks: PathBuf, app: &Arc<App>, stop: &StopSignal) -> Self {
        Self { store, own_locks, app: app.clone(), stop: stop.clone() }
    }

    /// Before a lock is there, so that one which a crash leaves behind is found at the next start: an exclusive one
    /// would hold up every copy, and a failover, until it is stale.
    fn note_lock(&self, name: &str) -> Result<()> {
        let path = &self.own_locks;
        let note = || {
            std::fs::create_dir_all(path.parent().unwrap_or(path))?;
            let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
            file.write_all(format!("\n{name}").as_bytes())?;
            file.sync_all()
        };
        note().map_err(|source| Error::Io {
            location: path.display().to_string(),
            action: "note",
            file_type: FileType::Lock,
            name: name.into(),
            source,
        })
    }

    fn go_on(&self, action: &'static str, file_type: FileType, name: &str) -> Result<()> {
        let reason = if self.stop.is_stopped() {
            "looking after the copies has been stopped, and goes on later"
        } else if !self.app.state().may_remove_copies() {
            "the copies here are frozen"
        } else {
            return Ok(());
        };
        let source = IoError::new(ErrorKind::Interrupted, reason);
        Err(Error::Io { location: self.location(), action, file_type, name: name.into(), source })
    }
}

impl Store for OwnerStore {
    fn create(&self) -> Result<()> {
        self.store.create()
    }

    fn write(&self, file_type: FileType, name: &str, content: &[u8]) -> Result<()> {
        self.go_on("write", file_type, name)?;
        if file_type == FileType::Lock {
            self.note_lock(name)?;
        }
        self.store.write(file_type, name, content)
    }

    fn write_tree_pack(&self, name: &str, content: &[u8]) -> Result<()> {
        self.go_on("write", FileType::Data, name)?;
        self.store.write_tree_pack(name, content)
    }

    fn read(&self, file_type: FileType, name: &str) -> Result<Vec<u8>> {
        self.go_on("read", file_type, name)?;
        self.store.read(file_type, name)
    }

    fn read_range(&self, file_type: FileType, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.go_on("read", file_type, name)?;
        self.store.read_range(file_type, name, offset, length)
    }

    fn read_range_into(
        &self,
        file_type: FileType,
        name: &str,
        offset: u64,
        length: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<()> {
        self.go_on("read", file_type, name)?;
        self.store.read_range_into(file_type, name, offset, length, buffer)
    }

    fn size_bytes(&self, file_type: FileType, name: &str) -> Result<u64> {
        self.go_on("look up", file_type, name)?;
        self.store.size_bytes(file_type, name)
    }

    fn list(&self, file_type: FileType) -> Result<Vec<Entry>> {
        self.go_on("list", file_type, "")?;
        self.store.list(file_type)
    }

    fn remove(&self, file_type: FileType, name: &str) -> Result<()> {
        // The own lock goes whatever has happened, or it would hold others up.
        if file_type != FileType::Lock {
            self.go_on("remove", file_type, name)?;
        }
        self.store.remove(file_type, name)
    }

    fn parallelism(&self) -> Parallelism {
        self.store.parallelism()
    }

    fn archived(&self, file_type: FileType) -> Result<Vec<Entry>> {
        self.go_on("list", file_type, "")?;
        self.store.archived(file_type)
    }

    fn temperature(&self, file_type: FileType, name: &str) -> Result<Temperature> {
        self.store.temperature(file_type, name)
    }

    fn thaw(&self, file_type: FileType, name: &str, request: &ThawRequest) -> Result<Temperature> {
        self.store.thaw(file_type, name, request)
    }

    fn location(&self) -> String {
        self.store.location()
    }
}
