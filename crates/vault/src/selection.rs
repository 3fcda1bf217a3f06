//! Which snapshots a command is about, as restic's `--host`, `--tag` and `--path` say it.

use std::path::PathBuf;

use crate::{Result, Snapshot, SnapshotId, Vault};

/// A choice among a vault's snapshots. An empty one means all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotSelection {
    /// One of these hosts.
    pub hosts: Vec<String>,
    /// All tags of one of these lists. An empty list stands for snapshots without tags.
    pub tag_lists: Vec<Vec<String>>,
    /// All of these paths, perhaps among others.
    pub paths: Vec<PathBuf>,
    /// `latest` or the first digits of ids. With them the rest only says what `latest` means.
    pub ids: Vec<String>,
}

impl SnapshotSelection {
    pub fn matches(&self, snapshot: &Snapshot) -> bool {
        (self.hosts.is_empty() || self.hosts.contains(&snapshot.hostname))
            && (self.tag_lists.is_empty() || self.tag_lists.iter().any(|tags| has_tags(snapshot, tags)))
            && self.paths.iter().all(|path| snapshot.paths.iter().any(|stored| path.as_os_str() == stored.as_str()))
    }
}

/// Whether a snapshot has all of these tags; an empty list asks for one without any.
pub(crate) fn has_tags(snapshot: &Snapshot, tags: &[String]) -> bool {
    if tags.is_empty() { snapshot.tags.is_empty() } else { tags.iter().all(|tag| snapshot.tags.contains(tag)) }
}

impl Vault {
    /// The chosen snapshots, oldest first. Of those that can't be read only a named one is an error.
    pub fn select(&self, selection: &SnapshotSelection) -> Result<Vec<(SnapshotId, Snapshot)>> {
        if selection.ids.is_empty() {
            let mut all = self.list_snapshots()?.or_warn();
            all.retain(|(_, snapshot)| selection.matches(snapshot));
            return Ok(all);
        }
        let mut found: Vec<(SnapshotId, Snapshot)> = Vec::new();
        for wanted in &selection.ids {
            let one = self.find_snapshot(wanted, selection)?;
            if !found.iter().any(|(id, _)| *id == one.0) {
                found.push(one);
            }
        }
        found.sort_by_key(|(id, snapshot)| (snapshot.time, *id));
        Ok(found)
    }
}
