use std::path::Path;

use serde::Serialize;

use super::RepairOptions;
use crate::problem::ProblemLog;
use crate::rewrite::{Change, Rewritten};
use crate::tree_rewrite::Verdicts;
use crate::{BlobKind, Error, Node, NodeKind, Problems, Progress, Result, SnapshotSelection, Vault};

/// The tag of a snapshot that stands beside the damaged one, as restic has it.
const REPAIRED_TAG: &str = "repaired";

/// Which snapshots, and what becomes of the damaged ones.
#[derive(Clone, Debug, Default)]
pub struct SnapshotRepairOptions {
    pub selection: SnapshotSelection,
    /// Remove a damaged snapshot when its repaired one stands.
    pub forget: bool,
    pub repair: RepairOptions,
}

/// What was found, and what was made of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SnapshotRepair {
    /// Every snapshot that was looked at.
    pub snapshots: Vec<Rewritten>,
    /// What is lost: files that are shorter now, directories that are empty.
    pub losses: Problems,
}

struct Losses<'a> {
    vault: &'a Vault,
    log: ProblemLog<'a>,
}

impl Verdicts for Losses<'_> {
    fn entry(&mut self, path: &Path, node: &Node) -> Result<Option<Node>> {
        if node.kind != NodeKind::File {
            return Ok(Some(node.clone()));
        }
        let (mut blobs, mut size) = (Vec::new(), 0);
        for id in node.blobs() {
            match self.vault.blob_location(BlobKind::Data, id) {
                Ok(location) => {
                    blobs.push(*id);
                    size += location.blob.plaintext_length();
                }
                Err(Error::MissingBlob { .. }) => {}
                // A store that cannot be reached has lost nothing.
                Err(error) => return Err(error),
            }
        }
        if blobs.len() == node.blobs().len() && size == node.size {
            return Ok(Some(node.clone()));
        }
        let lost = node.blobs().len() - blobs.len();
        self.log.add(path, format!("{lost} of its {} pieces are lost; {size} bytes are left", node.blobs().len()));
        Ok(Some(Node { content: Some(blobs), size, ..node.clone() }))
    }

    fn keeps_empty(&mut self, _path: &Path) -> bool {
        true
    }

    fn unreadable(&mut self, path: &Path, error: Error) -> Result<()> {
        // A store that cannot be reached has lost nothing.
        if !error.is_damage() {
            return Err(error);
        }
        self.log.add_error(path, "all that this directory held is lost", &error);
        Ok(())
    }
}

/// Makes snapshots without what is lost out of damaged ones. The index must be right: `repair_index` comes
/// first.
pub fn repair_snapshots(
    vault: &Vault,
    options: &SnapshotRepairOptions,
    progress: &dyn Progress,
) -> Result<SnapshotRepair> {
    let lock = options.repair.lock(vault)?;
    let mut losses = Losses { vault, log: ProblemLog::new(progress) };
    let mut snapshots = Vec::new();
    let selected = vault.select(&options.selection)?;
    // What no index names is taken for lost here.
    vault.refresh_whole_index()?;
    for (old, snapshot) in selected {
        let change = Change {
            vault,
            old,
            snapshot: &snapshot,
            lock: lock.as_ref(),
            new_host: None,
            new_time: None,
            add_summary: false,
            tag: (!options.forget).then_some(REPAIRED_TAG),
        };
        snapshots.push(change.run(&mut losses)?);
    }
    Ok(SnapshotRepair { snapshots, losses: losses.log.into_problems() })
}
