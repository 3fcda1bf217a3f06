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
            // A name above the snapshots may stand for another one by now. With the old number the kernel would go on
            // showing what it remembers of the old one, for as long as snapshots may be remembered.
            && known.item == item
        {
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
            let name = (known.parent, known.name);
            // By now the name may have another number.
            if self.by_name.get(&name) == Some(&number) {
                self.by_name.remove(&name);
            }
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

    #[test]
    fn a_name_that_stands_for_another_snapshot_gets_another_number() {
        let mut inodes = Inodes::new();
        let snapshot = |number| Item::Snapshot(SnapshotId(Id::from_bytes([number; 32])));
        let time = OsStr::new("2026-11-20T12:00:00+00:00");
        let old = inodes.look_up(ROOT, time, snapshot(1));
        let inside = inodes.look_up(old, OsStr::new("etc"), Item::Link("old".into()));
        // One of the same second that came later pushes it to another name.
        let new = inodes.look_up(ROOT, time, snapshot(2));
        assert_ne!(new, old);
        assert_eq!((inodes.item(old), inodes.item(new)), (Some(snapshot(1)), Some(snapshot(2))));
        assert_ne!(inodes.look_up(new, OsStr::new("etc"), Item::Link("new".into())), inside);
        // Who is still in the old one sees what was there, and what the kernel forgets of it leaves the new one alone.
        assert_eq!(inodes.item(inside), Some(Item::Link("old".into())));
        inodes.forget(old, 1);
        assert_eq!((inodes.item(old), inodes.look_up(ROOT, time, snapshot(2))), (None, new));
    }
}
