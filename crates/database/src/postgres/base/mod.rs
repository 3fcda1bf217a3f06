//! Base backups: the data files of a whole cluster as a snapshot in a vault.
//!
//! ```text
//! levee-base.json        what this is, and what it needs (`BaseFacts`)
//! data/…                 the data directory, with backup_label and backup_manifest, without the log;
//!                        data/pg_tblspc/OID is a link to where the tablespace lay at the source
//! tablespaces/OID/…      each tablespace, to be put where the mapping says
//! configuration/…        configuration files from outside the data directory, by their paths at the source
//! ```

mod configuration;
mod facts;
mod received;
mod take;

use std::collections::BTreeMap;
use std::path::Path;

use levee_model::AssetId;
use levee_vault::{Snapshot, SnapshotId, SnapshotSelection, Vault};

use crate::{Error, Result};
pub use facts::{BaseFacts, ConfigurationFile, DatabaseFacts, Extension, TablespaceFacts};
pub use take::{BaseOptions, PageChecks, take};

/// In every base's tags.
pub const TAG: &str = "levee-base";
/// Where a snapshot has its facts.
pub const FACTS_PATH: &str = "levee-base.json";
/// Where a snapshot has the data directory.
pub const DATA_PATH: &str = "data";
/// Where a snapshot has its tablespaces, each in a folder named by its OID.
pub const TABLESPACES_PATH: &str = "tablespaces";
/// Where a snapshot has configuration files from outside the data directory.
pub const CONFIGURATION_PATH: &str = "configuration";

/// A base backup in a vault. It counts only once the log is durable from `facts.start` through `facts.stop`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseBackup {
    pub snapshot: SnapshotId,
    pub facts: BaseFacts,
}

/// The tag that names the asset.
pub fn asset_tag(asset: &AssetId) -> String {
    format!("asset:{asset}")
}

/// All bases of an asset, the oldest first. One that can't be read is left out, and logged: the others must stay usable.
pub fn list(vault: &Vault, asset: &AssetId) -> Result<Vec<BaseBackup>> {
    list_again(vault, asset, &mut BTreeMap::new())
}

/// As `list`, for whoever asks often: what is in `known` is not read again, and what was read is kept there. One
/// `known` goes with one asset of one vault.
pub fn list_again(
    vault: &Vault,
    asset: &AssetId,
    known: &mut BTreeMap<SnapshotId, BaseBackup>,
) -> Result<Vec<BaseBackup>> {
    let filter = SnapshotSelection { tag_lists: vec![vec![TAG.into(), asset_tag(asset)]], ..Default::default() };
    let snapshots = vault.snapshots().map_err(Error::vault("listing base backups"))?;
    let mut read = BTreeMap::new();
    for (id, _) in snapshots.iter().filter(|(_, snapshot): &&(SnapshotId, Snapshot)| filter.matches(snapshot)) {
        let base = match known.remove(id) {
            Some(base) => Ok(base),
            None => load(vault, id),
        };
        match base {
            Ok(base) => {
                read.insert(*id, base);
            }
            // Then nothing is known of any of them.
            Err(Error::Vault { doing, source: source @ levee_vault::Error::Store(_) }) => {
                return Err(Error::Vault { doing, source });
            }
            Err(error) => tracing::error!(%asset, snapshot = %id.short(), "{}", error.with_causes()),
        }
    }
    // Those that are gone from the vault go with what was known.
    *known = read;
    let mut bases: Vec<BaseBackup> = known.values().cloned().collect();
    bases.sort_by_key(|base| base.facts.started_at);
    Ok(bases)
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
