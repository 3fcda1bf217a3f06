//! What the writer of this process says of its open tail, so that readers beside it need not read the
//! whole tail through to find its end.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::tail::DurableEnd;

/// The open tail of the writer that was opened on this journal, or on a clone of it; empty when there
/// is none, or when it has failed and only the disk can tell.
#[derive(Debug, Default)]
pub(crate) struct Live {
    /// Replaced as a whole: a reader sees a tail with the end that belongs to it.
    tail: Mutex<Option<(PathBuf, DurableEnd)>>,
}

impl Live {
    /// A tail has become the open one.
    pub(crate) fn enter(&self, path: &Path, end: DurableEnd) {
        *self.tail.lock().unwrap_or_else(PoisonError::into_inner) = Some((path.to_path_buf(), end));
    }

    /// The open tail has become durable up to here. Only to be called when it has.
    pub(crate) fn advance(&self, end: DurableEnd) {
        if let Some((_, known)) = &mut *self.tail.lock().unwrap_or_else(PoisonError::into_inner) {
            *known = end;
        }
    }

    pub(crate) fn leave(&self) {
        *self.tail.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The durable end of this tail, when it is the open one.
    pub(crate) fn end_of(&self, path: &Path) -> Option<DurableEnd> {
        match &*self.tail.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((open, end)) if open == path => Some(*end),
            _ => None,
        }
    }
}
