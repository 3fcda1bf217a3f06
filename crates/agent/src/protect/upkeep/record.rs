//! When each pack was last read and found sound, and which can't be read just now.
//!
//! ```text
//! PACK SECONDS     seconds since 1970; a later line of a pack replaces an earlier one
//! ```
//! Lines are not synced: what is lost is read once more.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use levee_model::control::Failure;
use levee_vault::Id;

use super::super::app::failure;
use crate::durable;

/// More lines than this for each pack that is there, and the file is written anew.
const LINES_PER_PACK_MAX: usize = 3;
const LINES_MIN: usize = 1000;
/// What can't be read is tried again after so long.
const UNREADABLE_AGAIN_AFTER: Duration = Duration::from_secs(600);

pub struct Record {
    path: PathBuf,
    read_at: BTreeMap<Id, Timestamp>,
    lines: usize,
    /// When it was last tried to read each of these in vain, and why. In memory alone: a restart tries them anew.
    unreadable: BTreeMap<Id, (Instant, String)>,
}

impl Record {
    pub fn open(path: PathBuf) -> Result<Self, Failure> {
        let text = match std::fs::read(&path) {
            Ok(text) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                let message = format!("cannot read {}: {error}; remove it, and it begins anew", path.display());
                return Err(failure(message));
            }
        };
        let mut record = Self { path, read_at: BTreeMap::new(), lines: 0, unreadable: BTreeMap::new() };
        for line in text.lines() {
            record.lines += 1;
            // The line that a crash has cut off.
            let Some((id, seconds)) = line.split_once(' ') else { continue };
            if let (Ok(id), Some(at)) =
                (id.parse(), seconds.parse().ok().and_then(|seconds| Timestamp::from_second(seconds).ok()))
            {
                record.read_at.insert(id, at);
            }
        }
        Ok(record)
    }

    pub fn read_at(&self, pack: &Id) -> Option<Timestamp> {
        self.read_at.get(pack).copied()
    }

    pub fn note(&mut self, pack: Id, at: Timestamp) -> Result<(), Failure> {
        let append = || {
            std::fs::create_dir_all(self.path.parent().unwrap_or(&self.path))?;
            let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
            file.write_all(format!("\n{pack} {}", at.as_second()).as_bytes())
        };
        append().map_err(|error| self.unwritten(&error))?;
        self.read_at.insert(pack, at);
        self.lines += 1;
        Ok(())
    }

    /// Notes that one could not be read, which says nothing about it.
    pub fn note_unreadable(&mut self, pack: Id, problem: String, at: Instant) {
        tracing::warn!(%pack, problem, "what is stored can't be read again");
        self.unreadable.insert(pack, (at, problem));
    }

    /// Notes that one could be read, or is gone.
    pub fn note_readable(&mut self, pack: &Id) {
        self.unreadable.remove(pack);
    }

    /// Whether one could not be read so short a time ago that it is not tried again yet.
    pub fn is_put_off(&self, pack: &Id, now: Instant) -> bool {
        self.unreadable.get(pack).is_some_and(|(at, _)| now.saturating_duration_since(*at) < UNREADABLE_AGAIN_AFTER)
    }

    /// An error when some can't be read. The name is a plural, as in "of the stored packs".
    pub fn all_readable(&self, name: &str) -> Result<(), Failure> {
        let Some((pack, (_, problem))) = self.unreadable.first_key_value() else { return Ok(()) };
        Err(failure(format!(
            "{} of the stored {name} can't be read again, so that nobody knows whether they are sound, first {pack}: {problem}; \
             the others are read, and these are tried every {} minutes: look at the disk, and at who may read there",
            self.unreadable.len(),
            UNREADABLE_AGAIN_AFTER.as_secs() / 60
        )))
    }

    /// Forgets packs that are not there any more.
    pub fn retain(&mut self, there: &BTreeSet<Id>) -> Result<(), Failure> {
        self.unreadable.retain(|pack, _| there.contains(pack));
        if self.lines < LINES_MIN.max(there.len() * LINES_PER_PACK_MAX) {
            return Ok(());
        }
        self.read_at.retain(|pack, _| there.contains(pack));
        let lines: String = self.read_at.iter().map(|(pack, at)| format!("\n{pack} {}", at.as_second())).collect();
        durable::write(&self.path, lines.as_bytes()).map_err(|error| self.unwritten(&error))?;
        self.lines = self.read_at.len();
        Ok(())
    }

    fn unwritten(&self, error: &io::Error) -> Failure {
        failure(format!("cannot note in {} what was read: {error}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_a_pack_counts_and_a_torn_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rereads");
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let packs: Vec<Id> = (0..3u8).map(|number| Id::from_bytes([number; 32])).collect();
        let mut record = Record::open(path.clone()).unwrap();
        record.note(packs[0], at(100)).unwrap();
        record.note(packs[1], at(100)).unwrap();
        record.note(packs[0], at(200)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{text}\n0202")).unwrap();
        let mut record = Record::open(path.clone()).unwrap();
        assert_eq!(record.read_at(&packs[0]), Some(at(200)));
        assert_eq!(record.read_at(&packs[2]), None);
        for second in 0..LINES_MIN as i64 {
            record.note(packs[2], at(second)).unwrap();
        }
        record.retain(&[packs[0], packs[2]].into()).unwrap();
        let record = Record::open(path).unwrap();
        assert_eq!((record.read_at(&packs[1]), record.read_at(&packs[2])), (None, Some(at(LINES_MIN as i64 - 1))));
        assert!(record.lines <= 3);
    }
}
