//! The marks that a prune leaves for the next one and for writers.
//!
//! They stand in an index file that names no pack, in a field of Levee's own. Restic passes over fields
//! that it doesn't know; when it writes the indexes anew, the marks go, and the next prune begins again
//! with what it then finds unindexed: nothing is deleted the earlier for it.
//!
//! ```json
//! {"packs":[],"levee_prune":{"version":1,"leaving":["PACK"],"unindexed":[{"since":"TIME","packs":["PACK"]}]}}
//! ```

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Id;

/// Marks of a later version are passed over: what they say may mean something else.
pub(crate) const VERSION: u32 = 1;

/// What a prune has found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Marks {
    pub version: u32,
    /// Packs that are still in the index and that no snapshot refers to. Writers store anew what is only
    /// in them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaving: Vec<Id>,
    /// Packs that no index names, by the time at which a prune saw so first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unindexed: Vec<Unindexed>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unindexed {
    #[serde(with = "crate::file_time::as_timestamp")]
    pub since: Timestamp,
    pub packs: Vec<Id>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index_file::{IndexFile, decode, encode_marks};

    #[test]
    fn marks_have_these_bytes() {
        let (one, two) = (Id::from_bytes([1; 32]), Id::from_bytes([2; 32]));
        let since = "2026-11-25T01:02:03Z".parse().unwrap();
        let marks =
            Marks { version: VERSION, leaving: vec![one], unindexed: vec![Unindexed { since, packs: vec![two] }] };
        let (hex_one, hex_two) = ("01".repeat(32), "02".repeat(32));
        let expected = format!(
            "{{\"packs\":[],\"levee_prune\":{{\"version\":1,\"leaving\":[\"{hex_one}\"],\
             \"unindexed\":[{{\"since\":\"2026-11-25T01:02:03Z\",\"packs\":[\"{hex_two}\"]}}]}}}}"
        );
        assert_eq!(String::from_utf8(encode_marks(&marks).unwrap()).unwrap(), expected);
        assert_eq!(decode(expected.as_bytes()).unwrap(), IndexFile { marks: Some(marks), ..IndexFile::default() });
    }
}
