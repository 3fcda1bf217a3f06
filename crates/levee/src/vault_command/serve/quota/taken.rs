//! What files and folders take of a disk.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

/// The block of every common file system: what the smallest file takes, and a folder.
pub(super) const BLOCK_BYTES: u64 = 4096;

/// What a file of this length takes.
pub(super) fn blocks(length: u64) -> u64 {
    length.checked_next_multiple_of(BLOCK_BYTES).unwrap_or(u64::MAX)
}

/// What a folder takes, with all that is in it; nothing when there is none.
pub(super) fn bytes_in(folder: &Path) -> io::Result<u64> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        other => other?,
    };
    let mut bytes = BLOCK_BYTES;
    for entry in entries {
        let entry = entry?;
        bytes += match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_in(&entry.path())?,
            Ok(metadata) => blocks(metadata.len()),
            // What goes while it is counted takes nothing.
            Err(error) if error.kind() == ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_file_takes_a_block_and_so_does_a_folder() {
        assert_eq!([0, 1, 4096, 4097, u64::MAX].map(blocks), [0, 4096, 4096, 8192, u64::MAX]);
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(bytes_in(&folder.path().join("none")).unwrap(), 0);
        assert_eq!(bytes_in(folder.path()).unwrap(), 4096);
        fs::create_dir(folder.path().join("inner")).unwrap();
        fs::write(folder.path().join("inner/file"), [0; 5000]).unwrap();
        assert_eq!(bytes_in(folder.path()).unwrap(), 4 * 4096);
    }
}
