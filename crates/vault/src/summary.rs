use jiff::Timestamp;

use crate::session::Added;
use crate::{Problems, SnapshotId, SnapshotSummary};

/// How a backup went.
#[derive(Clone, Debug, PartialEq)]
pub struct BackupSummary {
    /// `None` for a dry run, and when nothing had changed and no snapshot was wanted then.
    pub snapshot_id: Option<SnapshotId>,
    /// The snapshot that unchanged files were recognised by.
    pub parent: Option<SnapshotId>,
    pub started_at: Timestamp,
    pub ended_at: Timestamp,
    pub files_new: u64,
    pub files_changed: u64,
    pub files_unmodified: u64,
    pub dirs_new: u64,
    pub dirs_changed: u64,
    pub dirs_unmodified: u64,
    pub data_blobs: u64,
    pub tree_blobs: u64,
    /// Bytes of new blobs before compression.
    pub data_added_bytes: u64,
    /// Bytes of new blobs as they are stored.
    pub data_added_packed_bytes: u64,
    pub total_files: u64,
    pub total_bytes: u64,
    /// Sources that could not be read. The snapshot lacks them.
    pub errors: Problems,
}

impl BackupSummary {
    pub(crate) fn new(started_at: Timestamp) -> Self {
        Self {
            snapshot_id: None,
            parent: None,
            started_at,
            ended_at: started_at,
            files_new: 0,
            files_changed: 0,
            files_unmodified: 0,
            dirs_new: 0,
            dirs_changed: 0,
            dirs_unmodified: 0,
            data_blobs: 0,
            tree_blobs: 0,
            data_added_bytes: 0,
            data_added_packed_bytes: 0,
            total_files: 0,
            total_bytes: 0,
            errors: Problems::default(),
        }
    }

    pub(crate) fn set_added(&mut self, added: Added) {
        self.data_blobs = added.data_blobs;
        self.tree_blobs = added.tree_blobs;
        self.data_added_bytes = added.bytes;
        self.data_added_packed_bytes = added.packed_bytes;
    }

    /// The form in which a snapshot carries it.
    pub(crate) fn for_snapshot(&self) -> SnapshotSummary {
        SnapshotSummary {
            backup_start: self.started_at,
            backup_end: self.ended_at,
            files_new: self.files_new,
            files_changed: self.files_changed,
            files_unmodified: self.files_unmodified,
            dirs_new: self.dirs_new,
            dirs_changed: self.dirs_changed,
            dirs_unmodified: self.dirs_unmodified,
            data_blobs: self.data_blobs,
            tree_blobs: self.tree_blobs,
            data_added: self.data_added_bytes,
            data_added_packed: self.data_added_packed_bytes,
            total_files_processed: self.total_files,
            total_bytes_processed: self.total_bytes,
        }
    }
}
