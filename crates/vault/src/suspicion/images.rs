//! The same for disk images, in which no files are to be seen: how much of what an image held is noise now, against what
//! earlier backups of it have brought.

use std::path::PathBuf;

use super::{REWRITTEN_SHARE, SUSPICIOUS_SHARE, Sign, UNUSUAL_TIMES, Usual, share};
use crate::{Snapshot, SnapshotId, SnapshotSummary};

/// What has become of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageChanges {
    /// Where it is in the snapshot.
    pub path: PathBuf,
    /// What was there before and not zeros. Segments that have not changed are left out where nothing in the others is
    /// suspicious: with them it would be even less so.
    pub occupied_bytes: u64,
    /// What was there before, and was written over with something else than zeros.
    pub overwritten_bytes: u64,
    /// What that takes in the vault now.
    pub overwritten_stored_bytes: u64,
    /// What of it can't be compressed, whatever was there before.
    pub overwritten_incompressible_bytes: u64,
    /// What of it could be compressed before, and can't be now.
    pub scrambled_bytes: u64,
}

impl ImageChanges {
    /// Less than this is nobody's work but a person's.
    pub const BYTES_MIN: u64 = 4 << 20;

    /// Whether a sign is possible, so that the rest of the image is worth counting.
    pub(crate) fn may_be_suspicious(&self) -> bool {
        self.is_much(self.overwritten_incompressible_bytes, SUSPICIOUS_SHARE)
    }

    fn is_much(&self, bytes: u64, least: f64) -> bool {
        bytes >= Self::BYTES_MIN && share(bytes, self.occupied_bytes) >= least
    }

    /// The share that compression saves of what was written.
    fn saved(&self) -> f64 {
        1.0 - share(self.overwritten_stored_bytes, self.overwritten_bytes)
    }
}

/// What is usual for the images of a source: what its earlier backups say of the data that were new to the vault.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImageUsual {
    /// How much each brought, of all images together: no image can have changed by more.
    pub added_bytes: Vec<u64>,
    /// The share that compression saved of it.
    pub saved_shares: Vec<f64>,
}

impl ImageUsual {
    /// What is new in a smaller one are lists of chunks for the most part.
    const ADDED_BYTES_MIN: u64 = 1 << 20;

    /// From the earlier snapshots of a source, the oldest first.
    pub fn of(snapshots: &[(SnapshotId, Snapshot)]) -> Self {
        let recent = &snapshots[snapshots.len().saturating_sub(Usual::LOOKS_MAX + 1)..];
        let summaries: Vec<&SnapshotSummary> =
            recent.iter().filter_map(|(_, snapshot)| snapshot.summary.as_ref()).collect();
        // The oldest brought all that it has, and so did one in which an image is new.
        let changes = summaries.iter().skip(1).filter(|summary| summary.files_new == 0);
        let known = summaries.iter().filter(|summary| summary.data_added >= Self::ADDED_BYTES_MIN);
        Self {
            added_bytes: changes.map(|summary| summary.data_added).collect(),
            saved_shares: known.map(|summary| 1.0 - share(summary.data_added_packed, summary.data_added)).collect(),
        }
    }

    fn is_known(&self) -> bool {
        self.added_bytes.len() >= Usual::LOOKS_MIN
    }

    /// Whether far more was written over than a backup has ever brought.
    fn is_far_more(&self, changes: &ImageChanges) -> bool {
        let most = self.added_bytes.iter().copied().max().unwrap_or(0);
        changes.overwritten_bytes as f64 > UNUSUAL_TIMES * most as f64
    }

    /// Whether what is new could always be compressed, and can't be now.
    fn is_far_denser(&self, changes: &ImageChanges) -> bool {
        let least_saved = self.saved_shares.iter().copied().fold(1.0, f64::min);
        let could_be = !self.saved_shares.is_empty() && least_saved >= COMPRESSIBLE_SAVES;
        could_be && changes.saved() * UNUSUAL_TIMES < least_saved
    }
}

/// Data of which compression saves less say nothing when they become noise.
const COMPRESSIBLE_SAVES: f64 = 0.1;
/// As long as nothing is known of an image, less of it that has become noise is no sign: compressed files where others were
/// deleted look the same.
const SCRAMBLED_SHARE_UNKNOWN: f64 = 0.3;

/// The signs of ransomware in what has become of an image. Ordinary work gives none: updates, new photos, a disk that is
/// encrypted anyway.
pub fn judge_image(changes: &ImageChanges, usual: &ImageUsual) -> Vec<Sign> {
    let (image, of) = (changes.path.display().to_string(), changes.occupied_bytes);
    let far_more = usual.is_known() && usual.is_far_more(changes);
    let (least, is_unusual) = match usual.is_known() {
        true => (SUSPICIOUS_SHARE, far_more || usual.is_far_denser(changes)),
        false => (SCRAMBLED_SHARE_UNKNOWN, true),
    };
    if is_unusual && changes.is_much(changes.scrambled_bytes, least) {
        return vec![Sign::ImageScrambled { image, bytes: changes.scrambled_bytes, of }];
    }
    let noise = changes.overwritten_incompressible_bytes;
    if far_more && changes.is_much(noise, REWRITTEN_SHARE) {
        return vec![Sign::ImageRewritten { image, bytes: noise, of }];
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Of a disk with 1000 MiB: so many were written over, so many of them are noise, and so many of these were none before.
    fn changes(overwritten_mib: u64, noise_mib: u64, scrambled_mib: u64) -> ImageChanges {
        ImageChanges {
            path: "/vm/disk.raw".into(),
            occupied_bytes: 1000 * MIB,
            overwritten_bytes: overwritten_mib * MIB,
            overwritten_stored_bytes: (noise_mib + (overwritten_mib - noise_mib) / 3) * MIB,
            overwritten_incompressible_bytes: noise_mib * MIB,
            scrambled_bytes: scrambled_mib * MIB,
        }
    }

    fn usual(added_mib: &[u64], saved_shares: &[f64]) -> ImageUsual {
        let added_bytes = added_mib.iter().map(|added| added * MIB).collect();
        ImageUsual { added_bytes, saved_shares: saved_shares.to_vec() }
    }

    fn check(what: &str, changes: &ImageChanges, usual: &ImageUsual, expected: Option<&str>) {
        let signs = judge_image(changes, usual);
        let found: Vec<String> = signs.iter().map(Sign::to_string).collect();
        assert_eq!(found.len(), usize::from(expected.is_some()), "{what}: {found:?}");
        assert!(expected.is_none_or(|expected| found[0].contains(expected)), "{what}: {found:?}");
    }

    #[test]
    fn ordinary_work_in_an_image_gives_no_sign() {
        let (quiet, unknown) = (usual(&[20, 30, 10], &[0.5, 0.6, 0.4]), ImageUsual::default());
        check("nothing", &changes(0, 0, 0), &quiet, None);
        check("updates", &changes(80, 20, 10), &quiet, None);
        check("an archive where a database was", &changes(80, 80, 80), &quiet, None);
        check("the same, and nothing is known", &changes(250, 250, 250), &unknown, None);
        let photos = usual(&[300, 200, 250], &[0.01, 0.0, 0.02]);
        check("photos replace what was deleted, as always", &changes(300, 300, 200), &photos, None);
        check("an encrypted disk", &changes(300, 300, 0), &usual(&[100, 300, 150], &[0.0, 0.0, 0.0]), None);
        check("an encrypted disk of which nothing is known", &changes(900, 900, 0), &unknown, None);
        let small = ImageChanges { occupied_bytes: 3 * MIB, ..changes(3, 3, 3) };
        check("a disk that is all but empty", &small, &unknown, None);
    }

    #[test]
    fn ransomware_in_an_image_gives_a_sign() {
        let quiet = usual(&[20, 30, 10], &[0.5, 0.6, 0.4]);
        let noise = "of 1000 MiB of image /vm/disk.raw could be compressed before and hold noise now";
        check("half of it", &changes(500, 500, 450), &quiet, Some(noise));
        check("and nothing is known", &changes(500, 500, 450), &ImageUsual::default(), Some(noise));
        check("a part, at a source that is quiet", &changes(150, 150, 140), &quiet, Some(noise));
        let busy = usual(&[400, 300, 350], &[0.5, 0.6, 0.4]);
        check("a part, among much that is usual", &changes(300, 300, 290), &busy, Some(noise));
        check("a disk of photos", &changes(800, 800, 20), &quiet, Some("far more than is usual here"));
    }
}
