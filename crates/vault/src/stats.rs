//! How large things are, in restic's four ways of counting.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;

use serde::Serialize;

use crate::crypto::OVERHEAD;
use crate::{BlobKind, FileCount, Id, Node, NodeKind, Progress, Result, Snapshot, SnapshotId, Vault};

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StatsMode {
    /// What a restore of each snapshot would write.
    #[default]
    RestoreSize,
    /// Files with different content.
    FilesByContents,
    /// Blobs of each file, those of equal files once.
    BlobsPerFile,
    /// Blobs as they are stored.
    RawData,
}

/// restic's fields; what the mode doesn't count is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    pub total_size: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub total_uncompressed_size: u64,
    #[serde(skip_serializing_if = "is_nothing")]
    pub compression_ratio: f64,
    /// How much of it was stored by a version that compresses, in percent.
    #[serde(skip_serializing_if = "is_nothing")]
    pub compression_progress: f64,
    #[serde(skip_serializing_if = "is_nothing")]
    pub compression_space_saving: f64,
    #[serde(skip_serializing_if = "is_zero")]
    pub total_file_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub total_blob_count: u64,
    pub snapshots_count: u64,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

fn is_nothing(value: &f64) -> bool {
    *value == 0.0
}

/// Counts what snapshots hold.
pub fn stats(
    vault: &Vault,
    snapshots: &[(SnapshotId, Snapshot)],
    mode: StatsMode,
    progress: &dyn Progress,
) -> Result<Stats> {
    let mut run = Run {
        vault,
        mode,
        stats: Stats::default(),
        contents: HashSet::new(),
        blobs: HashSet::new(),
        files: HashMap::new(),
        count: FileCount::begin(snapshots.iter().map(|(_, snapshot)| snapshot), progress),
    };
    vault.refresh_index()?;
    for (id, snapshot) in snapshots {
        run.stats.snapshots_count += 1;
        run.count.next_snapshot(snapshot);
        match mode {
            StatsMode::RawData => run.collect_blobs(id)?,
            _ => run.count_entries(id)?,
        }
    }
    if mode == StatsMode::RawData {
        run.count_blobs()?;
    }
    Ok(run.stats)
}

struct Run<'a> {
    vault: &'a Vault,
    mode: StatsMode,
    stats: Stats,
    /// Hashes of lists of blobs that were counted.
    contents: HashSet<u64>,
    blobs: HashSet<(BlobKind, Id)>,
    files: HashMap<PathBuf, HashSet<Id>>,
    count: FileCount<'a>,
}

impl Run<'_> {
    fn count_entries(&mut self, snapshot: &SnapshotId) -> Result<()> {
        // Within one snapshot: each restore makes its own.
        let mut links = HashSet::new();
        for entry in self.vault.list_tree(snapshot)? {
            let (path, node) = entry?;
            if node.kind == NodeKind::File {
                self.count.file();
            }
            if self.mode == StatsMode::RestoreSize {
                self.stats.total_file_count += 1;
                let has_several_names = node.links > 1 && node.kind != NodeKind::Dir;
                if !has_several_names || links.insert((node.device_id, node.inode)) {
                    self.add_size(node.size);
                }
            } else if self.contents.insert(hash_of(&node)) {
                self.count_content(path, &node)?;
            }
        }
        if self.mode == StatsMode::BlobsPerFile {
            self.stats.total_file_count = self.files.len() as u64;
        }
        Ok(())
    }

    fn count_content(&mut self, path: PathBuf, node: &Node) -> Result<()> {
        if self.mode == StatsMode::FilesByContents {
            self.stats.total_file_count += 1;
            self.add_size(node.size);
            return Ok(());
        }
        if node.blobs().is_empty() {
            return Ok(());
        }
        let mut bytes = 0;
        let counted = self.files.entry(path).or_default();
        for blob in node.blobs() {
            if counted.insert(*blob) {
                self.stats.total_blob_count += 1;
                bytes += self.vault.blob_location(BlobKind::Data, blob)?.blob.plaintext_length();
            }
        }
        self.add_size(bytes);
        Ok(())
    }

    fn add_size(&mut self, bytes: u64) {
        self.stats.total_size = self.stats.total_size.saturating_add(bytes);
    }

    fn collect_blobs(&mut self, snapshot: &SnapshotId) -> Result<()> {
        let mut to_do = vec![self.vault.root_of(snapshot)?];
        while let Some(tree) = to_do.pop() {
            if !self.blobs.insert((BlobKind::Tree, tree)) {
                continue;
            }
            for node in self.vault.tree(&tree)?.nodes() {
                self.blobs.extend(node.blobs().iter().map(|id| (BlobKind::Data, *id)));
                to_do.extend(node.subtree);
                if node.kind == NodeKind::File {
                    self.count.file();
                }
            }
        }
        Ok(())
    }

    fn count_blobs(&mut self) -> Result<()> {
        let (mut compressed, mut compressed_from) = (0, 0);
        for (kind, id) in &self.blobs {
            let blob = self.vault.blob_location(*kind, id)?.blob;
            let (stored, whole) = (u64::from(blob.length), blob.plaintext_length() + OVERHEAD as u64);
            self.stats.total_size += stored;
            self.stats.total_uncompressed_size += whole;
            self.stats.total_blob_count += 1;
            if blob.uncompressed_length != 0 {
                compressed += stored;
                compressed_from += whole;
            }
        }
        let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        let stats = &mut self.stats;
        stats.compression_ratio = share(compressed_from, compressed);
        stats.compression_progress = share(compressed_from, stats.total_uncompressed_size) * 100.0;
        if stats.total_uncompressed_size > 0 {
            stats.compression_space_saving = (1.0 - share(stats.total_size, stats.total_uncompressed_size)) * 100.0;
        }
        Ok(())
    }
}

/// Entries without content count as one file with none.
fn hash_of(node: &Node) -> u64 {
    let mut hasher = DefaultHasher::new();
    node.blobs().hash(&mut hasher);
    hasher.finish()
}
