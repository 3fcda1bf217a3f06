//! Whether what has changed between two snapshots looks like ransomware at work.
//!
//! `Vault::changes`, and `Vault::image_changes` for disk images, gather figures from the trees and the index alone: from
//! what is stored, not from what the writer says of it, and without reading any data. `judge` and `judge_image` decide on
//! them, and know nothing of vaults.

mod figures;
mod images;

use std::fmt;

use serde::{Deserialize, Serialize};

pub(crate) use figures::{Texture, texture_of};
pub use images::{ImageChanges, ImageUsual, judge_image};

/// What has happened to the files of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    pub files_before: u64,
    /// Neither moved nor renamed from elsewhere.
    pub files_new: u64,
    pub files_changed: u64,
    /// Gone, and neither moved nor renamed.
    pub files_removed: u64,
    /// Gone, with a file in the same directory that has the name and one ending more, or the name and another ending.
    pub files_renamed: u64,
    /// Changed or renamed files whose data could be compressed before, and can't be now.
    pub files_scrambled: u64,
    /// The new ending that most of the renamed and new files have, and how many of them have it.
    pub ending: Option<(String, u64)>,
    /// Of the files with that ending, those whose data can't be compressed.
    pub ending_incompressible: u64,
    /// Changed files whose data can't be compressed, whatever they were before.
    pub changed_incompressible: u64,
}

/// What is usual for a source: the shares of its files that changed from one look to the next, before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usual {
    pub touched_shares: Vec<f64>,
}

impl Usual {
    /// How far back the history goes: a month of days.
    const LOOKS_MAX: usize = 30;
    /// With fewer nothing is usual.
    const LOOKS_MIN: usize = 3;

    pub fn add(&mut self, changes: &Changes) {
        self.add_share(changes.files_changed + changes.files_renamed + changes.files_removed, changes.files_before);
    }

    /// So many files of so many changed or were gone, from one look to the next.
    pub fn add_share(&mut self, touched: u64, of: u64) {
        self.touched_shares.push(share(touched, of));
        let surplus = self.touched_shares.len().saturating_sub(Self::LOOKS_MAX);
        self.touched_shares.drain(..surplus);
    }

    /// The most that was ever seen; `None` while too little was seen.
    fn most(&self) -> Option<f64> {
        let enough = self.touched_shares.len() >= Self::LOOKS_MIN;
        enough.then(|| self.touched_shares.iter().copied().fold(0.0, f64::max))
    }
}

/// One thing that ransomware does and people seldom do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "sign", rename_all = "snake_case")]
pub enum Sign {
    /// Files that could be compressed hold noise now.
    Scrambled { files: u64, of: u64 },
    /// Files have got an ending that they did not have, and hold noise.
    Renamed { ending: String, files: u64, of: u64 },
    /// Far more files than ever before were written over, with noise.
    Rewritten { files: u64, of: u64 },
    /// Nearly everything is gone.
    Deleted { files: u64, of: u64 },
    /// What could be compressed in a disk image is noise now.
    ImageScrambled { image: String, bytes: u64, of: u64 },
    /// Far more of a disk image than ever before was written over, with noise.
    ImageRewritten { image: String, bytes: u64, of: u64 },
}

impl fmt::Display for Sign {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sign::Scrambled { files, of } => {
                write!(formatter, "{files} of {of} files could be compressed before and hold noise now")
            }
            Sign::Renamed { ending, files, of } => {
                write!(formatter, "{files} of {of} files have become .{ending} and hold noise")
            }
            Sign::Rewritten { files, of } => {
                write!(formatter, "{files} of {of} files were written over with noise, far more than is usual here")
            }
            Sign::Deleted { files, of } => write!(formatter, "{files} of {of} files are gone"),
            Sign::ImageScrambled { image, bytes, of } => {
                let (part, whole) = (bytes >> 20, of >> 20);
                write!(
                    formatter,
                    "{part} of {whole} MiB of image {image} could be compressed before and hold noise now"
                )
            }
            Sign::ImageRewritten { image, bytes, of } => {
                let (part, whole) = (bytes >> 20, of >> 20);
                write!(
                    formatter,
                    "{part} of {whole} MiB of image {image} were written over with noise, far more than is usual here"
                )
            }
        }
    }
}

/// Fewer files than this are nobody's work but a person's.
const FILES_MIN: u64 = 20;
/// The share of all files from which on a change of that kind is suspicious.
const SUSPICIOUS_SHARE: f64 = 0.1;
const REWRITTEN_SHARE: f64 = 0.5;
/// So many times the most that was ever seen.
const UNUSUAL_TIMES: f64 = 3.0;
const DELETED_SHARE: f64 = 0.8;
const DELETED_FILES_MIN: u64 = 100;

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// The signs of ransomware in what has changed. Ordinary work gives none: a checkout, a build, new photos, compressed
/// logs.
pub fn judge(changes: &Changes, usual: &Usual) -> Vec<Sign> {
    let of = changes.files_before;
    let is_much = |files: u64| files >= FILES_MIN && share(files, of) >= SUSPICIOUS_SHARE;
    let mut signs = Vec::new();
    if is_much(changes.files_scrambled) {
        signs.push(Sign::Scrambled { files: changes.files_scrambled, of });
    }
    if let Some((ending, files)) = &changes.ending {
        let noise = changes.ending_incompressible;
        let originals_gone = changes.files_renamed + changes.files_removed >= *files / 2;
        if is_much(noise) && noise >= *files / 10 * 9 && originals_gone && !is_of_compressed_files(ending) {
            signs.push(Sign::Renamed { ending: ending.clone(), files: noise, of });
        }
    }
    let rewritten = changes.changed_incompressible;
    let unusual = usual.most().is_some_and(|most| share(rewritten, of) > UNUSUAL_TIMES * most);
    if rewritten >= FILES_MIN && share(rewritten, of) >= REWRITTEN_SHARE && unusual && signs.is_empty() {
        signs.push(Sign::Rewritten { files: rewritten, of });
    }
    if changes.files_removed >= DELETED_FILES_MIN && share(changes.files_removed, of) >= DELETED_SHARE {
        signs.push(Sign::Deleted { files: changes.files_removed, of });
    }
    signs
}

/// Endings of files that hold noise by their nature: compressing a folder's logs is ordinary.
fn is_of_compressed_files(ending: &str) -> bool {
    const ENDINGS: [&str; 24] = [
        "gz", "tgz", "xz", "zst", "bz2", "br", "lz4", "lzma", "zip", "7z", "rar", "jpg", "jpeg", "png", "webp", "heic",
        "mp3", "mp4", "mkv", "mov", "flac", "ogg", "pdf", "docx",
    ];
    ENDINGS.contains(&ending.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(what: &str, changes: Changes, usual: &[f64], signs: usize) {
        let usual = Usual { touched_shares: usual.to_vec() };
        assert_eq!(judge(&changes, &usual).len(), signs, "{what}");
    }

    fn of(files_before: u64) -> Changes {
        Changes { files_before, ..Changes::default() }
    }

    #[test]
    fn ordinary_work_gives_no_sign() {
        check("nothing", of(1000), &[], 0);
        check("a checkout", Changes { files_new: 300, files_changed: 700, files_removed: 200, ..of(1000) }, &[], 0);
        let objects = Some(("o".to_string(), 5000));
        check("a build", Changes { files_new: 5000, ending: objects, ending_incompressible: 30, ..of(1000) }, &[], 0);
        let photos = Some(("cr3".to_string(), 900));
        check("photos", Changes { files_new: 900, ending: photos, ending_incompressible: 900, ..of(100) }, &[], 0);
        let logs =
            Changes { files_renamed: 500, ending: Some(("gz".into(), 500)), ending_incompressible: 500, ..of(600) };
        check("compressed logs", logs, &[], 0);
        let few = Changes { files_changed: 12, files_scrambled: 12, ..of(15) };
        check("somebody encrypts a few files", few, &[], 0);
        let some = Changes { files_changed: 50, files_scrambled: 50, ..of(1000) };
        check("a folder of keys among much else", some, &[], 0);
        let cache = Changes { files_changed: 900, changed_incompressible: 900, ..of(1000) };
        check("a cache that is always written over", cache.clone(), &[0.8, 0.9, 0.7], 0);
        check("a source of which nothing is known yet", cache, &[0.0, 0.0], 0);
        check("a small folder is emptied", Changes { files_removed: 90, ..of(90) }, &[], 0);
    }

    #[test]
    fn ransomware_gives_signs() {
        let in_place = Changes { files_changed: 400, files_scrambled: 390, changed_incompressible: 400, ..of(1000) };
        check("in place", in_place, &[], 1);
        let renamed = Changes {
            files_renamed: 400,
            files_scrambled: 380,
            ending: Some(("locked".into(), 400)),
            ending_incompressible: 400,
            ..of(1000)
        };
        check("with a new ending", renamed, &[], 2);
        let photos =
            Changes { files_renamed: 300, ending: Some(("xyz".into(), 300)), ending_incompressible: 300, ..of(300) };
        check("photos with a new ending", photos, &[], 1);
        let other_names = Changes {
            files_new: 300,
            files_removed: 300,
            ending: Some(("crypt".into(), 300)),
            ending_incompressible: 300,
            ..of(1000)
        };
        check("under other names", other_names, &[], 1);
        let photos = Changes { files_changed: 900, changed_incompressible: 900, ..of(1000) };
        check("photos in place", photos, &[0.01, 0.0, 0.05], 1);
        check("wiped", Changes { files_removed: 990, ..of(1000) }, &[], 1);
    }
}
