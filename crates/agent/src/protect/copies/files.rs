//! The copies of a folder at this site: which is the newest, and of when it is.

use std::collections::BTreeMap;

use jiff::Timestamp;
use levee_model::AssetName;
use levee_model::control::Failure;
use levee_store::LocalStore;
use levee_vault::{Snapshot, SnapshotId};

use super::super::app::{failure, in_full};
use super::super::tags;
use super::{Copies, ahead};

impl Copies {
    /// The newest snapshot of a folder that this site has opened with its own keys.
    pub fn newest_files(&self, asset: &AssetName) -> Result<Option<(SnapshotId, Snapshot)>, Failure> {
        if !self.exists() {
            return Ok(None);
        }
        let (found, vault) = (self.files(asset)?, self.vault()?);
        for (id, snapshot) in found.into_iter().rev() {
            match self.open_with_own_keys(&vault, &id) {
                Ok(()) => return Ok(Some((id, snapshot))),
                Err(failure) => tracing::warn!(app = %self.app, %asset, snapshot = %id, "{}", failure.message),
            }
        }
        Ok(None)
    }

    /// The snapshots of a folder, the oldest first. One that claims a time which is not yet counts by when it came here,
    /// or it would stand before all that come later.
    pub fn files(&self, asset: &AssetName) -> Result<Vec<(SnapshotId, Snapshot)>, Failure> {
        let mut found = self.snapshots_with_tag(&tags::files(&self.app, asset))?;
        let taken_at: Vec<(SnapshotId, Timestamp)> = found.iter().map(|(id, snapshot)| (*id, snapshot.time)).collect();
        let ranks = self.ahead.ranks(asset, &taken_at, Timestamp::now(), || self.received_at(asset))?;
        found.sort_by_key(|(id, _)| ranks.get(id).copied());
        Ok(found)
    }

    /// The moment that a snapshot of a folder is of: its writer's word, unless that is far ahead of this clock.
    pub fn as_of(&self, asset: &AssetName, id: &SnapshotId, snapshot: &Snapshot) -> Result<Timestamp, Failure> {
        ahead::as_of(snapshot.time, Timestamp::now(), || match self.ahead.seen_at(asset, id) {
            Some(seen_at) => Ok(Some(seen_at)),
            None => Ok(self.received_at(asset)?.get(id).copied()),
        })
    }

    /// When each snapshot came here, also those of other assets.
    fn received_at(&self, asset: &AssetName) -> Result<BTreeMap<SnapshotId, Timestamp>, Failure> {
        let arrivals = self.arrivals.of(&LocalStore::new(self.folder.repository())).map_err(|error| {
            failure(format!("cannot say when the copies of {asset} came here: {}", in_full(&error)))
        })?;
        Ok(arrivals.into_iter().map(|arrival| (arrival.id, arrival.received_at)).collect())
    }
}
