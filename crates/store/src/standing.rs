//! Something stands where a file was to be written.

use crate::{FileType, content_name};

/// What it is, beside what was to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The same. An earlier attempt came through although its answer was lost, or another writer had it too.
    Same,
    /// Another config, or two contents under one name: nothing may be replaced.
    Conflict,
    /// What stands there is damaged, and the content that belongs there has come again: it may be replaced.
    Damaged,
}

impl Standing {
    pub(crate) fn of(file_type: FileType, name: &str, present: &[u8], content: &[u8]) -> Self {
        if present == content {
            Standing::Same
        } else if file_type == FileType::Config || content_name(present) == name || content_name(content) != name {
            Standing::Conflict
        } else {
            Standing::Damaged
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_damaged_may_be_replaced() {
        let check = |file_type, present: &[u8], content: &[u8], expected| {
            assert_eq!(Standing::of(file_type, &content_name(b"right"), present, content), expected);
        };
        check(FileType::Data, b"right", b"right", Standing::Same);
        check(FileType::Data, b"righ", b"right", Standing::Damaged);
        check(FileType::Data, b"right", b"wrong", Standing::Conflict);
        check(FileType::Data, b"righ", b"wrong", Standing::Conflict);
        check(FileType::Config, b"righ", b"right", Standing::Conflict);
    }
}
