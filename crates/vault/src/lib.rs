//! Backup repositories in the restic format, versions 1 and 2.
//!
//! A repository is a set of immutable files in a store. Blobs (pieces of files, and directories) lie in
//! packs; indexes say which pack holds which blob; snapshots name a tree of directories. Everything but
//! the key files is encrypted. Restic reads what is written here, and the other way round.
//!
//! Writers add packs, then the index, then the snapshot; readers go the other way.

mod accounts;
mod archive;
pub mod backup;
mod blob_cache;
mod blob_table;
mod buckets;
mod cache;
pub mod check;

mod chunker;
mod compress;
mod config;
mod content;
mod copy;
mod crypto;
mod diff;
mod error;
mod file_time;
mod find;
pub mod forget;
mod forgotten;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod gate;
mod go_json;
#[cfg(any(test, fuzzing))]
mod golden;
mod id;
mod image;
mod in_use;
mod index;
mod index_file;
mod index_marks;
mod key_file;
mod lock;
#[cfg(test)]
mod losing_store;
#[cfg(any(test, feature = "measure"))]
pub mod measure;
mod mount;
#[cfg(test)]
mod mutations;
mod new_packs;
mod node;
mod opened;
mod pack;
mod pack_reader;
mod parallel;
mod pattern;
mod polynomial;
mod problem;
mod progress;
pub mod prune;
mod reach;
mod reader;
pub mod repair;
pub mod reread;
pub mod restore;
mod rewrite;
mod room;
mod sealing;
mod selection;
mod session;
mod snapshot;
mod snapshot_writer;
mod stats;
mod summary;
pub mod suspicion;
mod tag;
mod thaw;
pub mod transport;
mod tree;
mod tree_cache;
mod tree_rewrite;
mod vault;

pub use archive::{ArchiveFormat, dump_archive};
pub use backup::{BackupOptions, Marker, backup};
pub use cache::{Cache, CacheInfo, clean_caches, list_caches, unused_caches};
pub use check::{CheckOptions, CheckReport, check};
pub use chunker::Chunking;
pub use compress::Compression;
pub use content::ContentReader;
pub use copy::{Copied, CopyOptions, CopyReport, NotCopied, copy};
pub use diff::{DiffCounts, DiffSummary, diff};
pub use error::{Error, Result};
pub use file_time::{FileTime, InvalidTime};
pub use find::{FoundObject, ObjectQuery, Query};
pub use forget::{ForgetOptions, ForgetReport, forget};
pub use id::{BlobKind, Id, InvalidId, SnapshotId};
pub use image::{
    Image, ImageBackupOptions, ImageDescription, ImageRestoreOptions, ImageRestoreSummary, StoredImage, backup_images,
    restore_image,
};
pub use in_use::{Renewed, ToRetain};
pub use key_file::{KeyFile, KeyInfo, MasterKey, Password};
pub use lock::{Lock, LockMode, RESTORE_LOCK_PATIENCE, SWAP_PATIENCE, locks_to_remove, unlock};
pub use mount::{MountOptions, Mounted, mount};
pub use node::{ExtendedAttribute, Node, NodeKind};
pub use problem::{Problem, Problems};
pub use progress::{Event, FileCount, ItemChange, Progress};
pub use prune::{
    Figures as PruneFigures, ForgottenSnapshot, MaxUnused, PruneOptions, PruneReport, UndeleteOptions, UndeleteReport,
    list_forgotten, prune, undelete,
};
pub use reader::TreeWalk;
pub use restore::{Holes, Overwrite, OwnerMap, Owners, RestoreLock, RestoreOptions, RestoreSummary, restore};
pub use rewrite::{RewriteOptions, Rewritten, rewrite};
pub use selection::SnapshotSelection;
pub use snapshot::{Snapshot, SnapshotSummary};
pub use snapshot_writer::{NodeMeta, SnapshotOptions, SnapshotWriter};
pub use stats::{Stats, StatsMode, stats};
pub use summary::BackupSummary;
pub use tag::{Replaced, TagChange, TagOptions, tag};
pub use thaw::{Thaw, ThawState};
pub use tree::Tree;
pub use vault::{DamagedSnapshot, ListedSnapshots, Vault};

/// What snapshots say they were made by.
pub const PROGRAM_VERSION: &str = concat!("levee ", env!("CARGO_PKG_VERSION"));
