//! Backup repositories in the restic format, versions 1 and 2.
//!
//! A repository is a set of immutable files in a store. Blobs (pieces of files, and directories) lie in
//! packs; indexes say which pack holds which blob; snapshots name a tree of directories. Everything but
//! the key files is encrypted. Restic reads what is written here, and the other way round.
//!
//! Writers add packs, then the index, then the snapshot; readers go the other way.

mod accounts;
pub mod backup;
mod blob_table;
pub mod check;

mod chunker;
mod compress;
mod config;
mod copy;
mod crypto;
mod error;
mod file_time;
pub mod forget;
mod go_json;
mod id;
mod index;
mod index_file;
mod index_marks;
mod key_file;
mod lock;
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
pub mod restore;
mod rewrite;
mod selection;
mod session;
mod snapshot;
mod snapshot_writer;
mod summary;
mod tag;
pub mod transport;
mod tree;
mod tree_cache;
mod tree_rewrite;
mod vault;

pub use backup::{BackupOptions, backup};
pub use check::{CheckOptions, CheckReport, check};
pub use chunker::Chunking;
pub use compress::Compression;
pub use copy::{Copied, CopyOptions, CopyReport, copy};
pub use error::{Error, Result};
pub use file_time::{FileTime, InvalidTime};
pub use forget::{ForgetOptions, ForgetReport, forget};
pub use id::{BlobKind, Id, InvalidId, SnapshotId};
pub use key_file::{KeyFile, KeyInfo, MasterKey, Password};
pub use lock::{Lock, LockMode, unlock};
pub use node::{ExtendedAttribute, Node, NodeKind};
pub use problem::{Problem, Problems};
pub use progress::{Event, ItemChange, Progress};
pub use prune::{MaxUnused, PruneOptions, PruneReport, prune};
pub use reader::TreeWalk;
pub use restore::{Overwrite, OwnerMap, Owners, RestoreOptions, RestoreSummary, restore};
pub use rewrite::{RewriteOptions, Rewritten, rewrite};
pub use selection::SnapshotSelection;
pub use snapshot::{Snapshot, SnapshotFilter, SnapshotSummary};
pub use snapshot_writer::{NodeMeta, SnapshotOptions, SnapshotWriter};
pub use summary::BackupSummary;
pub use tag::{Replaced, TagChange, tag};
pub use tree::Tree;
pub use vault::Vault;

/// What snapshots say they were made by.
pub const PROGRAM_VERSION: &str = concat!("levee ", env!("CARGO_PKG_VERSION"));
