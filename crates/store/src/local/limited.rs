//! A folder with limits on what it moves: it may lie on another machine's disk.

use crate::limit::{Bandwidth, Throttle};
use crate::{FileType, LocalStore, Parallelism, Result, Store};

/// A repository in a local folder, no faster than its limits.
pub(crate) struct LimitedFolder {
    store: LocalStore,
    bandwidth: Bandwidth,
}

impl LimitedFolder {
    pub(crate) fn new(store: LocalStore, bandwidth: Bandwidth) -> Self {
        Self { store, bandwidth }
    }
}

/// Piece by piece, so that threads take turns.
fn wait(throttle: Option<&Throttle>, bytes: usize) {
    let Some(throttle) = throttle else { return };
    let mut left = bytes;
    while left > 0 {
        let piece = left.min(throttle.piece_bytes());
        throttle.wait(piece);
        left -= piece;
    }
}

impl Store for LimitedFolder {
    crate::forward!(store: create, size_bytes, list, remove, location);

    fn write(&self, file_type: FileType, name: &str, content: &[u8]) -> Result<()> {
        wait(self.bandwidth.upload(), content.len());
        self.store.write(file_type, name, content)
    }

    fn read(&self, file_type: FileType, name: &str) -> Result<Vec<u8>> {
        let content = self.store.read(file_type, name)?;
        wait(self.bandwidth.download(), content.len());
        Ok(content)
    }

    fn read_range(&self, file_type: FileType, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        let content = self.store.read_range(file_type, name, offset, length)?;
        wait(self.bandwidth.download(), content.len());
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
        self.store.read_range_into(file_type, name, offset, length, buffer)?;
        wait(self.bandwidth.download(), length);
        Ok(())
    }

    fn parallelism(&self) -> Parallelism {
        self.store.parallelism()
    }
}
