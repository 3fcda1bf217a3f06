//! Bringing an image back: only blocks that differ are written.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use levee_image::{Change, Format, SparseRead, Target, TargetState};

use super::compare::{self, Lacking, ZeroBlobs};
use super::read::{Image, Piece};
use crate::pack::PackedBlob;
use crate::pack_reader::read_blobs;
use crate::parallel::{compute_threads, parallel_map};
use crate::problem::{ProblemLog, with_sources};
use crate::{BlobKind, Error, Event, Id, ItemChange, Lock, LockMode, Problems, Progress, Result, SnapshotId, Vault};

/// Pieces of a target that one thread compares before it takes the next.
const PIECES_AT_ONCE: usize = 256;
/// Ranges of one segment that are named one by one: a disk that fails all over would fill the log.
const RANGES_NAMED_MAX: usize = 16;

/// Where an image goes, and how.
#[derive(Clone, Debug, Default)]
pub struct ImageRestoreOptions {
    /// A file or a block device. A file is made when it isn't there.
    pub target: PathBuf,
    /// Found out from what is there, or from the name, when it isn't given.
    pub format: Option<Format>,
    /// Read everything again in the end and compare.
    pub verify: bool,
    /// Look and compare, but change nothing.
    pub dry_run: bool,
    /// Take no lock, for repositories that cannot be written to.
    pub no_lock: bool,
}

/// How the restore of an image went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRestoreSummary {
    pub format: Format,
    pub size_bytes: u64,
    /// What differed. The rest was right already, or a hole.
    pub bytes_written: u64,
    /// What could not be restored, or did not read back right.
    pub errors: Problems,
}

struct Context<'a> {
    vault: &'a Vault,
    target: &'a Target,
    progress: &'a dyn Progress,
    problems: ProblemLog<'a>,
    bytes_written: AtomicU64,
    /// Blobs that the repository has lost: named already, and no fault of the target.
    lost: Mutex<HashSet<Id>>,
}

impl Context<'_> {
    fn is_lost(&self, id: &Id) -> bool {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }
}

/// Restores one image. Damage to the repository leaves out what it concerns and is said in the summary.
pub fn restore_image(
    vault: &Vault,
    snapshot: &SnapshotId,
    name: &Path,
    options: &ImageRestoreOptions,
    progress: &dyn Progress,
) -> Result<ImageRestoreSummary> {
    let lock = if options.no_lock { None } else { Some(Lock::take(vault, LockMode::Shared)?) };
    let image = Image::open(vault, snapshot, name)?;
    let size_bytes = image.description().size_bytes;
    let change = if options.dry_run { Change::LookOnly } else { Change::Write };
    let target = Target::open(&options.target, options.format, size_bytes, change)?;
    progress.report(Event::Total { items: 1, bytes: size_bytes });
    let context = Context {
        vault,
        target: &target,
        progress,
        problems: ProblemLog::new(progress),
        bytes_written: AtomicU64::new(0),
        lost: Mutex::default(),
    };
    let mut zeros = ZeroBlobs::new();
    for number in 0..image.description().segments() {
        let pieces = image.pieces(number)?;
        zeros.learn(&pieces);
        let lacking = match target.state() {
            TargetState::Fresh => compare::of_fresh(&pieces, &zeros),
            TargetState::Old => {
                find_lacking(&pieces, &zeros, &target).map_err(|error| target_error(&context, error))?
            }
        };
        let right_already = image.description().segment_length(number).saturating_sub(lacking.bytes());
        progress.report(Event::Bytes(right_already));
        if options.dry_run {
            context.bytes_written.fetch_add(lacking.bytes(), Ordering::Relaxed);
            progress.report(Event::Bytes(lacking.bytes()));
        } else {
            write(&context, &lacking)?;
        }
    }
    if !options.dry_run {
        target.make_durable()?;
        if options.verify {
            verify(&context, &image, &mut zeros)?;
        }
    }
    progress.report(Event::Item { path: &options.target, change: ItemChange::Restored });
    drop(lock);
    Ok(ImageRestoreSummary {
        format: target.format(),
        size_bytes,
        bytes_written: context.bytes_written.load(Ordering::Relaxed),
        errors: context.problems.into_problems(),
    })
}

fn target_error(context: &Context<'_>, source: std::io::Error) -> Error {
    Error::Target { action: "read", path: context.target.path().to_path_buf(), source }
}

/// Compares on all cores: what is there is read and hashed.
pub(super) fn find_lacking(
    pieces: &[Piece],
    zeros: &ZeroBlobs,
    target: &(impl SparseRead + Sync),
) -> std::io::Result<Lacking> {
    let parts: Vec<&[Piece]> = pieces.chunks(PIECES_AT_ONCE).collect();
    let mut all = Lacking::default();
    for lacking in parallel_map(compute_threads(), &parts, |part| compare::with_target(part, zeros, target)) {
        all.append(lacking?);
    }
    Ok(all)
}

/// Blobs of one pack, each with all the places where it goes.
struct PackPart {
    pack: Id,
    blobs: Vec<PackedBlob>,
}

fn write(context: &Context<'_>, lacking: &Lacking) -> Result<()> {
    let failed = |source| Error::Target { action: "write", path: context.target.path().to_path_buf(), source };
    for (offset, length) in &lacking.zeros {
        context.target.write_zeros(*offset, *length).map_err(failed)?;
        context.bytes_written.fetch_add(*length, Ordering::Relaxed);
        context.progress.report(Event::Bytes(*length));
    }
    let mut places: HashMap<Id, Vec<Piece>> = HashMap::new();
    let mut packs: HashMap<Id, Vec<PackedBlob>> = HashMap::new();
    for piece in &lacking.blobs {
        let places = places.entry(piece.id).or_default();
        if places.is_empty() {
            let location = context.vault.blob_location(BlobKind::Data, &piece.id)?;
            packs.entry(location.pack).or_default().push(location.blob);
        }
        places.push(*piece);
    }
    let parts: Vec<PackPart> = packs.into_iter().map(|(pack, blobs)| PackPart { pack, blobs }).collect();
    // Twice as many threads as cores: some wait for the store while others compute.
    let results = parallel_map(compute_threads() * 2, &parts, |part| write_part(context, part, &places));
    results.into_iter().collect()
}

/// An error of the target ends the restore; damage of the repository is noted.
fn write_part(context: &Context<'_>, part: &PackPart, places: &HashMap<Id, Vec<Piece>>) -> Result<()> {
    let mut left: HashMap<Id, Option<Error>> = part.blobs.iter().map(|blob| (blob.id, None)).collect();
    let read = read_blobs(context.vault, &part.pack, &mut part.blobs.clone(), |blob, _, plaintext| match plaintext {
        Ok(plaintext) => {
            left.remove(&blob.id);
            write_everywhere(context, plaintext, places.get(&blob.id))
        }
        Err(error) => {
            left.insert(blob.id, Some(error));
            Ok(())
        }
    });
    match read {
        Err(error @ Error::Target { .. }) => return Err(error),
        Err(error) if left.is_empty() => return Err(error),
        _ => {}
    }
    for (id, _) in left {
        // Another pack may have a sound copy of a blob that is damaged in this one.
        match context.vault.read_blob(BlobKind::Data, &id) {
            Ok(plaintext) => write_everywhere(context, &plaintext, places.get(&id))?,
            Err(error) => {
                context.lost.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
                for piece in places.get(&id).into_iter().flatten() {
                    let end = piece.offset + piece.length;
                    let what = format!("bytes {} to {end} are lost: {}", piece.offset, with_sources(&error));
                    context.problems.add(context.target.path(), what);
                }
            }
        }
    }
    Ok(())
}

fn write_everywhere(context: &Context<'_>, plaintext: &[u8], places: Option<&Vec<Piece>>) -> Result<()> {
    let failed = |source| Error::Target { action: "write", path: context.target.path().to_path_buf(), source };
    for piece in places.into_iter().flatten() {
        context.target.write_at(plaintext, piece.offset).map_err(failed)?;
        context.bytes_written.fetch_add(piece.length, Ordering::Relaxed);
        context.progress.report(Event::Bytes(piece.length));
    }
    Ok(())
}

/// Reads the target from the disk, as another program would find it, and names the ranges that are not the image's.
fn verify(context: &Context<'_>, image: &Image, zeros: &mut ZeroBlobs) -> Result<()> {
    let path = context.target.path();
    let written = context.target.reopen()?;
    for number in 0..image.description().segments() {
        let pieces = image.pieces(number)?;
        zeros.learn(&pieces);
        let mut lacking = find_lacking(&pieces, zeros, &written).map_err(|error| target_error(context, error))?;
        lacking.blobs.retain(|piece| !context.is_lost(&piece.id));
        for what in not_read_back(&lacking.ranges()) {
            context.problems.add(path, what);
        }
    }
    Ok(())
}

/// What is said of the ranges of one segment that did not read back.
fn not_read_back(ranges: &[(u64, u64)]) -> Vec<String> {
    let (named, more) = ranges.split_at(ranges.len().min(RANGES_NAMED_MAX));
    let name = |(start, end): &(u64, u64)| {
        format!("bytes {start} to {end} do not read back as they were written; check the disk")
    };
    let mut said: Vec<String> = named.iter().map(name).collect();
    if !more.is_empty() {
        let bytes: u64 = more.iter().map(|(start, end)| end - start).sum();
        said.push(format!("{bytes} more bytes in {} ranges after those do not either", more.len()));
    }
    said
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use levee_store::LocalStore;
    use levee_testing::random::noise;

    use super::*;
    use crate::{ImageBackupOptions, Password, backup_images};

    /// Restores an image of 2 MiB into a target of this name, writes these bytes over it, and says what the verification
    /// finds when the vault has lost these chunks.
    fn check(name: &str, damage: &[u64], lost: &[usize], expected: &[&str]) {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let vault = Vault::init(Arc::new(LocalStore::new(path("vault"))), &Password::new("password")).unwrap();
        std::fs::write(path("disk.raw"), noise(1, 2 << 20)).unwrap();
        let images = ImageBackupOptions { images: vec![path("disk.raw")], ..ImageBackupOptions::default() };
        let snapshot = backup_images(&vault, &images, &()).unwrap().snapshot_id.unwrap();
        let options = ImageRestoreOptions { target: path(name), verify: true, ..ImageRestoreOptions::default() };
        let restored = restore_image(&vault, &snapshot, Path::new("disk.raw"), &options, &()).unwrap();
        assert_eq!((restored.bytes_written, restored.errors.count), (2 << 20, 0), "{name}");

        let image = Image::open(&vault, &snapshot, Path::new("disk.raw")).unwrap();
        let pieces = image.pieces(0).unwrap();
        let target = Target::open(&options.target, None, 2 << 20, Change::Write).unwrap();
        for offset in damage {
            target.write_at(b"damage", *offset).unwrap();
        }
        target.make_durable().unwrap();
        let context = Context {
            vault: &vault,
            target: &target,
            progress: &(),
            problems: ProblemLog::new(&()),
            bytes_written: AtomicU64::new(0),
            lost: Mutex::new(lost.iter().map(|number| pieces[*number].id).collect()),
        };
        verify(&context, &image, &mut ZeroBlobs::new()).unwrap();
        let found: Vec<String> =
            context.problems.into_problems().first.into_iter().map(|problem| problem.message).collect();
        assert_eq!(found, expected, "{name}");
    }

    #[test]
    fn what_does_not_read_back_is_named_range_by_range() {
        for name in ["target.raw", "target.qcow2"] {
            check(name, &[], &[], &[]);
            let first = "bytes 65536 to 196608 do not read back as they were written; check the disk";
            let second = "bytes 983040 to 1048576 do not read back as they were written; check the disk";
            check(name, &[70_000, 140_000, 1_000_000], &[], &[first, second]);
            // The disk is not to blame for what the vault has lost.
            check(name, &[70_000, 140_000, 1_000_000], &[15], &[first]);
        }
    }

    #[test]
    fn a_disk_that_fails_all_over_fills_no_log() {
        let ranges: Vec<(u64, u64)> = (0..20).map(|number| (number * 100, number * 100 + 10)).collect();
        assert_eq!(not_read_back(&ranges[..16]).len(), 16);
        let said = not_read_back(&ranges);
        assert_eq!((said.len(), said[16].as_str()), (17, "40 more bytes in 4 ranges after those do not either"));
    }
}
