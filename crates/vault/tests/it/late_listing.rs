//! A store whose listings come late: what was written a moment ago is there, but in no list yet. As services of many
//! machines have it, and NFS.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use levee_store::{Entry, FileType, Result, Store};

pub struct LateListing {
    store: Arc<dyn Store>,
    late: Duration,
}

impl LateListing {
    pub fn new(store: Arc<dyn Store>, late: Duration) -> Self {
        Self { store, late }
    }

    fn path(&self, file_type: FileType, name: &str) -> PathBuf {
        let root = PathBuf::from(self.store.location());
        match file_type {
            FileType::Data => root.join("data").join(&name[..2]).join(name),
            FileType::Index => root.join("index").join(name),
            FileType::Snapshot => root.join("snapshots").join(name),
            FileType::Lock => root.join("locks").join(name),
            FileType::Key => root.join("keys").join(name),
            FileType::Config => root.join("config"),
        }
    }
}

impl Store for LateListing {
    fn create(&self) -> Result<()> {
        self.store.create()
    }

    fn write(&self, file_type: FileType, name: &str, content: &[u8]) -> Result<()> {
        self.store.write(file_type, name, content)
    }

    fn read(&self, file_type: FileType, name: &str) -> Result<Vec<u8>> {
        self.store.read(file_type, name)
    }

    fn read_range(&self, file_type: FileType, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.store.read_range(file_type, name, offset, length)
    }

    fn size_bytes(&self, file_type: FileType, name: &str) -> Result<u64> {
        self.store.size_bytes(file_type, name)
    }

    fn list(&self, file_type: FileType) -> Result<Vec<Entry>> {
        let is_seen = |entry: &Entry| {
            let written = std::fs::metadata(self.path(file_type, &entry.name)).and_then(|metadata| metadata.modified());
            // One that was removed since the list was made is in it.
            written.map_or(true, |at| SystemTime::now().duration_since(at).is_ok_and(|age| age >= self.late))
        };
        Ok(self.store.list(file_type)?.into_iter().filter(is_seen).collect())
    }

    fn remove(&self, file_type: FileType, name: &str) -> Result<()> {
        self.store.remove(file_type, name)
    }

    fn location(&self) -> String {
        self.store.location()
    }
}
