//! Whether a backup looks like ransomware at work, against the history of its source.

use levee_vault::suspicion::{ImageChanges, ImageUsual, Sign, Usual, judge, judge_image};
use levee_vault::{BackupSummary, Result, Snapshot, SnapshotId, SnapshotSelection, Vault};

/// With fewer files changed or gone there is no sign, and nothing need be looked up.
const FILES_MIN: u64 = 20;

/// The signs in what has changed since the parent.
pub fn signs(vault: &Vault, summary: &BackupSummary) -> Result<Vec<Sign>> {
    let (Some(parent), Some(snapshot)) = (summary.parent, summary.snapshot_id) else { return Ok(Vec::new()) };
    let before = vault.read_snapshot(&parent)?;
    let files_before = before.summary.as_ref().map(|summary| summary.total_files_processed);
    let removed =
        files_before.map_or(u64::MAX, |files| (files + summary.files_new).saturating_sub(summary.total_files));
    if summary.files_changed.saturating_add(removed) < FILES_MIN {
        return Ok(Vec::new());
    }
    let changes = vault.changes(&parent, &snapshot, files_before)?;
    Ok(judge(&changes, &usual(vault, &before)?))
}

/// The signs in what has become of disk images since the parent.
pub fn signs_of_images(vault: &Vault, summary: &BackupSummary) -> Result<Vec<Sign>> {
    let (Some(parent), Some(snapshot)) = (summary.parent, summary.snapshot_id) else { return Ok(Vec::new()) };
    // What ransomware writes is new to every vault.
    if summary.data_added_bytes < ImageChanges::BYTES_MIN {
        return Ok(Vec::new());
    }
    let usual = ImageUsual::of(&earlier(vault, &vault.read_snapshot(&parent)?)?);
    let changes = vault.image_changes(&parent, &snapshot)?;
    Ok(changes.iter().flat_map(|changes| judge_image(changes, &usual)).collect())
}

/// The snapshots of the same source up to this one, the oldest first.
fn earlier(vault: &Vault, like: &Snapshot) -> Result<Vec<(SnapshotId, Snapshot)>> {
    let paths = like.paths.iter().map(Into::into).collect();
    let filter = SnapshotSelection { hosts: vec![like.hostname.clone()], paths, ..SnapshotSelection::default() };
    let mut snapshots = vault.list_snapshots()?.readable;
    snapshots.retain(|(_, snapshot)| filter.matches(snapshot) && snapshot.time <= like.time);
    Ok(snapshots)
}

/// What earlier backups of the same source say of themselves.
fn usual(vault: &Vault, like: &Snapshot) -> Result<Usual> {
    let mut usual = Usual::default();
    for pair in earlier(vault, like)?.windows(2) {
        if let (Some(before), Some(after)) = (&pair[0].1.summary, &pair[1].1.summary) {
            let files = before.total_files_processed;
            let removed = (files + after.files_new).saturating_sub(after.total_files_processed);
            usual.add_share(after.files_changed + removed, files);
        }
    }
    Ok(usual)
}
