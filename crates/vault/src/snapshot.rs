use jiff::Timestamp;
use jiff::tz::Offset;
use serde::{Deserialize, Serialize};

use crate::Id;
use crate::file_time::LocalTime;

/// What was stored when: the root of everything that can be restored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "SnapshotJson", into = "SnapshotJson")]
pub struct Snapshot {
    pub time: Timestamp,
    /// How far the clock of whoever made it was from UTC: a day, for a policy, begins at its midnight.
    pub offset: Offset,
    pub parent: Option<Id>,
    pub tree: Option<Id>,
    pub paths: Vec<String>,
    pub hostname: String,
    pub username: String,
    pub uid: u32,
    pub gid: u32,
    pub excludes: Vec<String>,
    pub tags: Vec<String>,
    pub original: Option<Id>,
    pub program_version: String,
    pub summary: Option<SnapshotSummary>,
}

/// The form in which a snapshot is stored and shown: one text holds the time and its distance from UTC.
#[derive(Serialize, Deserialize)]
struct SnapshotJson {
    time: LocalTime,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parent: Option<Id>,
    tree: Option<Id>,
    #[serde(default, deserialize_with = "null_is_empty")]
    paths: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    hostname: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    username: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    uid: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    gid: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    excludes: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    tags: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    original: Option<Id>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    program_version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    summary: Option<SnapshotSummary>,
}

impl From<SnapshotJson> for Snapshot {
    fn from(json: SnapshotJson) -> Self {
        let SnapshotJson { time: LocalTime { time, offset }, parent, tree, paths, hostname, username, .. } = json;
        let SnapshotJson { uid, gid, excludes, tags, original, program_version, summary, .. } = json;
        Self {
            time: time.to_timestamp(),
            offset,
            parent,
            tree,
            paths,
            hostname,
            username,
            uid,
            gid,
            excludes,
            tags,
            original,
            program_version,
            summary,
        }
    }
}

impl From<Snapshot> for SnapshotJson {
    fn from(snapshot: Snapshot) -> Self {
        let Snapshot { time, offset, parent, tree, paths, hostname, username, .. } = snapshot;
        let Snapshot { uid, gid, excludes, tags, original, program_version, summary, .. } = snapshot;
        let time = LocalTime { time: time.into(), offset };
        Self {
            time,
            parent,
            tree,
            paths,
            hostname,
            username,
            uid,
            gid,
            excludes,
            tags,
            original,
            program_version,
            summary,
        }
    }
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::<Vec<String>>::deserialize(deserializer)?.unwrap_or_default())
}

/// What making the snapshot took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SnapshotSummary {
    #[serde(with = "crate::file_time::as_timestamp")]
    pub backup_start: Timestamp,
    #[serde(with = "crate::file_time::as_timestamp")]
    pub backup_end: Timestamp,
    pub files_new: u64,
    pub files_changed: u64,
    pub files_unmodified: u64,
    pub dirs_new: u64,
    pub dirs_changed: u64,
    pub dirs_unmodified: u64,
    pub data_blobs: u64,
    pub tree_blobs: u64,
    /// Bytes of new blobs before compression.
    pub data_added: u64,
    /// Bytes of new blobs as they are stored.
    pub data_added_packed: u64,
    pub total_files_processed: u64,
    pub total_bytes_processed: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_from_utc_is_kept() {
        let check = |time: &str, hours: i8, again: &str| {
            let json = format!("{{\"time\":\"{time}\",\"tree\":null,\"paths\":[]}}");
            let snapshot: Snapshot = serde_json::from_str(&json).unwrap();
            assert_eq!(snapshot.time, "2026-11-26T10:00:00.25Z".parse().unwrap(), "{time}");
            assert_eq!(snapshot.offset, jiff::tz::offset(hours), "{time}");
            assert_eq!(serde_json::to_string(&snapshot).unwrap(), json.replace(time, again));
        };
        check("2026-11-26T10:00:00.25Z", 0, "2026-11-26T10:00:00.25Z");
        check("2026-11-26T21:00:00.25+11:00", 11, "2026-11-26T21:00:00.25+11:00");
        check("2026-11-25T23:00:00.25-11:00", -11, "2026-11-25T23:00:00.25-11:00");
        check("2026-11-26T10:00:00.250-00:00", 0, "2026-11-26T10:00:00.25Z");
    }
}
