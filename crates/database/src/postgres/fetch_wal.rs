//! The body of `restore_command`: one file of the log out of a journal, into PostgreSQL's hands.
//!
//! PostgreSQL asks for segments and history files by name, several times a second when it follows the
//! journal, and takes a non-zero exit for "not there (yet)". A segment that is not full yet is given
//! padded with zeros, as far as it is durable: PostgreSQL replays up to the zeros and asks again.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use levee_journal::LogJournal;
use levee_model::postgres::{SystemIdentifier, TimelineId, parse_wal_file_name};

use crate::{Error, Result};

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetched {
    Segment {
        /// Whether the segment is full; otherwise zeros follow the durable end.
        complete: bool,
    },
    History,
    /// The journal has no such file (yet).
    NotThere,
}

/// Writes the file `name` to `destination`, whole or not at all.
///
/// # Errors
/// Only for what is wrong; a file that is not there is `Fetched::NotThere`.
pub fn fetch_wal(
    journal: &LogJournal,
    system_identifier: SystemIdentifier,
    name: &str,
    destination: &Path,
) -> Result<Fetched> {
    let failed = |source| Error::Journal { doing: "reading the log from the journal", source };
    if let Some(timeline) = name.strip_suffix(".history").and_then(hexadecimal) {
        return match journal.history(system_identifier, TimelineId(timeline)).map_err(failed)? {
            Some(content) => put(destination, &content, content.len() as u64).map(|()| Fetched::History),
            None => Ok(Fetched::NotThere),
        };
    }
    // A partial segment is the last one of a timeline that was left; the padded form serves for it.
    let name = name.strip_suffix(".partial").unwrap_or(name);
    let Some(timeline) = name.get(..8).and_then(hexadecimal).map(TimelineId) else { return Ok(Fetched::NotThere) };
    let Some(segment_size) = journal.segment_size(system_identifier, timeline).map_err(failed)? else {
        return Ok(Fetched::NotThere);
    };
    let Some((timeline, start)) = parse_wal_file_name(name, segment_size) else { return Ok(Fetched::NotThere) };
    match journal.segment(system_identifier, timeline, start).map_err(failed)? {
        Some(segment) => {
            let log = segment.bytes.get(..segment.log_bytes as usize).unwrap_or(&segment.bytes);
            put(destination, log, segment_size.bytes())?;
            Ok(Fetched::Segment { complete: segment.complete })
        }
        None => Ok(Fetched::NotThere),
    }
}

fn hexadecimal(text: &str) -> Option<u32> {
    (text.len() == 8).then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

/// Writes beside and renames, so that PostgreSQL never sees half a file. Not synced: after a crash
/// PostgreSQL fetches it again. What lies behind `content` is a hole, which reads as zeros.
fn put(destination: &Path, content: &[u8], length: u64) -> Result<()> {
    let error = |source| Error::File { doing: "writing the fetched log to", path: destination.into(), source };
    let beside = destination.with_added_extension("levee");
    let write = || {
        let mut file = File::create(&beside)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(content)?;
        file.set_len(length)?;
        fs::rename(&beside, destination)
    };
    write().map_err(error)
}
