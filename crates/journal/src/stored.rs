//! Reading closed segments again, to find out whether the disk still has what was written.

use std::fs;
use std::path::PathBuf;

use jiff::Timestamp;
use levee_model::postgres::{Lsn, SystemIdentifier, TimelineId};

use crate::closed::ClosedReader;
use crate::{Error, LogJournal, Result, layout};

/// A closed segment as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClosedSegment {
    pub system_identifier: SystemIdentifier,
    pub timeline: TimelineId,
    pub start: Lsn,
    pub end: Lsn,
    pub path: PathBuf,
    pub size_bytes: u64,
    pub closed_at: Timestamp,
}

/// What reading one again has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RereadSegment {
    Sound,
    Damaged {
        problem: String,
    },
    /// It was trimmed meanwhile.
    Gone,
}

impl LogJournal {
    /// Every closed segment, by timeline and position.
    pub fn closed_segments(&self) -> Result<Vec<ClosedSegment>> {
        let mut segments = Vec::new();
        for (system_identifier, timeline) in self.lineages()? {
            for closed in layout::list(&self.folder(system_identifier, timeline))?.closed {
                let metadata = match fs::metadata(&closed.path) {
                    Ok(metadata) => metadata,
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(Error::io("read", &closed.path)(error)),
                };
                let closed_at = metadata.modified().ok().and_then(|at| Timestamp::try_from(at).ok());
                segments.push(ClosedSegment {
                    system_identifier,
                    timeline,
                    start: closed.start,
                    end: closed.end,
                    path: closed.path,
                    size_bytes: metadata.len(),
                    closed_at: closed_at.unwrap_or(Timestamp::MIN),
                });
            }
        }
        Ok(segments)
    }

    /// Reads all of a closed segment: every byte of the file is authenticated, every frame's checksum and the log's
    /// hash are compared.
    ///
    /// # Errors
    /// `NoIdentity` without the key, `Io` when the file can't be opened; what is wrong with the segment itself is an
    /// answer.
    pub fn reread(&self, segment: &ClosedSegment) -> Result<RereadSegment> {
        let read = || {
            let mut reader = ClosedReader::open(&segment.path, self.keys())?;
            if (reader.header.start, reader.header.end) != (segment.start, segment.end) {
                return Err(Error::damaged(&segment.path, 0, "its name and its header tell different ranges"));
            }
            while reader.next()?.is_some() {}
            reader.end()
        };
        match read() {
            Ok(()) => Ok(RereadSegment::Sound),
            Err(error) if error.is_not_found() => Ok(RereadSegment::Gone),
            // Neither says anything of the file.
            Err(error @ (Error::NoIdentity { .. } | Error::Io { .. })) if !error.is_of_the_disk() => Err(error),
            Err(error) => Ok(RereadSegment::Damaged { problem: error.to_string() }),
        }
    }
}
