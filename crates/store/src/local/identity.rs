//! Whether the repository at a path is still the one that was found there.
//!
//! A mount point may hold an older repository, with all its folders, that comes to light when the disk is unmounted: what
//! is written into that one is lost to the repository that was opened.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::{FileType, content_name};

/// What is remembered of a repository.
#[derive(Debug)]
pub(super) struct Identity {
    place: FolderPlace,
    /// The hash of its configuration.
    config: String,
    /// What was written to it last, but for locks, and not removed since.
    newest: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FolderPlace {
    device: u64,
    inode: u64,
}

impl FolderPlace {
    fn of(folder: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(folder)?;
        Ok(Self { device: metadata.dev(), inode: metadata.ino() })
    }
}

impl Identity {
    pub(super) fn of(folder: &Path, config: &[u8]) -> io::Result<Self> {
        Ok(Self { place: FolderPlace::of(folder)?, config: content_name(config), newest: None })
    }

    /// A lock says nothing: it is soon removed, and then there would be nothing left that an older copy does not have.
    pub(super) fn note_written(&mut self, file_type: FileType, path: PathBuf) {
        if file_type != FileType::Lock {
            self.newest = Some(path);
        }
    }

    pub(super) fn note_removed(&mut self, path: &Path) {
        self.newest.take_if(|newest| newest == path);
    }

    /// Whether it still stands in the folder.
    pub(super) fn stands_in(&mut self, folder: &Path) -> io::Result<bool> {
        let place = FolderPlace::of(folder)?;
        if place == self.place {
            return Ok(true);
        }
        // A remount changes the device, and some file systems over a network number what they have anew at any time: then
        // its contents tell. An older copy has the same configuration, but not what was written last.
        let has_config = fs::read(folder.join("config")).is_ok_and(|config| content_name(&config) == self.config);
        let has_newest = self.newest.as_ref().is_none_or(|newest| newest.exists());
        if has_config && has_newest {
            self.place = place;
        }
        Ok(has_config && has_newest)
    }
}
