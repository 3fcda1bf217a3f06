//! Whether a backup looks like ransomware at work, against the history of its source.

use levee_vault::suspicion::{Sign, Usual, judge};
use levee_vault::{BackupSummary, Result, Snapshot, SnapshotSelection, Vault};

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

/// What earlier backups of the same source say of themselves.
fn usual(vault: &Vault, like: &Snapshot) -> Result<Usual> {
    let paths = like.paths.iter().map(Into::into).collect();
    let filter = SnapshotSelection { hosts: vec![like.hostname.clone()], paths, ..SnapshotSelection::default() };
    let mut snapshots = vault.list_snapshots()?.readable;
    snapshots.retain(|(_, snapshot)| filter.matches(snapshot) && snapshot.time <= like.time);
    let mut usual = Usual::default();
    for pair in snapshots.windows(2) {
        if let (Some(before), Some(after)) = (&pair[0].1.summary, &pair[1].1.summary) {
            let files = before.total_files_processed;
            let removed = (files + after.files_new).saturating_sub(after.total_files_processed);
            usual.add_share(after.files_changed + removed, files);
        }
    }
    Ok(usual)
}
