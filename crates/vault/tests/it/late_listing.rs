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
    levee_store::forward!(store: create, write, read, read_range, size_bytes, remove, location);

    fn list(&self, file_type: FileType) -> Result<Vec<Entry>> {
        let now = Timestamp::now();
        let mut files = self.store.received(file_type)?;
        files.retain(|file| now.duration_since(file.received_at) >= self.late);
        Ok(files.into_iter().map(|file| Entry { name: file.name, size_bytes: file.size_bytes }).collect())
    }
}
