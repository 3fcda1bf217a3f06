use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::{Id, Tree};

/// How much of directories is kept, counted in bytes of their JSON (in memory they take about twice that). More than
/// is read at once when one of them is asked for.
const BYTES_MAX: usize = 12 << 20;

/// Directories that were read or written lately. The oldest go first.
#[derive(Default)]
pub(crate) struct TreeCache {
    trees: HashMap<Id, (Arc<Tree>, usize)>,
    order: VecDeque<Id>,
    bytes: usize,
}

impl TreeCache {
    pub fn get(&self, id: &Id) -> Option<Arc<Tree>> {
        self.trees.get(id).map(|(tree, _)| tree.clone())
    }

    pub fn contains(&self, id: &Id) -> bool {
        self.trees.contains_key(id)
    }

    pub fn insert(&mut self, id: Id, tree: Arc<Tree>, json_bytes: usize) {
        if json_bytes > BYTES_MAX || self.trees.contains_key(&id) {
            return;
        }
        self.bytes += json_bytes;
        self.trees.insert(id, (tree, json_bytes));
        self.order.push_back(id);
        while self.bytes > BYTES_MAX {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Some((_, bytes)) = self.trees.remove(&oldest) {
                self.bytes -= bytes;
            }
        }
    }
}
