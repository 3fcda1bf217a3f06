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
mod listing;
mod received;
mod take;

use levee_model::AssetId;
use levee_vault::SnapshotId;

pub use facts::{BaseFacts, ConfigurationFile, DatabaseFacts, Extension, MainFile, TablespaceFacts};
pub use listing::{KnownBases, Unreadable, list, load};
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

const ASSET: &str = "asset:";

/// The tag that names the asset.
pub fn asset_tag(asset: &AssetId) -> String {
    format!("{ASSET}{asset}")
}

/// The asset that such a tag names; `None` for any other.
pub fn asset_of_tag(tag: &str) -> Option<AssetId> {
    tag.strip_prefix(ASSET)?.parse().ok()
}
