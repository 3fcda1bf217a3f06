//! A vault's snapshots: listing, finding, storing and removing them.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use levee_store::FileType;

use super::{FETCHES_AT_ONCE, Vault, locked};
use crate::parallel::parallel_map;
use crate::problem::with_sources;
use crate::{Error, Id, Result, Snapshot, SnapshotId, SnapshotSelection};

/// What lies among a vault's snapshots.
#[derive(Debug, Default)]
pub struct ListedSnapshots {
    /// Oldest first.
    pub readable: Vec<(SnapshotId, Snapshot)>,
    pub damaged: Vec<DamagedSnapshot>,
}

/// A file among the snapshots that is none, or not as it was written.
#[derive(Debug)]
pub struct DamagedSnapshot {
    pub id: SnapshotId,
    pub error: Error,
}

impl ListedSnapshots {
    /// Those that can be read; a warning is logged for each other.
    pub fn or_warn(self) -> Vec<(SnapshotId, Snapshot)> {
        for DamagedSnapshot { id, error } in &self.damaged {
            tracing::warn!(
                "snapshot {} is passed over: {}; `levee vault forget {}` removes what can't be restored",
                id.short(),
                with_sources(error),
                id.short()
            );
        }
        self.readable
    }
}

impl Vault {
    /// All snapshots, and what can't be read among them: a damaged file must not hide the others, and whoever may only
    /// add to a repository can add such a file.
    pub fn list_snapshots(&self) -> Result<ListedSnapshots> {
        let ids = self.list_ids(FileType::Snapshot)?;
        let listed: HashSet<Id> = ids.iter().copied().collect();
        locked(&self.inner.snapshots).retain(|id, _| listed.contains(id));
        if let Some(cache) = self.cache() {
            cache.retain(FileType::Snapshot, |id| listed.contains(id));
        }
        let mut found = ListedSnapshots::default();
        let read = parallel_map(FETCHES_AT_ONCE, &ids, |id| (SnapshotId(*id), self.snapshot(&SnapshotId(*id))));
        for (id, snapshot) in read {
            match snapshot {
                Ok(snapshot) => found.readable.push(snapshot),
                // Removed by someone else since it was listed.
                Err(Error::SnapshotNotFound { .. }) => {}
                Err(error) if error.is_damage() => found.damaged.push(DamagedSnapshot { id, error }),
                Err(error) => return Err(error),
            }
        }
        found.readable.sort_by_key(|(id, snapshot)| (snapshot.time, *id));
        Ok(found)
    }

    /// All snapshots, oldest first, for whoever must know of each: what a damaged one refers to is not to be removed.
    ///
    /// # Errors
    /// Also when one of them is damaged.
    pub fn snapshots(&self) -> Result<Vec<(SnapshotId, Snapshot)>> {
        let ListedSnapshots { readable, damaged } = self.list_snapshots()?;
        damaged.into_iter().next().map_or(Ok(readable), |damaged| Err(damaged.error))
    }

    pub(crate) fn snapshot(&self, id: &SnapshotId) -> Result<(SnapshotId, Snapshot)> {
        if let Some(snapshot) = locked(&self.inner.snapshots).get(&id.0) {
            return Ok((*id, snapshot.clone()));
        }
        let snapshot: Snapshot = match self.read_file_as(FileType::Snapshot, &id.0) {
            Err(Error::Store(levee_store::Error::NotFound { .. })) => {
                return Err(Error::SnapshotNotFound { location: self.location(), wanted: id.short() });
            }
            result => result?,
        };
        self.inner.index_is_stale.store(true, Ordering::SeqCst);
        locked(&self.inner.snapshots).insert(id.0, snapshot.clone());
        Ok((*id, snapshot))
    }

    /// Stores a snapshot, all of whose blobs are in the index.
    pub(crate) fn write_snapshot(&self, snapshot: Snapshot) -> Result<SnapshotId> {
        let id = self.write_file_as(FileType::Snapshot, &snapshot)?;
        locked(&self.inner.snapshots).insert(id, snapshot);
        Ok(SnapshotId(id))
    }

    /// Reads one snapshot.
    pub fn read_snapshot(&self, id: &SnapshotId) -> Result<Snapshot> {
        Ok(self.snapshot(id)?.1)
    }

    /// Finds a snapshot by `latest` (the newest of a selection) or the first digits of its id.
    pub fn find_snapshot(&self, wanted: &str, among: &SnapshotSelection) -> Result<(SnapshotId, Snapshot)> {
        if wanted == "latest" {
            let mut listed = self.list_snapshots()?;
            listed.readable.retain(|(_, snapshot)| among.matches(snapshot));
            // It may be the one that is wanted.
            if let (true, Some(damaged)) = (listed.readable.is_empty(), listed.damaged.pop()) {
                return Err(damaged.error);
            }
            return listed.or_warn().pop().ok_or_else(|| self.no_snapshot(wanted));
        }
        self.snapshot(&self.find_snapshot_file(wanted)?)
    }

    /// Finds a snapshot's file by the first digits of its id, whatever it holds.
    pub(crate) fn find_snapshot_file(&self, wanted: &str) -> Result<SnapshotId> {
        if wanted.is_empty() {
            return Err(self.no_snapshot(wanted));
        }
        // A whole id needs no listing, which may come late and be long.
        if let Ok(id) = wanted.parse::<Id>() {
            return match self.store().size_bytes(FileType::Snapshot, &id.to_hex()) {
                Ok(_) => Ok(SnapshotId(id)),
                Err(levee_store::Error::NotFound { .. }) => Err(self.no_snapshot(wanted)),
                Err(error) => Err(error.into()),
            };
        }
        let mut ids = self.list_ids(FileType::Snapshot)?;
        ids.retain(|id| id.to_hex().starts_with(wanted));
        if ids.len() > 1 {
            // One that was forgotten may still be listed, and must not stand in another's way.
            ids = self.stored_among(FileType::Snapshot, &ids)?;
        }
        let mut matching = ids.iter();
        match (matching.next(), matching.next()) {
            (Some(id), None) => Ok(SnapshotId(*id)),
            (Some(_), Some(_)) => Err(Error::AmbiguousSnapshot { location: self.location(), prefix: wanted.into() }),
            (None, _) => Err(self.no_snapshot(wanted)),
        }
    }

    fn no_snapshot(&self, wanted: &str) -> Error {
        Error::SnapshotNotFound { location: self.location(), wanted: wanted.into() }
    }

    /// Removes a snapshot. Its data stay until the repository is pruned.
    pub fn remove_snapshot(&self, id: &SnapshotId) -> Result<()> {
        self.store().remove(FileType::Snapshot, &id.0.to_hex())?;
        locked(&self.inner.snapshots).remove(&id.0);
        // While it is still listed it would seem to be there, and a prune would take it for one that was brought back.
        if let Some(cache) = self.cache() {
            cache.remove(FileType::Snapshot, &id.0);
        }
        Ok(())
    }
}
