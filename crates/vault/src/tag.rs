//! Changing the tags of snapshots.

use std::time::Duration;

use levee_store::FileType;

use crate::vault::{set_id, set_tags};
use crate::{Lock, LockMode, Result, SnapshotId, SnapshotSelection, Vault};

/// How tags change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TagChange {
    /// In place of all that were there.
    Set(Vec<String>),
    /// Some more, some fewer.
    Edit { add: Vec<String>, remove: Vec<String> },
}

impl TagChange {
    fn apply(&self, tags: &[String]) -> Vec<String> {
        let mut new: Vec<String> = Vec::new();
        let (kept, added) = match self {
            TagChange::Set(set) => (Vec::new(), set),
            TagChange::Edit { add, remove } => (tags.iter().filter(|tag| !remove.contains(tag)).collect(), add),
        };
        for tag in kept.into_iter().chain(added) {
            if !new.contains(tag) {
                new.push(tag.clone());
            }
        }
        new
    }
}

/// Which tags to change, and how.
#[derive(Clone, Debug)]
pub struct TagOptions {
    pub selection: SnapshotSelection,
    pub change: TagChange,
    /// How long to wait for others' locks.
    pub patience: Duration,
    /// Only say what would be done.
    pub dry_run: bool,
}

impl TagOptions {
    /// On all snapshots, at once or not at all.
    pub fn new(change: TagChange) -> Self {
        Self { selection: SnapshotSelection::default(), change, patience: Duration::ZERO, dry_run: false }
    }
}

/// A snapshot, and the one that stands in its place now; `new` is `None` in a dry run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replaced {
    pub old: SnapshotId,
    pub new: Option<SnapshotId>,
}

/// Changes the tags of the chosen snapshots; `changed` hears of each as it is done. A snapshot never
/// changes: a new one takes its place, and says which one it was at first.
pub fn tag(vault: &Vault, options: &TagOptions, mut changed: impl FnMut(Replaced)) -> Result<usize> {
    let lock = match options.dry_run {
        true => None,
        false => Some(Lock::take_within(vault, LockMode::Exclusive, options.patience)?),
    };
    let mut count = 0;
    for (old, snapshot) in vault.select(&options.selection)? {
        let tags = options.change.apply(&snapshot.tags);
        // One that is still listed after it was forgotten must not come to life again under another name.
        if tags == snapshot.tags || !vault.is_stored(FileType::Snapshot, &old.0)? {
            continue;
        }
        count += 1;
        let Some(lock) = &lock else {
            changed(Replaced { old, new: None });
            continue;
        };
        let mut fields = vault.snapshot_fields(&old)?;
        set_tags(&mut fields, &tags);
        set_id(&mut fields, "original", snapshot.original.unwrap_or(old.0));
        lock.check()?;
        let new = vault.write_snapshot_fields(&fields)?;
        vault.remove_snapshot(&old)?;
        changed(Replaced { old, new: Some(new) });
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_set_added_and_removed() {
        let list = |text: &str| text.split_whitespace().map(String::from).collect::<Vec<_>>();
        let check = |change: TagChange, before: &str, after: &str| {
            assert_eq!(change.apply(&list(before)), list(after), "{change:?}");
        };
        check(TagChange::Set(list("x y x")), "a b", "x y");
        check(TagChange::Set(Vec::new()), "a b", "");
        check(TagChange::Edit { add: list("c a"), remove: list("b") }, "a b", "a c");
        check(TagChange::Edit { add: Vec::new(), remove: list("none") }, "a b", "a b");
    }
}
