use std::collections::VecDeque;
use std::sync::Arc;

use crate::{Id, Tree};

/// So many directories are gone through side by side as a rule. Each may take hundreds of megabytes.
const TREES_MAX: usize = 2;

/// Directories that are too large for the vault to keep: the kernel asks for their entries one after the other, and reading
/// a whole one for each would make looking at all of them take for ever. The one asked for last stands first.
#[derive(Default)]
pub(super) struct LargeTrees(VecDeque<(Id, Arc<Tree>)>);

impl LargeTrees {
    pub fn get(&mut self, id: &Id) -> Option<Arc<Tree>> {
        let position = self.0.iter().position(|(known, _)| known == id)?;
        let found = self.0.remove(position)?;
        let tree = found.1.clone();
        self.0.push_front(found);
        Some(tree)
    }

    pub fn insert(&mut self, id: Id, tree: Arc<Tree>) {
        self.0.retain(|(known, _)| *known != id);
        self.0.push_front((id, tree));
        self.0.truncate(TREES_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_asked_for_last_are_kept() {
        let mut trees = LargeTrees::default();
        let id = |number| Id::from_bytes([number; 32]);
        for number in [1, 2, 2] {
            trees.insert(id(number), Arc::default());
        }
        assert!(trees.get(&id(1)).is_some());
        trees.insert(id(3), Arc::default());
        let known = |trees: &mut LargeTrees| [1, 2, 3].map(|number| trees.get(&id(number)).is_some());
        assert_eq!(known(&mut trees), [true, false, true]);
    }
}
