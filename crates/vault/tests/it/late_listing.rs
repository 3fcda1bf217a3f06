//! A store whose listings come late: what was written a moment ago is there, but in no list yet. As services of many
//! machines have it, and NFS.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use levee_store::{Entry, FileType, LocalStore, Result, Store};

pub struct LateListing {
    store: LocalStore,
    late: SignedDuration,
}

impl LateListing {
    pub fn new(store: LocalStore, late: Duration) -> Self {
        Self { store, late: late.try_into().unwrap() }
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
        let now = Timestamp::now();
        let mut files = self.store.received(file_type)?;
        files.retain(|file| now.duration_since(file.received_at) >= self.late);
        Ok(files.into_iter().map(|file| Entry { name: file.name, size_bytes: file.size_bytes }).collect())
    }

    fn remove(&self, file_type: FileType, name: &str) -> Result<()> {
        self.store.remove(file_type, name)
    }

    fn location(&self) -> String {
        self.store.location()
    }
}
