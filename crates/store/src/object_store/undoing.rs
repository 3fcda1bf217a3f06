//! What undoes the hiding and overwriting of a file since a time, decided from its versions alone.

use jiff::Timestamp;

use crate::{FileType, content_name};

/// A version of a file, or a marker that hides those below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileVersion {
    /// What the service calls it.
    pub id: String,
    /// A marker that a removal has left. It has no content.
    pub is_marker: bool,
    /// When the service received it, by its own clock and often only to the second.
    pub modified_at: Timestamp,
    pub size_bytes: u64,
    /// Its storage class; empty where the service doesn't say it.
    pub class: String,
}

/// Everything that a bucket keeps of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileHistory {
    pub name: String,
    /// The newest first, which is the current one.
    pub versions: Vec<FileVersion>,
}

/// What undoes what has happened to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undo<'a> {
    /// The version becomes the current one again. What lies above it, the newest first, is markers and versions that are
    /// not the file's content.
    BringBack { version: &'a FileVersion, above: &'a [FileVersion] },
    /// What stands there is not the file's content, and nothing stood there at that time: it is to be hidden.
    Hide,
    /// There was a file at that time, and no version that is left is its content.
    Lost,
}

impl FileVersion {
    fn is_since(&self, since: Timestamp) -> bool {
        // Services give whole seconds.
        self.modified_at.as_second() >= since.as_second()
    }
}

impl FileHistory {
    /// `None` when nothing has happened to the file since then, or nothing that matters. What was hidden before stays
    /// hidden: it was removed on purpose.
    ///
    /// Files are written once. So the first version of a pack, of the configuration and of whatever is older than `since`
    /// is taken for the file without reading it, and only what came later is read and held against the name.
    pub fn undo<E>(
        &self,
        file_type: FileType,
        since: Timestamp,
        read: impl Fn(&FileVersion) -> Result<Vec<u8>, E>,
    ) -> Result<Option<Undo<'_>>, E> {
        let Some(current) = self.versions.first().filter(|version| version.is_since(since)) else { return Ok(None) };
        let hidden_before = self.versions.iter().position(|version| version.is_marker && !version.is_since(since));
        let reachable = &self.versions[..hidden_before.unwrap_or(self.versions.len())];
        let contents = move || reachable.iter().enumerate().filter(|(_, version)| !version.is_marker);
        let first_ever = self.versions.iter().rposition(|version| !version.is_marker);
        for (position, version) in contents() {
            let is_first = first_ever == Some(position);
            let is_whole = match file_type {
                // Its name says nothing of its content, and it is never replaced: the oldest one is it.
                FileType::Config => match contents().next_back() {
                    Some((oldest, _)) if oldest == position => true,
                    Some((_, oldest)) => read(version)? == read(oldest)?,
                    None => false,
                },
                FileType::Data if is_first => true,
                _ if is_first && !version.is_since(since) => true,
                _ => content_name(&read(version)?) == self.name,
            };
            if is_whole {
                let above = &reachable[..position];
                return Ok((position > 0).then_some(Undo::BringBack { version, above }));
            }
        }
        let stood = contents().any(|(_, version)| !version.is_since(since));
        Ok(match (stood, current.is_marker) {
            (true, _) => Some(Undo::Lost),
            (false, true) => None,
            (false, false) => Some(Undo::Hide),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;

    use super::*;

    const SINCE_S: i64 = 100;

    /// Each version by its second and content, the newest first; `None` is a marker. `expected` is the second of what comes
    /// back, `hide`, `lost` or nothing; `reads` is how many versions were read for it.
    #[track_caller]
    fn check(file_type: FileType, versions: &[(i64, Option<&str>)], expected: &str, reads: u32) {
        let version = |(second, content): &(i64, Option<&str>)| FileVersion {
            id: content.unwrap_or_default().to_string(),
            is_marker: content.is_none(),
            modified_at: Timestamp::from_second(*second).unwrap(),
            size_bytes: 0,
            class: String::new(),
        };
        let history =
            FileHistory { name: content_name(b"good"), versions: versions.iter().map(version).collect::<Vec<_>>() };
        let counted = Cell::new(0);
        let read = |version: &FileVersion| {
            counted.set(counted.get() + 1);
            Ok::<_, Infallible>(version.id.clone().into_bytes())
        };
        let undo = history.undo(file_type, Timestamp::from_second(SINCE_S).unwrap(), read).unwrap();
        let said = match undo {
            None => String::new(),
            Some(Undo::BringBack { version, above }) => {
                assert_eq!(above, &history.versions[..above.len()]);
                assert_eq!(version, &history.versions[above.len()]);
                version.modified_at.as_second().to_string()
            }
            Some(Undo::Hide) => "hide".into(),
            Some(Undo::Lost) => "lost".into(),
        };
        assert_eq!((said.as_str(), counted.get()), (expected, reads), "{file_type} {versions:?}");
    }

    #[test]
    fn only_what_happened_since_is_undone() {
        let (good, bad, marker) = (Some("good"), Some("bad"), None);
        for file_type in [FileType::Data, FileType::Snapshot] {
            check(file_type, &[(99, good)], "", 0);
            check(file_type, &[(99, marker), (1, good)], "", 0);
            check(file_type, &[(100, marker), (1, good)], "1", 0);
            check(file_type, &[(120, marker), (110, marker), (1, good)], "1", 0);
            check(file_type, &[(110, bad), (1, good)], "1", 1);
            check(file_type, &[(120, marker), (110, bad), (1, good)], "1", 1);
            // Written again rightly, as by an upload whose first try had arrived damaged.
            check(file_type, &[(110, good), (1, bad)], "", 1);
            // What stood damaged before is brought back as whole as there is one.
            check(file_type, &[(110, marker), (50, bad), (1, good)], "1", 1);
        }
    }

    #[test]
    fn what_was_removed_before_stays_away() {
        let (good, bad, marker) = (Some("good"), Some("bad"), None);
        check(FileType::Data, &[(110, bad), (50, marker), (1, good)], "hide", 1);
        check(FileType::Data, &[(120, marker), (110, bad), (50, marker), (1, good)], "", 1);
        check(FileType::Data, &[(120, marker), (110, good), (50, marker), (1, good)], "110", 1);
    }

    #[test]
    fn what_is_new_and_small_is_read() {
        let (good, bad, marker) = (Some("good"), Some("bad"), None);
        check(FileType::Index, &[(110, good)], "", 1);
        check(FileType::Index, &[(110, bad)], "hide", 1);
        check(FileType::Index, &[(120, marker), (110, good)], "110", 1);
        check(FileType::Data, &[(120, marker), (110, good)], "110", 0);
        check(FileType::Index, &[(110, marker), (60, bad), (40, marker), (1, good)], "lost", 1);
    }

    #[test]
    fn the_oldest_configuration_is_the_right_one() {
        let (first, other, marker) = (Some("first"), Some("other"), None);
        check(FileType::Config, &[(110, marker), (1, first)], "1", 0);
        check(FileType::Config, &[(120, marker), (110, other), (1, first)], "1", 2);
        check(FileType::Config, &[(110, first), (1, first)], "", 2);
        // Replaced on purpose, before.
        check(FileType::Config, &[(110, marker), (50, other), (40, marker), (1, first)], "50", 0);
    }
}
