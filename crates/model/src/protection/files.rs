//! Folders: which files are kept, when they are copied, and where they live.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Period, Retention, Rhythm, Schedule};
use crate::SiteName;

/// A folder of files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilesSpec {
    /// How often a snapshot is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<Period>,
    /// When snapshots are taken, instead of `every`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// Which snapshots are kept.
    #[serde(default = "Retention::default")]
    pub keep: Retention,
    /// Patterns as restic's `--exclude` has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Paths below the folder that a rebuilt copy must have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probe: Vec<PathBuf>,
    pub at: BTreeMap<SiteName, FilesSite>,
}

impl FilesSpec {
    /// When snapshots are taken. `None` when the file says nothing or two things, which `ProtectionFile::parse` refuses.
    pub fn rhythm(&self) -> Option<Rhythm<'_>> {
        match (self.every, &self.schedule) {
            (Some(every), None) => Some(Rhythm::Every(every)),
            (None, Some(schedule)) => Some(Rhythm::At(schedule)),
            _ => None,
        }
    }
}

/// One site's place for a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilesSite {
    pub path: PathBuf,
}
