//! The content of stored files as a stream.

use std::io::{self, Read, Write};

use crate::parallel::{compute_threads, parallel_map};
use crate::{BlobKind, Error, Id, Node, NodeKind, Result, SnapshotId, Vault};

/// So many blobs are fetched at once, and held in memory; 8 MiB each at most, 1 MiB or less as a rule.
const BLOBS_AHEAD: usize = 8;

/// Reads a file's blobs one after the other, a few ahead.
pub struct ContentReader<'a> {
    vault: &'a Vault,
    left: &'a [Id],
    ready: std::vec::IntoIter<Result<Vec<u8>>>,
    current: Vec<u8>,
    position: usize,
}

impl Vault {
    /// The content of a file; empty for anything else. A damaged blob ends it with an error.
    pub fn content<'a>(&'a self, node: &'a Node) -> ContentReader<'a> {
        let ready = Vec::new().into_iter();
        ContentReader { vault: self, left: node.blobs(), ready, current: Vec::new(), position: 0 }
    }

    /// How long a file's blobs are together, by the index.
    pub fn content_bytes(&self, node: &Node) -> Result<u64> {
        let length = |id| Ok(self.blob_location(BlobKind::Data, id)?.blob.plaintext_length());
        node.blobs().iter().map(length).try_fold(0_u64, |sum, length: Result<u64>| Ok(sum.saturating_add(length?)))
    }

    /// Writes a file's content somewhere.
    pub fn copy_content(&self, node: &Node, out: &mut dyn Write) -> Result<u64> {
        io::copy(&mut self.content(node), out).map_err(output_error)
    }

    /// The tree of a directory in a snapshot; the root for an empty path or `/`.
    pub fn directory_tree(&self, snapshot: &SnapshotId, folder: &std::path::Path) -> Result<Id> {
        match self.find_node(snapshot, folder)? {
            None => self.root_of(snapshot),
            Some(Node { subtree: Some(subtree), kind: NodeKind::Dir, .. }) => Ok(subtree),
            Some(_) => {
                let path = folder.to_path_buf();
                Err(Error::WrongNodeKind { snapshot: snapshot.short(), path, wanted: "directory" })
            }
        }
    }
}

/// The vault's own error where there is one inside.
pub(crate) fn output_error(error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(source) => Error::System { action: "write the output", source },
    }
}

impl Read for ContentReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.position == self.current.len() {
            if self.ready.len() == 0 {
                let (now, later) = self.left.split_at(self.left.len().min(BLOBS_AHEAD));
                self.left = later;
                let read = |id: &Id| self.vault.read_blob(BlobKind::Data, id);
                self.ready = parallel_map(compute_threads(), now, read).into_iter();
            }
            let Some(blob) = self.ready.next() else { return Ok(0) };
            self.current = blob.map_err(io::Error::other)?;
            self.position = 0;
        }
        let count = buffer.len().min(self.current.len() - self.position);
        buffer[..count].copy_from_slice(&self.current[self.position..self.position + count]);
        self.position += count;
        Ok(count)
    }
}
