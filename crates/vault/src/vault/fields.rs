//! Snapshots as they stand in the store, with whatever others have written into them.
//!
//! What makes a snapshot out of another one changes some fields and takes over the rest as it is: the
//! distance of its time from UTC, by which its day is known, and fields of other programs.

use levee_store::FileType;
use serde_json::{Map, Value};

use super::{Vault, locked, to_json};
use crate::{Id, Result, Snapshot, SnapshotId};

pub(crate) type Fields = Map<String, Value>;

impl Vault {
    pub(crate) fn snapshot_fields(&self, id: &SnapshotId) -> Result<Fields> {
        self.read_file_as(FileType::Snapshot, &id.0)
    }

    /// Stores a snapshot, all of whose blobs are in the index.
    pub(crate) fn write_snapshot_fields(&self, fields: &Fields) -> Result<SnapshotId> {
        let json = to_json(fields)?;
        let snapshot: Snapshot = serde_json::from_slice(&json).map_err(|error| {
            let reason = format!("what should become a snapshot is none: {error}");
            self.damaged(FileType::Snapshot, "", reason)
        })?;
        let id = self.write_file_json(FileType::Snapshot, &json)?;
        locked(&self.inner.snapshots).insert(id, snapshot);
        Ok(SnapshotId(id))
    }
}

/// Sets a field, or takes it away when it is empty.
pub(crate) fn set_tags(fields: &mut Fields, tags: &[String]) {
    if tags.is_empty() {
        fields.remove("tags");
    } else {
        fields.insert("tags".into(), tags.iter().cloned().map(Value::String).collect());
    }
}

pub(crate) fn set_id(fields: &mut Fields, name: &str, id: Id) {
    fields.insert(name.into(), Value::String(id.to_hex()));
}
