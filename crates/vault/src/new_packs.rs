//! Writing sealed blobs of a repository into new packs of the same repository.

use levee_store::FileType;

use crate::index_file::{self, BLOBS_PER_FILE, Packs};
use crate::pack::PackWriter;
use crate::{BlobKind, Id, Result, Vault};

/// A blob as it will stand in a new pack: sealed with the same key, so that it is taken over as it is.
pub(crate) struct Taken {
    pub kind: BlobKind,
    pub id: Id,
    pub sealed: Vec<u8>,
    pub uncompressed_length: u32,
}

/// Collects blobs into packs, data and trees apart, and packs into index files.
pub(crate) struct NewPacks<'a> {
    vault: &'a Vault,
    data: PackWriter,
    trees: PackWriter,
    unindexed: Packs,
    unindexed_blobs: usize,
    index_files: Vec<Id>,
}

impl<'a> NewPacks<'a> {
    pub fn new(vault: &'a Vault) -> Self {
        let empty = || PackWriter::new(Vec::new());
        Self {
            vault,
            data: empty(),
            trees: empty(),
            unindexed: Vec::new(),
            unindexed_blobs: 0,
            index_files: Vec::new(),
        }
    }

    pub fn add(&mut self, blob: &Taken) -> Result<()> {
        let writer = if blob.kind == BlobKind::Tree { &mut self.trees } else { &mut self.data };
        writer.add(blob.kind, blob.id, &blob.sealed, blob.uncompressed_length);
        if writer.is_full() {
            let full = std::mem::replace(writer, PackWriter::new(Vec::new()));
            self.store(full)?;
        }
        Ok(())
    }

    fn store(&mut self, writer: PackWriter) -> Result<()> {
        if writer.is_empty() {
            return Ok(());
        }
        let pack = writer.finish(self.vault.key())?;
        self.vault.store().write(FileType::Data, &pack.id.to_hex(), &pack.content)?;
        self.unindexed_blobs += pack.blobs.len();
        self.unindexed.push((pack.id, pack.blobs));
        if self.unindexed_blobs >= BLOBS_PER_FILE { self.write_index() } else { Ok(()) }
    }

    fn write_index(&mut self) -> Result<()> {
        let packs = std::mem::take(&mut self.unindexed);
        self.unindexed_blobs = 0;
        self.index_files.push(self.vault.write_file_json(FileType::Index, &index_file::encode(&packs)?)?);
        Ok(())
    }

    /// Stores what is left, and gives the names of the index files.
    pub fn finish(mut self) -> Result<Vec<Id>> {
        let empty = || PackWriter::new(Vec::new());
        let (data, trees) = (std::mem::replace(&mut self.data, empty()), std::mem::replace(&mut self.trees, empty()));
        self.store(data)?;
        self.store(trees)?;
        if !self.unindexed.is_empty() {
            self.write_index()?;
        }
        Ok(self.index_files)
    }
}
