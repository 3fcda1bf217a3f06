//! A copy of a journal, taken beside its writer: files that together are a journal again wherever they are put.
//!
//! A segment moves from its tail into a closed file while a folder is listed, and may be in neither listing. So each folder
//! is listed twice, with the tails opened in between: what has moved by the end of the first listing stands closed in the
//! second. A tail is copied as far as it is whole when it is looked at, for what is read later may have holes.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use levee_model::postgres::{Lsn, SystemIdentifier, TimelineId};

use crate::format::PREAMBLE_BYTES;
use crate::layout::{self, Files};
use crate::{Error, KeepRange, LogJournal, Result, records};

/// Where a segment of a lineage begins, whichever file it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentPlace {
    pub system_identifier: SystemIdentifier,
    pub timeline: TimelineId,
    pub start: Lsn,
    /// Where it ends, if it is closed.
    pub end: Option<Lsn>,
}

/// A file of a copy.
#[derive(Debug)]
pub struct FileToCopy {
    /// Below the journal's folder.
    pub path: PathBuf,
    /// The segment of log that it holds.
    pub segment: Option<SegmentPlace>,
    /// Under this name it never changes: a copy of the same size and time is this one.
    pub is_final: bool,
    pub size_bytes: u64,
    pub modified: SystemTime,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Whole(PathBuf),
    /// Opened already, for it may be closed and removed at any time.
    Tail {
        file: File,
        preamble: Vec<u8>,
        path: PathBuf,
    },
}

impl FileToCopy {
    /// The file's content.
    ///
    /// # Errors
    /// One that `Error::is_not_found` is true of when the file was trimmed meanwhile.
    pub fn open(&mut self) -> Result<Box<dyn Read + '_>> {
        match &mut self.source {
            Source::Whole(path) => Ok(Box::new(File::open(&path).map_err(Error::io("open", path))?)),
            Source::Tail { file, preamble, path } => {
                file.seek(SeekFrom::Start(PREAMBLE_BYTES as u64)).map_err(Error::io("read", path))?;
                let records = file.take(self.size_bytes - PREAMBLE_BYTES as u64);
                Ok(Box::new(Cursor::new(preamble.as_slice()).chain(records)))
            }
        }
    }
}

impl SegmentPlace {
    /// The segment that a file of a copy holds, told by its path below the journal's folder.
    pub fn of(path: &Path) -> Option<SegmentPlace> {
        let mut parts = path.iter().map(|part| part.to_str());
        let (system, timeline, name) = (parts.next()??, parts.next()??, parts.next()??);
        let system_identifier = system.parse().ok()?;
        let timeline =
            (timeline.len() == 8).then(|| u32::from_str_radix(timeline, 16).ok().map(TimelineId)).flatten()?;
        let (start, end) = layout::segment_of(name).filter(|_| parts.next().is_none())?;
        Some(SegmentPlace { system_identifier, timeline, start, end })
    }

    /// Whether trimming with these bounds removes it.
    pub fn is_trimmed(&self, keep_from: Lsn, keep: &[KeepRange], segment_bytes: u64) -> bool {
        let end = self.end.unwrap_or(Lsn(self.start.0.saturating_add(segment_bytes)));
        end <= keep_from && !keep.iter().any(|range| range.start < end && self.start <= range.stop)
    }
}

impl LogJournal {
    /// Everything that a copy of this journal takes, with the open tails as far as they are whole now. Files that only
    /// those who write or trim here need are left out.
    ///
    /// # Errors
    /// One that `Error::is_not_found` is true of when something was trimmed meanwhile: it is to be asked again.
    pub fn files_to_copy(&self) -> Result<Vec<FileToCopy>> {
        let mut files = Vec::new();
        for name in ["journal.json", "epoch"] {
            // A journal that was never written or sealed has no epoch.
            if self.dir().join(name).exists() {
                files.push(self.whole(Path::new(name).into(), None, false)?);
            }
        }
        for system_identifier in layout::systems(self.dir())? {
            for history in layout::histories(self.dir(), system_identifier)? {
                files.push(self.whole(self.below(&history), None, true)?);
            }
        }
        for (system_identifier, timeline) in self.lineages()? {
            self.timeline_to_copy(system_identifier, timeline, &mut files)?;
        }
        Ok(files)
    }

    fn timeline_to_copy(
        &self,
        system_identifier: SystemIdentifier,
        timeline: TimelineId,
        files: &mut Vec<FileToCopy>,
    ) -> Result<()> {
        let folder = self.folder(system_identifier, timeline);
        let mut there = BTreeSet::new();
        let first = layout::list(&folder)?;
        for tail in &first.tails {
            let place = SegmentPlace { system_identifier, timeline, start: tail.start, end: None };
            match self.tail(&tail.path, place) {
                Ok(file) => {
                    there.insert(tail.start);
                    files.push(file);
                }
                // Closed since.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        let second = layout::list(&folder)?;
        let Files { closed: first_closed, .. } = first;
        for closed in first_closed.into_iter().chain(second.closed) {
            if there.insert(closed.start) {
                let place = SegmentPlace { system_identifier, timeline, start: closed.start, end: Some(closed.end) };
                files.push(self.whole(self.below(&closed.path), Some(place), true)?);
            }
        }
        for marks in second.marks {
            match self.whole(self.below(&marks.path), None, true) {
                Ok(file) => files.push(file),
                // Marks can always be found again.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn below(&self, path: &Path) -> PathBuf {
        path.strip_prefix(self.dir()).unwrap_or(path).to_path_buf()
    }

    fn whole(&self, path: PathBuf, segment: Option<SegmentPlace>, is_final: bool) -> Result<FileToCopy> {
        let full = self.dir().join(&path);
        let metadata = fs::metadata(&full).map_err(Error::io("read", &full))?;
        let modified = metadata.modified().map_err(Error::io("read", &full))?;
        Ok(FileToCopy { path, segment, is_final, size_bytes: metadata.len(), modified, source: Source::Whole(full) })
    }

    fn tail(&self, path: &Path, place: SegmentPlace) -> Result<FileToCopy> {
        let mut file = File::open(path).map_err(Error::io("open", path))?;
        // The slot first: it never names more than what is found behind it afterwards.
        let mut preamble = vec![0; PREAMBLE_BYTES];
        file.read_exact(&mut preamble).map_err(Error::io("read", path))?;
        let scan = records::scan(path)?;
        let modified = file.metadata().and_then(|metadata| metadata.modified()).map_err(Error::io("read", path))?;
        Ok(FileToCopy {
            path: self.below(path),
            segment: Some(place),
            is_final: false,
            size_bytes: scan.committed_offset,
            modified,
            source: Source::Tail { file, preamble, path: path.to_path_buf() },
        })
    }
}
