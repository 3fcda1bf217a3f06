//! The numbers by which the kernel knows what it has looked up.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};

use crate::{Id, SnapshotId};

/// What a number stands for. Small, since there may be millions: trees are found by id when needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// A directory above the snapshots, by its path in the layout.
    Above(String),
    Link(String),
    Snapshot(SnapshotId),
    /// An entry of a tree.
    Node {
        tree: Id,
        name: OsString,
    },
}

struct Known {
    item: Item,
    parent: u64,
    name: OsString,
    /// How often the kernel was told the number, less how often it has forgotten it.
    lookups: u64,
}

pub(super) const ROOT: u64 = 1;

/// All numbers that the kernel may use.
pub(super) struct Inodes {
    known: HashMap<u64, Known>,
    by_name: HashMap<(u64, OsString), u64>,
    next: u64,
}

impl Inodes {
    pub fn new() -> Self {
        let root = Known { item: Item::Above(String::new()), parent: ROOT, name: OsString::new(), lookups: 1 };
        Self { known: HashMap::from([(ROOT, root)]), by_name: HashMap::new(), next: ROOT + 1 }
    }

    pub fn item(&self, number: u64) -> Option<Item> {
        self.known.get(&number).map(|known| known.item.clone())
    }

    pub fn parent(&self, number: u64) -> u64 {
        self.known.get(&number).map_or(ROOT, |known| known.parent)
    }

    /// The number of an entry, which the kernel will be told.
    pub fn look_up(&mut self, parent: u64, name: &OsStr, item: Item) -> u64 {
        let key = (parent, name.to_os_string());
        if let Some(number) = self.by_name.get(&key)
            && let Some(known) = self.known.get_mut(number)
        {
            // A name above the snapshots may stand for another one by now.
            known.item = item;
            known.lookups += 1;
            return *number;
        }
        let number = self.next;
        self.next += 1;
        self.by_name.insert(key, number);
        self.known.insert(number, Known { item, parent, name: name.to_os_string(), lookups: 1 });
        number
    }

    pub fn forget(&mut self, number: u64, lookups: u64) {
        let Some(known) = self.known.get_mut(&number).filter(|_| number != ROOT) else { return };
        known.lookups = known.lookups.saturating_sub(lookups);
        if known.lookups == 0
            && let Some(known) = self.known.remove(&number)
        {
            self.by_name.remove(&(known.parent, known.name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_forgets_is_forgotten() {
        let mut inodes = Inodes::new();
        let item = Item::Link("x".into());
        let first = inodes.look_up(ROOT, OsStr::new("a"), item.clone());
        assert_eq!(inodes.look_up(ROOT, OsStr::new("a"), item.clone()), first);
        inodes.forget(first, 1);
        assert_eq!(inodes.item(first), Some(item.clone()));
        inodes.forget(first, 1);
        assert_eq!(inodes.item(first), None);
        assert_ne!(inodes.look_up(ROOT, OsStr::new("a"), item), first);
        inodes.forget(ROOT, 100);
        assert!(inodes.item(ROOT).is_some());
        assert_eq!((inodes.known.len(), inodes.by_name.len()), (2, 1));
    }
}
