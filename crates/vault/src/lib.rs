//! Backup repositories in the restic format, versions 1 and 2.
//!
//! A repository is a set of immutable files in a store. Blobs (pieces of files, and directories) lie in
//! packs; indexes say which pack holds which blob; snapshots name a tree of directories. Everything but
//! the key files is encrypted. Restic reads what is written here, and the other way round.
//!
//! Writers add packs, then the index, then the snapshot; readers go the other way.

mod accounts;
pub mod backup;
pub mod check;
mod chunker;
mod compress;
mod config;
mod crypto;
mod error;
mod file_time;
mod go_json;
mod id;
mod index;
mod index_file;
mod key_file;
mod lock;
mod node;
mod opened;
mod pack;
mod parallel;
mod pattern;
mod polynomial;
mod problem;
mod progress;
mod reader;
pub mod restore;
mod session;
mod snapshot;
mod snapshot_writer;
mod summary;
mod tree;
mod tree_cache;
mod vault;

pub use backup::{BackupOptions, backup};
pub use check::{CheckOptions, CheckReport, check};
pub use chunker::Chunking;
pub use compress::Compression;
pub use error::{Error, Result};
pub use file_time::{FileTime, InvalidTime};
pub use id::{BlobKind, Id, InvalidId, SnapshotId};
pub use key_file::{KeyFile, KeyInfo, MasterKey, Password};
pub use lock::{Lock, LockMode, unlock};
pub use node::{ExtendedAttribute, Node, NodeKind};
pub use problem::{Problem, Problems};
pub use progress::{Event, ItemChange, Progress};
pub use reader::TreeWalk;
pub use restore::{Overwrite, RestoreOptions, RestoreSummary, restore};
pub use snapshot::{Snapshot, SnapshotFilter, SnapshotSummary};
pub use snapshot_writer::{NodeMeta, SnapshotOptions, SnapshotWriter};
pub use summary::BackupSummary;
pub use tree::Tree;
pub use vault::Vault;

/// What snapshots say they were made by.
pub const PROGRAM_VERSION: &str = concat!("levee ", env!("CARGO_PKG_VERSION"));
