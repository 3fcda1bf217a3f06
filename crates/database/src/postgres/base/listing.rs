//! Which base backups a vault has, and what each says of itself.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use levee_model::AssetId;
use levee_vault::{SnapshotId, SnapshotSelection, Vault};

use super::{BaseBackup, BaseFacts, FACTS_PATH, TAG, asset_tag, facts};
use crate::{Error, Result};

/// How soon a base that could not be read is tried again: somebody may have mended the repository.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// All bases of an asset, the oldest first. One that can't be read is left out, and logged: the others must stay usable.
pub fn list(vault: &Vault, asset: &AssetId) -> Result<Vec<BaseBackup>> {
    let mut known = KnownBases::default();
    known.refresh(vault, asset)?;
    Ok(known.bases())
}

/// The bases of one asset in one vault, for whoever asks often: they never change, so each is read once.
#[derive(Default)]
pub struct KnownBases {
    read: BTreeMap<SnapshotId, BaseBackup>,
    unreadable: BTreeMap<SnapshotId, Unreadable>,
}

/// A base whose facts can't be read.
#[derive(Clone, Debug)]
pub struct Unreadable {
    pub taken_at: Timestamp,
    pub reason: String,
    tried_at: Instant,
}

impl KnownBases {
    /// Reads what is new in the vault, and forgets what is gone from it.
    ///
    /// # Errors
    /// When the vault can't be asked, in which case nothing new is known of any base.
    pub fn refresh(&mut self, vault: &Vault, asset: &AssetId) -> Result<()> {
        let filter =
            SnapshotSelection { tag_lists: vec![vec![TAG.into(), asset_tag(asset)]], ..SnapshotSelection::default() };
        let snapshots = vault.list_snapshots().map_err(Error::vault("listing base backups"))?.readable;
        let (mut read, mut unreadable) = (BTreeMap::new(), BTreeMap::new());
        for (id, snapshot) in snapshots.iter().filter(|(_, snapshot)| filter.matches(snapshot)) {
            if let Some(base) = self.read.get(id) {
                read.insert(*id, base.clone());
                continue;
            }
            let known = self.unreadable.get(id);
            if let Some(recent) = known.filter(|known| known.tried_at.elapsed() < TRY_AGAIN_AFTER) {
                unreadable.insert(*id, recent.clone());
                continue;
            }
            match load(vault, id) {
                Ok(base) => {
                    read.insert(*id, base);
                }
                // Then nothing is known of any of them.
                Err(Error::Vault { doing, source: source @ levee_vault::Error::Store(_) }) if !source.is_damage() => {
                    return Err(Error::Vault { doing, source });
                }
                Err(error) => {
                    let reason = error.with_causes();
                    if known.is_none_or(|known| known.reason != reason) {
                        tracing::error!(%asset, snapshot = %id.short(), reason, "a base backup can't be read");
                    }
                    unreadable.insert(*id, Unreadable { taken_at: snapshot.time, reason, tried_at: Instant::now() });
                }
            }
        }
        (self.read, self.unreadable) = (read, unreadable);
        Ok(())
    }

    /// Those that can be read, the oldest first.
    pub fn bases(&self) -> Vec<BaseBackup> {
        let mut bases: Vec<BaseBackup> = self.read.values().cloned().collect();
        bases.sort_by_key(|base| base.facts.started_at);
        bases
    }

    /// Those that can't.
    pub fn unreadable(&self) -> &BTreeMap<SnapshotId, Unreadable> {
        &self.unreadable
    }
}

/// Reads what a base says of itself.
pub fn load(vault: &Vault, snapshot: &SnapshotId) -> Result<BaseBackup> {
    let not_a_base = |source| Error::NotABase { snapshot: snapshot.short(), source };
    let content = vault.read_file(snapshot, Path::new(FACTS_PATH)).map_err(|error| match error {
        levee_vault::Error::PathNotFound { .. } => not_a_base(None),
        source => Error::Vault { doing: "reading a base backup", source },
    })?;
    let facts: BaseFacts = serde_json::from_slice(&content).map_err(|source| not_a_base(Some(source)))?;
    if facts.format != facts::FORMAT {
        return Err(not_a_base(None));
    }
    Ok(BaseBackup { snapshot: *snapshot, facts })
}
