//! One volume: files of a repository, one behind the other.
//!
//! ```text
//! volume:  "levee transport 1\n" ‖ record ‖ record ‖ …
//! record:  file type (u8) ‖ length of the content (u64, little-endian) ‖ SHA-256 of the content (32) ‖ content
//! type:    1 config, 2 data, 3 index, 4 key, 5 snapshot      (locks are never written)
//! ```
//! No type is 0: a header that was not written yet is no record. The contents are encrypted as they are in a repository. The SHA-256 is the file's name there, too, but for
//! `config`, which has none.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;

use levee_store::FileType;

use crate::Id;

pub(super) const MAGIC: &[u8; 18] = b"levee transport 1\n";
pub(super) const RECORD_HEADER_BYTES: u64 = 1 + 8 + 32;

/// Where a file lies in a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub offset: u64,
    pub length: u64,
}

/// The numbers of the format, which are not those of the enum.
const TYPES: [(u8, FileType); 5] =
    [(1, FileType::Config), (2, FileType::Data), (3, FileType::Index), (4, FileType::Key), (5, FileType::Snapshot)];

/// The header of a record; `None` for a file that has no place in a volume.
pub(super) fn encode_header(file_type: FileType, content: &[u8]) -> Option<[u8; RECORD_HEADER_BYTES as usize]> {
    let (number, _) = TYPES.iter().find(|(_, known)| *known == file_type)?;
    let mut header = [0; RECORD_HEADER_BYTES as usize];
    header[0] = *number;
    header[1..9].copy_from_slice(&(content.len() as u64).to_le_bytes());
    header[9..].copy_from_slice(Id::of(content).as_bytes());
    Some(header)
}

fn file_type_of(number: u8) -> Option<FileType> {
    TYPES.iter().find(|(known, _)| *known == number).map(|(_, file_type)| *file_type)
}

/// The name of a record's file in a repository.
pub(super) fn name_of(file_type: FileType, hash: &Id) -> String {
    if file_type == FileType::Config { String::new() } else { hash.to_hex() }
}

/// A record, as a volume's list of contents has it.
pub(super) struct Record {
    pub file_type: FileType,
    pub name: String,
    pub place: Place,
}

/// Goes through a volume and gives its records, and where the last whole one ends: what follows was being
/// written when the writer was stopped. Contents are not read. `None` when this is no volume.
pub(super) fn scan(file: &File) -> io::Result<Option<(Vec<Record>, u64)>> {
    let size = file.metadata()?.len();
    let mut magic = [0; MAGIC.len()];
    match file.read_exact_at(&mut magic, 0) {
        Ok(()) if magic == *MAGIC => {}
        Ok(()) => return Ok(None),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut records = Vec::new();
    let mut position = MAGIC.len() as u64;
    while size - position >= RECORD_HEADER_BYTES {
        let mut header = [0; RECORD_HEADER_BYTES as usize];
        file.read_exact_at(&mut header, position)?;
        let (mut length, mut hash) = ([0; 8], [0; Id::LENGTH]);
        length.copy_from_slice(&header[1..9]);
        hash.copy_from_slice(&header[9..]);
        let (length, offset) = (u64::from_le_bytes(length), position + RECORD_HEADER_BYTES);
        let (Some(file_type), true) = (file_type_of(header[0]), length <= size - offset) else { break };
        let name = name_of(file_type, &Id::from_bytes(hash));
        records.push(Record { file_type, name, place: Place { offset, length } });
        position = offset + length;
    }
    Ok(Some((records, position)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// The records and the end that a scan finds.
    type Scanned = (Vec<(FileType, String, Place)>, u64);

    fn scanned(content: &[u8]) -> Option<Scanned> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        let (records, end) = scan(&file).unwrap()?;
        Some((records.into_iter().map(|record| (record.file_type, record.name, record.place)).collect(), end))
    }

    #[test]
    fn a_volume_has_these_bytes_and_ends_with_its_last_whole_record() {
        let mut volume = MAGIC.to_vec();
        let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let header = encode_header(FileType::Data, b"abc").unwrap();
        assert_eq!(hex::encode(header), format!("020300000000000000{hash}"));
        volume.extend(header);
        volume.extend(b"abc");
        let record = (FileType::Data, hash.to_string(), Place { offset: 59, length: 3 });
        assert_eq!(scanned(&volume), Some((vec![record.clone()], 62)));
        // What a stopped writer leaves: content without its header, a part of a header, a part of the content.
        let unfinished = |tail: &[u8]| scanned(&[&volume[..], tail].concat());
        let whole = Some((vec![record], 62));
        assert_eq!(unfinished(&[&[0; 41][..], b"content"].concat()), whole);
        assert_eq!(unfinished(&header[..30]), whole);
        assert_eq!(unfinished(&[&header[..], b"ab"].concat()), whole);
        assert_eq!(unfinished(&[9; 100]), whole);
        assert_eq!(scanned(b"something else entirely"), None);
        assert_eq!(scanned(b""), None);
        assert_eq!(encode_header(FileType::Lock, b""), None);
    }

    proptest::proptest! {
        #[test]
        fn no_volume_makes_the_parser_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = scanned(&[&MAGIC[..], &bytes].concat());
        }
    }
}
