//! What has become of images between two snapshots: from the lists of their chunks and the index alone, without reading
//! any data.

use std::collections::HashMap;

use super::compare::ZeroBlobs;
use super::read::{Image, Piece};
use crate::suspicion::{ImageChanges, Texture, texture_of};
use crate::{BlobKind, Error, Id, Result, SnapshotId, Vault};

impl Vault {
    /// What has become of each image that both snapshots have under the same path.
    pub fn image_changes(&self, before: &SnapshotId, after: &SnapshotId) -> Result<Vec<ImageChanges>> {
        let (known, now) = (self.images(before)?, self.images(after)?);
        // Snapshots before the index: what a snapshot names was indexed before it was written.
        self.refresh_index()?;
        let mut all = Vec::new();
        for after in now {
            let Some(before) = known.iter().find(|image| image.path == after.path) else { continue };
            if before.description.segment_bytes == after.description.segment_bytes {
                all.push(compare(self, &Image::of(self, before.clone())?, &Image::of(self, after)?)?);
            }
        }
        Ok(all)
    }
}

fn compare(vault: &Vault, before: &Image, after: &Image) -> Result<ImageChanges> {
    let changes = ImageChanges { path: after.path().to_path_buf(), ..ImageChanges::default() };
    let mut comparison = Comparison { vault, zeros: ZeroBlobs::new(), changes };
    let mut unchanged: Vec<(u64, Id)> = Vec::new();
    for (number, (old, new)) in (0..).zip(before.segment_trees().iter().zip(after.segment_trees())) {
        if old == new {
            unchanged.push((number, *old));
        } else if let (Some(old), Some(new)) = (pieces_of(before, number)?, pieces_of(after, number)?) {
            comparison.segment(&old, &new)?;
        }
    }
    if comparison.changes.may_be_suspicious() {
        // Empty segments are all one tree.
        let mut occupied_by_tree: HashMap<Id, u64> = HashMap::new();
        for (number, tree) in unchanged {
            let occupied = match occupied_by_tree.get(&tree) {
                Some(occupied) => *occupied,
                None => pieces_of(before, number)?.map_or(0, |pieces| comparison.occupied(&pieces)),
            };
            occupied_by_tree.insert(tree, occupied);
            comparison.changes.occupied_bytes += occupied;
        }
    }
    Ok(comparison.changes)
}

/// `None` for a segment that can't be restored; that is for others to say.
fn pieces_of(image: &Image, number: u64) -> Result<Option<Vec<Piece>>> {
    match image.pieces(number) {
        Ok(pieces) => Ok(Some(pieces)),
        Err(Error::MissingBlob { .. } | Error::DamagedImage { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

struct Comparison<'a> {
    vault: &'a Vault,
    zeros: ZeroBlobs,
    changes: ImageChanges,
}

impl Comparison<'_> {
    fn occupied(&mut self, pieces: &[Piece]) -> u64 {
        self.zeros.learn(pieces);
        pieces.iter().filter(|piece| !self.zeros.contain(piece)).map(|piece| piece.length).sum()
    }

    /// Holds the chunks of one segment against those that are in the same places now. Those of zeros may be longer than
    /// others, so that they need not lie side by side.
    fn segment(&mut self, before: &[Piece], after: &[Piece]) -> Result<()> {
        self.changes.occupied_bytes += self.occupied(before);
        self.zeros.learn(after);
        for old in before.iter().filter(|piece| !self.zeros.contain(piece)) {
            let end = old.offset + old.length;
            let first = after.partition_point(|new| new.offset + new.length <= old.offset);
            for new in after[first..].iter().take_while(|new| new.offset < end) {
                let is_same = new.id == old.id && new.offset == old.offset;
                if is_same || self.zeros.contain(new) {
                    continue;
                }
                let bytes = end.min(new.offset + new.length) - old.offset.max(new.offset);
                let stored = self.stored_bytes(new)?;
                self.changes.overwritten_bytes += bytes;
                self.changes.overwritten_stored_bytes += bytes * stored / new.length.max(1);
                if texture_of(new.length, stored) == Texture::Noise {
                    self.changes.overwritten_incompressible_bytes += bytes;
                    if texture_of(old.length, self.stored_bytes(old)?) == Texture::Compressible {
                        self.changes.scrambled_bytes += bytes;
                    }
                }
            }
        }
        Ok(())
    }

    /// What a chunk takes in the vault, sealing aside.
    fn stored_bytes(&self, piece: &Piece) -> Result<u64> {
        let blob = self.vault.blob_location(BlobKind::Data, &piece.id)?.blob;
        Ok(u64::from(blob.length).saturating_sub(crate::crypto::OVERHEAD as u64))
    }
}
