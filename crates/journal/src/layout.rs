//! Where things lie in a journal's folder, and what their names say.
//!
//! ```text
//! journal.json                                  format version
//! epoch                                         the highest sealed epoch
//! writer.lock, epoch.lock, trim.lock            locked with flock, empty
//! pins.json
//! SYSTEM_IDENTIFIER/                            decimal
//!   00000002.history                            as PostgreSQL wrote it
//!   00000001/                                   timeline, hexadecimal
//!     WALNAME.START-END.eEPOCH.zst.age          a closed segment
//!     WALNAME.START.tail                        an open tail, or one that is full and about to be closed
//!     WALNAME.START.ended                       a tail that a gap follows; it never goes on
//!     WALNAME.START-END.marks                   commits and restore points of a closed segment
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use levee_model::Epoch;
use levee_model::postgres::{Lsn, SystemIdentifier, TimelineId, wal_file_name};

use crate::{Error, Lineage, Result};

pub(crate) const CLOSED_SUFFIX: &str = ".zst.age";
pub(crate) const TAIL_SUFFIX: &str = ".tail";
pub(crate) const ENDED_SUFFIX: &str = ".ended";
pub(crate) const MARKS_SUFFIX: &str = ".marks";
const HISTORY_SUFFIX: &str = ".history";
/// A file that is not yet what its name will say.
pub(crate) const UNFINISHED_SUFFIXES: [&str; 2] = [".tmp", ".new"];

pub(crate) fn system_folder(dir: &Path, system_identifier: SystemIdentifier) -> PathBuf {
    dir.join(system_identifier.to_string())
}

pub(crate) fn timeline_folder(dir: &Path, system_identifier: SystemIdentifier, timeline: TimelineId) -> PathBuf {
    system_folder(dir, system_identifier).join(format!("{:08X}", timeline.0))
}

pub(crate) fn lineage_folder(dir: &Path, lineage: &Lineage) -> PathBuf {
    timeline_folder(dir, lineage.system_identifier, lineage.timeline)
}

/// A closed segment, as its name tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClosedName {
    pub path: PathBuf,
    pub start: Lsn,
    pub end: Lsn,
    pub epoch: Epoch,
}

/// An open tail, as its name tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TailName {
    pub path: PathBuf,
    pub start: Lsn,
    /// A gap follows, which somebody has accepted.
    pub ended: bool,
}

/// The marks of a stretch of log inside one segment, as their file's name tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MarksName {
    pub path: PathBuf,
    pub start: Lsn,
    pub end: Lsn,
}

/// The files of one timeline, each kind by ascending start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files {
    pub closed: Vec<ClosedName>,
    pub tails: Vec<TailName>,
    pub marks: Vec<MarksName>,
    /// Files that say nothing: not finished, or a tail whose closed segment is there already.
    pub leftovers: Vec<PathBuf>,
}

pub(crate) fn closed_path(folder: &Path, lineage: &Lineage, start: Lsn, end: Lsn) -> PathBuf {
    let native = wal_file_name(lineage.timeline, start, lineage.segment_size);
    folder.join(format!("{native}.{:016X}-{:016X}.e{}{CLOSED_SUFFIX}", start.0, end.0, lineage.epoch))
}

pub(crate) fn tail_path(folder: &Path, lineage: &Lineage, start: Lsn) -> PathBuf {
    let native = wal_file_name(lineage.timeline, start, lineage.segment_size);
    folder.join(format!("{native}.{:016X}{TAIL_SUFFIX}", start.0))
}

pub(crate) fn marks_path(folder: &Path, lineage: &Lineage, start: Lsn, end: Lsn) -> PathBuf {
    let native = wal_file_name(lineage.timeline, start, lineage.segment_size);
    folder.join(format!("{native}.{:016X}-{:016X}{MARKS_SUFFIX}", start.0, end.0))
}

fn position(text: &str) -> Option<Lsn> {
    let well_formed = text.len() == 16 && text.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
    well_formed.then(|| u64::from_str_radix(text, 16).ok().map(Lsn)).flatten()
}

fn parse_closed(path: &Path, name: &str) -> Option<ClosedName> {
    let mut parts = name.strip_suffix(CLOSED_SUFFIX)?.splitn(3, '.');
    let (_native, range, epoch) = (parts.next()?, parts.next()?, parts.next()?);
    let (start, end) = range.split_once('-')?;
    let (start, end) = (position(start)?, position(end)?);
    let epoch = Epoch(epoch.strip_prefix('e')?.parse().ok()?);
    (start < end).then(|| ClosedName { path: path.to_path_buf(), start, end, epoch })
}

fn parse_tail(path: &Path, name: &str) -> Option<TailName> {
    let (stem, ended) = match name.strip_suffix(TAIL_SUFFIX) {
        Some(stem) => (stem, false),
        None => (name.strip_suffix(ENDED_SUFFIX)?, true),
    };
    let (_native, start) = stem.split_once('.')?;
    Some(TailName { path: path.to_path_buf(), start: position(start)?, ended })
}

/// The segment that a file of this name holds: its start, and its end when it is closed.
pub(crate) fn segment_of(name: &str) -> Option<(Lsn, Option<Lsn>)> {
    let path = Path::new(name);
    let closed = parse_closed(path, name).map(|closed| (closed.start, Some(closed.end)));
    closed.or_else(|| parse_tail(path, name).map(|tail| (tail.start, None)))
}

fn parse_marks(path: &Path, name: &str) -> Option<MarksName> {
    let (_native, range) = name.strip_suffix(MARKS_SUFFIX)?.split_once('.')?;
    let (start, end) = range.split_once('-')?;
    let (start, end) = (position(start)?, position(end)?);
    (start < end).then(|| MarksName { path: path.to_path_buf(), start, end })
}

/// Lists a timeline's folder; one that does not exist is empty. Foreign names are left alone.
pub(crate) fn list(folder: &Path) -> Result<Files> {
    let mut files = Files::default();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(files),
        Err(error) => return Err(Error::io("list", folder)(error)),
    };
    for entry in entries {
        let path = entry.map_err(Error::io("list", folder))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if UNFINISHED_SUFFIXES.iter().any(|suffix| name.ends_with(suffix)) {
            files.leftovers.push(path);
        } else if let Some(closed) = parse_closed(&path, name) {
            files.closed.push(closed);
        } else if let Some(tail) = parse_tail(&path, name) {
            files.tails.push(tail);
        } else if let Some(marks) = parse_marks(&path, name) {
            files.marks.push(marks);
        }
    }
    files.closed.sort_by_key(|closed| closed.start);
    files.tails.sort_by_key(|tail| tail.start);
    files.marks.sort_by_key(|marks| marks.start);
    // Between the rename of a closed file and the removal of its tail both are there: the closed one counts.
    let closed = &files.closed;
    let is_closed = |tail: &mut TailName| closed.binary_search_by_key(&tail.start, |closed| closed.start).is_ok();
    files.leftovers.extend(files.tails.extract_if(.., is_closed).map(|tail| tail.path));
    Ok(files)
}

/// The system identifiers that have a folder.
pub(crate) fn systems(dir: &Path) -> Result<Vec<SystemIdentifier>> {
    let mut systems: Vec<SystemIdentifier> = names(dir)?.iter().filter_map(|name| name.parse().ok()).collect();
    systems.sort();
    Ok(systems)
}

/// The timelines of a system that have a folder.
pub(crate) fn timelines(dir: &Path, system_identifier: SystemIdentifier) -> Result<Vec<TimelineId>> {
    let folder = system_folder(dir, system_identifier);
    let timeline =
        |name: &String| (name.len() == 8).then(|| u32::from_str_radix(name, 16).ok().map(TimelineId)).flatten();
    let mut timelines: Vec<TimelineId> = names(&folder)?.iter().filter_map(timeline).collect();
    timelines.sort();
    Ok(timelines)
}

/// The history files of a system.
pub(crate) fn histories(dir: &Path, system_identifier: SystemIdentifier) -> Result<Vec<PathBuf>> {
    let folder = system_folder(dir, system_identifier);
    let mut names: Vec<String> = names(&folder)?.into_iter().filter(|name| name.ends_with(HISTORY_SUFFIX)).collect();
    names.sort();
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", folder)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io("list", folder))?;
        if let Ok(name) = entry.file_name().into_string() {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use levee_model::postgres::SegmentSize;

    #[test]
    fn names_read_back() {
        let lineage = Lineage {
            system_identifier: SystemIdentifier(7),
            timeline: TimelineId(1),
            epoch: Epoch(4),
            segment_size: SegmentSize::DEFAULT,
        };
        let folder = Path::new("/j");
        let path = closed_path(folder, &lineage, Lsn(0x300_0000), Lsn(0x400_0000));
        let name = "000000010000000000000003.0000000003000000-0000000004000000.e4.zst.age";
        assert_eq!(path, folder.join(name));
        assert_eq!(
            parse_closed(&path, name),
            Some(ClosedName { path: path.clone(), start: Lsn(0x300_0000), end: Lsn(0x400_0000), epoch: Epoch(4) })
        );
        let path = tail_path(folder, &lineage, Lsn(0x300_0000));
        let name = "000000010000000000000003.0000000003000000.tail";
        assert_eq!((path.as_path(), parse_tail(&path, name).unwrap().start), (&*folder.join(name), Lsn(0x300_0000)));
        let path = marks_path(folder, &lineage, Lsn(0x300_0028), Lsn(0x400_0000));
        let name = "000000010000000000000003.0000000003000028-0000000004000000.marks";
        let marks = MarksName { path: path.clone(), start: Lsn(0x300_0028), end: Lsn(0x400_0000) };
        assert_eq!((path.as_path(), parse_marks(&path, name)), (&*folder.join(name), Some(marks)));
        assert!(["marks", "a.marks", "a.0-1.marks"].iter().all(|name| parse_marks(folder, name).is_none()));
        for foreign in
            ["a.tail", "x.0-1.e1.zst.age", "x.0000000004000000-0000000003000000.e1.zst.age", "marks", ".tail"]
        {
            assert!(parse_closed(folder, foreign).is_none() && parse_tail(folder, foreign).is_none(), "{foreign}");
        }
    }
}
