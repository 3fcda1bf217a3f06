//! How the snapshots of an app are told apart in its repository.

use levee_model::{AppName, AssetName, Epoch};
use levee_vault::{Snapshot, SnapshotId, SnapshotSelection, Vault};

/// How the tag of a folder's snapshots begins.
pub const FILES: &str = "levee-files:";

/// The tag of a folder's snapshots.
pub fn files(app: &AppName, asset: &AssetName) -> String {
    format!("{FILES}{app}/{asset}")
}

/// The tag of what is copied of a database's journal to a further vault.
pub fn log(app: &AppName, asset: &AssetName) -> String {
    format!("levee-log:{app}/{asset}")
}

/// The snapshots of a repository that have a tag. What can't be read is said by whoever looks after the copies.
pub fn snapshots(vault: &Vault, tag: &str) -> levee_vault::Result<Vec<(SnapshotId, Snapshot)>> {
    let filter = SnapshotSelection { tag_lists: vec![vec![tag.into()]], ..SnapshotSelection::default() };
    Ok(vault.list_snapshots()?.readable.into_iter().filter(|(_, snapshot)| filter.matches(snapshot)).collect())
}

/// The tag of a snapshot that lacks what could not be read at the source. Behind it stands how many files that were.
pub const INCOMPLETE: &str = "levee-incomplete";

/// How many files a snapshot lacks, as its tags say.
pub fn lacking(tags: &[String]) -> Option<u64> {
    tags.iter().find_map(|tag| tag.strip_prefix(INCOMPLETE)?.strip_prefix(':')?.parse().ok())
}

const EPOCH: &str = "levee-epoch:";

/// The tag of the epoch at which a snapshot was taken.
pub fn epoch(epoch: Epoch) -> String {
    format!("{EPOCH}{epoch}")
}

/// The epoch in a snapshot's tags; 0, which no writer has, when there is none.
pub fn epoch_of(tags: &[String]) -> Epoch {
    let epoch = tags.iter().find_map(|tag| tag.strip_prefix(EPOCH)?.parse().ok());
    Epoch(epoch.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_snapshot_lacks_stands_in_its_tags() {
        let check = |tags: &[&str], expected: Option<u64>| {
            let tags: Vec<String> = tags.iter().map(|tag| tag.to_string()).collect();
            assert_eq!(lacking(&tags), expected, "{tags:?}");
        };
        check(&["levee-files:shop/documents", "levee-epoch:3"], None);
        check(&["levee-files:shop/documents", "levee-epoch:3", "levee-incomplete:12"], Some(12));
        // Not of Levee's making.
        check(&["levee-incomplete"], None);
        check(&["levee-incomplete:many"], None);
        check(&["levee-incompletely:1"], None);
    }
}
