//! Answers of another size than they should have.

use super::write_new;
use crate::{Error, FileType, Result, Store};

/// Whether the answer was an error. One that passes for a success must be right.
fn is_refused<T: PartialEq>(answer: Result<T>, right: Option<&T>, what: &str) -> bool {
    match answer {
        Ok(answer) => {
            assert!(Some(&answer) == right, "{what}: a wrong answer passed for a right one");
            false
        }
        Err(Error::Unreachable { .. } | Error::Damaged { .. }) => true,
        Err(error) => panic!("{what}: neither damage nor a network's fault: {error:?}"),
    }
}

/// Both stores are the same place. Through `lying`, the size of every answer with contents, and every size that is said,
/// may be wrong. Returns how many answers were refused.
pub fn check_wrong_sizes(honest: &dyn Store, lying: &dyn Store) -> usize {
    honest.create().unwrap();
    let content: Vec<u8> = (0..=255).cycle().take(70_001).collect();
    let name = write_new(honest, FileType::Data, &content);
    let mut refused = 0;
    let mut note = |is_refused: bool| refused += usize::from(is_refused);

    note(is_refused(lying.read(FileType::Data, &name), Some(&content), "all of a file"));
    for (offset, length) in [(0, 1), (500, 37), (0, 70_000), (0, 70_001), (1, 70_000), (70_000, 1)] {
        let part = content[offset..offset + length].to_vec();
        let read = lying.read_range(FileType::Data, &name, offset as u64, length);
        note(is_refused(read, Some(&part), &format!("{length} bytes from {offset}")));
    }
    for (offset, length) in [(0, 70_002), (70_000, 2), (70_001, 1)] {
        let read = lying.read_range(FileType::Data, &name, offset, length);
        assert!(is_refused(read, None, &format!("{length} bytes from {offset}")), "there are no such bytes");
    }
    // A size is the store's word, and nothing tells a wrong one; what is asked for because of it is looked at all the same.
    let sizes = match lying.list(FileType::Data) {
        Ok(listed) => listed.into_iter().map(|entry| entry.size_bytes).collect(),
        Err(error) => {
            note(is_refused::<()>(Err(error), None, "the listing"));
            Vec::new()
        }
    };
    for size in sizes.into_iter().chain(lying.size_bytes(FileType::Data, &name)) {
        let length = size as usize;
        let read = lying.read_range(FileType::Data, &name, 0, length);
        note(is_refused(read, content.get(..length).map(<[u8]>::to_vec).as_ref(), "what the size makes of it"));
    }

    let other: Vec<u8> = content.iter().rev().copied().collect();
    let other_name = crate::content_name(&other);
    note(is_refused(lying.write(FileType::Data, &other_name, &other), Some(&()), "an upload"));
    match honest.read(FileType::Data, &other_name) {
        Err(Error::NotFound { .. }) => {}
        stored => assert!(stored.unwrap() == other, "an upload left something else behind"),
    }
    // Whoever tries again comes through as soon as the answers are right.
    honest.write(FileType::Data, &other_name, &other).unwrap();
    for (name, content) in [(name, content), (other_name, other)] {
        assert!(honest.read(FileType::Data, &name).unwrap() == content);
        honest.remove(FileType::Data, &name).unwrap();
    }
    refused
}
