use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::Id;

/// Plaintext of blobs that is kept for the next read of the same file.
const BYTES_MAX: usize = 64 << 20;

/// Blobs that were read lately. The oldest go first.
#[derive(Default)]
pub(crate) struct BlobCache {
    blobs: HashMap<Id, Arc<Vec<u8>>>,
    order: VecDeque<Id>,
    bytes: usize,
}

impl BlobCache {
    pub fn get(&self, id: &Id) -> Option<Arc<Vec<u8>>> {
        self.blobs.get(id).cloned()
    }

    pub fn insert(&mut self, id: Id, blob: Arc<Vec<u8>>) {
        if self.blobs.contains_key(&id) {
            return;
        }
        self.bytes += blob.len();
        self.blobs.insert(id, blob);
        self.order.push_back(id);
        while self.bytes > BYTES_MAX && self.order.len() > 1 {
            let Some(oldest) = self.order.pop_front() else { break };
            self.bytes -= self.blobs.remove(&oldest).map_or(0, |blob| blob.len());
        }
    }
}
