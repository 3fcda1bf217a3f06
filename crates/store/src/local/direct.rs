//! Writing large files past the page cache: packs are written once and not read soon, and a fresh page of the cache
//! costs more than the disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::OFlags;
use rustix::io::Errno;

/// Smaller files are written as usual.
const DIRECT_FROM_BYTES: usize = 1 << 20;
/// What O_DIRECT asks of memory and position on every common disk.
const BLOCK_BYTES: usize = 4096;
/// So much is copied to aligned memory and written at once.
const PIECE_BYTES: usize = 1 << 20;

/// Writes the whole content of a new file.
pub(super) fn write_all(file: &File, content: &[u8]) -> io::Result<()> {
    let written = if content.len() < DIRECT_FROM_BYTES { 0 } else { write_blocks(file, content)? };
    file.write_all_at(&content[written..], written as u64)
}

/// Writes whole blocks, and says how many bytes that were: none where the file system cannot.
fn write_blocks(file: &File, content: &[u8]) -> io::Result<usize> {
    let Ok(flags) = rustix::fs::fcntl_getfl(file) else { return Ok(0) };
    if rustix::fs::fcntl_setfl(file, flags | OFlags::DIRECT).is_err() {
        return Ok(0);
    }
    let mut memory = vec![0; PIECE_BYTES + BLOCK_BYTES];
    let start = memory.as_ptr().align_offset(BLOCK_BYTES).min(BLOCK_BYTES);
    let mut written = 0;
    let whole = content.len() / BLOCK_BYTES * BLOCK_BYTES;
    let result = loop {
        let piece = &content[written..whole.min(written + PIECE_BYTES)];
        if piece.is_empty() {
            break Ok(written);
        }
        let aligned = &mut memory[start..start + piece.len()];
        aligned.copy_from_slice(piece);
        match file.write_all_at(aligned, written as u64) {
            Ok(()) => written += piece.len(),
            // Some notice only now that they cannot, or want larger blocks: the rest goes the usual way.
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => break Ok(written),
            Err(error) => break Err(error),
        }
    };
    rustix::fs::fcntl_setfl(file, flags)?;
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_every_length_read_back() {
        // On a real disk: the usual folder for temporary files may be one in memory, which cannot.
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let content: Vec<u8> =
            (0..5 << 20_u32).map(|number: u32| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for length in [0, 1, 4096, DIRECT_FROM_BYTES - 1, DIRECT_FROM_BYTES, 3 * PIECE_BYTES + 1, content.len()] {
            let path = folder.path().join(length.to_string());
            let file = File::create_new(&path).unwrap();
            write_all(&file, &content[..length]).unwrap();
            assert!(!rustix::fs::fcntl_getfl(&file).unwrap().contains(OFlags::DIRECT), "{length}");
            assert!(std::fs::read(&path).unwrap() == content[..length], "{length}");
        }
        let file = File::create_new(folder.path().join("blocks")).unwrap();
        assert_eq!(write_blocks(&file, &content[..PIECE_BYTES + 5000]).unwrap(), PIECE_BYTES + BLOCK_BYTES);
    }
}
