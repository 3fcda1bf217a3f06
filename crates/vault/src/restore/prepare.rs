//! Getting files ready to be written: made or opened, compared with what is there, given their size.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::SystemTime;

use rustix::fs::{AtFlags, FallocateFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::target::stat;
use super::walk::Chosen;
use super::{Context, Holes, Overwrite, metadata, place, unfinished};
use crate::chunker::{is_hole, zero_chunk_id};
use crate::parallel::{compute_threads, parallel_map};
use crate::vault::BLOB_BYTES_MAX;
use crate::{BlobKind, Event, FileTime, Id, ItemChange, Node, Result};

/// Files from this size on get their blocks before they are written: fewer extents, and a full disk is
/// noticed at once.
const PREALLOCATE_FROM_BYTES: u64 = 1 << 20;

/// A file that is ready to be written.
pub(super) struct PreparedFile {
    pub path: PathBuf,
    pub node: Node,
    pub needed: Vec<NeededBlob>,
    pub state: FileState,
    /// Blobs that are still to be written.
    pub remaining: AtomicUsize,
    pub has_failed: AtomicBool,
    /// It has failed for want of room.
    pub lacks_room: AtomicBool,
}

impl PreparedFile {
    pub fn is_complete(&self) -> bool {
        !self.has_failed.load(Ordering::Relaxed) && self.remaining.load(Ordering::Relaxed) == 0
    }
}

/// Takes back what was begun of a file for which there is no room: what lacks its content must not look whole, and must not
/// be passed over as newer when the restore is run again.
pub(super) fn take_back(context: &Context<'_>, file: &PreparedFile) {
    if unfinished::are_apart(context) {
        if let Err(error) = unfinished::discard(context, &file.path) {
            context.problem(&file.path, &error);
        }
        return;
    }
    let target = context.target;
    let taken_back = match file.state {
        FileState::ToBeMade | FileState::Fresh => target.parent_of(&file.path).map(|(parent, name)| {
            match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
                // It could not even be made.
                Err(Errno::NOENT) => Ok(()),
                removed => removed.map_err(Into::into),
            }
        }),
        FileState::Old { bytes } => target.open_file(&file.path, OFlags::RDWR).map(|opened| {
            opened.set_len(bytes.min(file.node.size))?;
            opened.set_modified(SystemTime::UNIX_EPOCH)
        }),
    };
    if let Ok(Err(source)) = taken_back {
        context.problem(&file.path, &target.error("take back what was begun of", &file.path, source));
    }
}

/// What is to be done about a file.
enum Prepared {
    /// Nothing: it is as it shall be, or was only asked for.
    Done,
    /// Nothing: something else is there, and is kept.
    KeptOther,
    Write(Vec<NeededBlob>, FileState),
}

/// What is there of a file before it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileState {
    /// Nothing. A file of one blob is made by whoever writes it, which saves opening it twice.
    ToBeMade,
    /// Made anew, so that what isn't written reads as zeros.
    Fresh,
    /// It was there before, and this long.
    Old { bytes: u64 },
}

impl FileState {
    pub fn is_new(self) -> bool {
        matches!(self, FileState::ToBeMade | FileState::Fresh)
    }
}

/// A blob that the file lacks.
#[derive(Clone, Copy)]
pub(super) struct NeededBlob {
    pub id: Id,
    pub offset: u64,
}

/// Notes in `unlike` those with several names that will not be as the snapshot has them.
pub(super) fn prepare(context: &Context<'_>, files: Vec<Chosen>, unlike: &mut HashSet<PathBuf>) -> Vec<PreparedFile> {
    let prepared = parallel_map(compute_threads(), &files, |file| prepare_file(context, file));
    let mut ready = Vec::with_capacity(files.len());
    for (Chosen { path, node, .. }, prepared) in files.into_iter().zip(prepared) {
        let has_several_names = node.links > 1;
        match prepared {
            Ok(Prepared::Write(needed, state)) => {
                let remaining = AtomicUsize::new(needed.len());
                let (has_failed, lacks_room) = (AtomicBool::new(false), AtomicBool::new(false));
                ready.push(PreparedFile { path, node, needed, state, remaining, has_failed, lacks_room });
            }
            Ok(Prepared::Done) => {}
            Ok(Prepared::KeptOther) => {
                if has_several_names {
                    unlike.insert(path);
                }
            }
            Err(error) => {
                context.problem(&path, &error);
                if has_several_names {
                    unlike.insert(path);
                }
            }
        }
    }
    ready
}

fn prepare_file(context: &Context<'_>, chosen: &Chosen) -> Result<Prepared> {
    let Chosen { path, node, directory_is_fresh } = chosen;
    let (blobs, size) = layout(context, node)?;
    if context.options.dry_run {
        return compare_only(context, path, node, &blobs, size);
    }
    if !directory_is_fresh {
        if let Some(outcome) = prepare_existing(context, path, node, &blobs, size)? {
            return Ok(outcome);
        }
        if unfinished::are_apart(context) {
            return prepare_apart(context, path, node, &blobs, size, None);
        }
    }
    prepare_new(context, path, node, &blobs, size)
}

/// Begins a file where there is nothing.
fn prepare_new(
    context: &Context<'_>,
    path: &Path,
    node: &Node,
    blobs: &[(NeededBlob, u64)],
    size: u64,
) -> Result<Prepared> {
    let needed = all_of(blobs);
    if needed.len() == 1 {
        return Ok(Prepared::Write(needed, FileState::ToBeMade));
    }
    let file = unfinished::create(context, path)?;
    if needed.is_empty() {
        finish_file(context, path, node, &file)?;
        return Ok(Prepared::Done);
    }
    get_room(context, path, &file, &needed, size)?;
    Ok(Prepared::Write(needed, FileState::Fresh))
}

/// Begins a file beside its place, or goes on with what an earlier run has begun there. What the `current` file in its
/// place has of it is copied, since that one stays as it is until this one is whole.
fn prepare_apart(
    context: &Context<'_>,
    path: &Path,
    node: &Node,
    blobs: &[(NeededBlob, u64)],
    size: u64,
    current: Option<&File>,
) -> Result<Prepared> {
    let failed = |source| context.target.error("write", path, source);
    let (file, state, mut needed) = match (unfinished::take_up(context, path)?, current) {
        (None, None) => return prepare_new(context, path, node, blobs, size),
        (None, Some(_)) => {
            let (file, needed) = (unfinished::create(context, path)?, all_of(blobs));
            get_room(context, path, &file, &needed, size)?;
            (file, FileState::Fresh, needed)
        }
        (Some(left), _) => {
            let bytes = left.metadata().map_err(failed)?.len();
            let needed = differing(&left, blobs).map_err(failed)?;
            left.set_len(size).map_err(failed)?;
            (left, FileState::Old { bytes }, needed)
        }
    };
    if let Some(current) = current {
        let still_needed = copy_known(context, current, &file, state, blobs, &needed);
        needed = still_needed.map_err(|source| {
            // What it takes of a full disk is given back.
            let _ = unfinished::discard(context, path);
            failed(source)
        })?;
    }
    if needed.is_empty() {
        finish_file(context, path, node, &file)?;
        return Ok(Prepared::Done);
    }
    Ok(Prepared::Write(needed, state))
}

/// Copies the needed blobs that another file has, and says which are needed still.
fn copy_known(
    context: &Context<'_>,
    from: &File,
    into: &File,
    state: FileState,
    blobs: &[(NeededBlob, u64)],
    needed: &[NeededBlob],
) -> std::io::Result<Vec<NeededBlob>> {
    let leaves_holes = state.is_new() && context.options.holes != Holes::Never;
    let offsets: HashSet<u64> = needed.iter().map(|blob| blob.offset).collect();
    let mut still_needed = Vec::new();
    let mut buffer = Vec::new();
    for (blob, length) in blobs.iter().filter(|(blob, _)| offsets.contains(&blob.offset)) {
        buffer.resize(*length as usize, 0);
        // It is hashed once more, since somebody may be writing to it.
        if from.read_exact_at(&mut buffer, blob.offset).is_err() || Id::of(&buffer) != blob.id {
            still_needed.push(*blob);
        } else if !(leaves_holes && is_hole(&buffer)) {
            into.write_all_at(&buffer, blob.offset)?;
        }
    }
    Ok(still_needed)
}

fn all_of(blobs: &[(NeededBlob, u64)]) -> Vec<NeededBlob> {
    blobs.iter().map(|(blob, _)| *blob).collect()
}

/// Gives a new file its length and, unless it is to have holes, its blocks.
fn get_room(context: &Context<'_>, path: &Path, file: &File, needed: &[NeededBlob], size: u64) -> Result<()> {
    let target = context.target;
    file.set_len(size).map_err(|source| target.error("set the length of", path, source))?;
    if size < PREALLOCATE_FROM_BYTES {
        return Ok(());
    }
    let hole = (context.options.holes != Holes::Never).then(zero_chunk_id);
    for Range { start, end } in filled(needed, size, hole) {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), start, end - start) {
            Ok(()) => {}
            // Not every file system can.
            Err(Errno::NOTSUP | Errno::NOSYS) => break,
            Err(errno) => {
                // What was got so far must not fill the disk.
                let _ = file.set_len(0);
                return Err(target.error("get room for", path, errno.into()));
            }
        }
    }
    Ok(())
}

/// What of a file is no hole, neighbours joined.
fn filled(blobs: &[NeededBlob], size: u64, hole: Option<Id>) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let ends = blobs.iter().skip(1).map(|next| next.offset).chain([size]);
    for (blob, end) in blobs.iter().zip(ends).filter(|(blob, _)| Some(blob.id) != hole) {
        match ranges.last_mut() {
            Some(before) if before.end == blob.offset => before.end = end,
            _ => ranges.push(blob.offset..end),
        }
    }
    ranges
}

/// Looks at what is at the file's place. `None` when the file is to be made anew, and nothing is in its way.
fn prepare_existing(
    context: &Context<'_>,
    path: &Path,
    node: &Node,
    blobs: &[(NeededBlob, u64)],
    size: u64,
) -> Result<Option<Prepared>> {
    let target = context.target;
    let (parent, name) = target.parent_of(path)?;
    let existing = stat(&parent, name).map_err(|errno| target.error("look at", path, errno.into()))?;
    let Some(existing) = existing else { return Ok(None) };
    if keeps(context, &existing, node, size) {
        if context.options.overwrite == Overwrite::IfChanged {
            apply_to_alike(context, &parent, name, path, node);
        } else {
            // What an earlier run has begun of it is of no use any more.
            unfinished::remove(context, &parent, name, path)?;
        }
        report_unchanged(context, path, node);
        return Ok(Some(kept(&existing, node, size)));
    }
    if FileType::from_raw_mode(existing.st_mode) == FileType::RegularFile {
        let file = target.open_file(path, OFlags::RDONLY)?;
        let current = file.metadata().map_err(|source| target.error("look at", path, source))?;
        let needed = differing(&file, blobs).map_err(|source| target.error("read", path, source))?;
        if needed.is_empty() && current.len() == size {
            if unfinished::are_apart(context) {
                unfinished::remove(context, &parent, name, path)?;
            }
            metadata::apply(context, path, &file, node);
            report_unchanged(context, path, node);
            return Ok(Some(Prepared::Done));
        }
        if unfinished::are_apart(context) {
            let useful = (needed.len() < blobs.len()).then_some(&file);
            return prepare_apart(context, path, node, blobs, size, useful).map(Some);
        }
        // Other names of it may lie outside of the target: what they see must not change.
        if current.nlink() == 1 {
            let file = target.open_file(path, OFlags::RDWR)?;
            file.set_len(size).map_err(|source| target.error("set the length of", path, source))?;
            if needed.is_empty() {
                finish_file(context, path, node, &file)?;
                return Ok(Some(Prepared::Done));
            }
            return Ok(Some(Prepared::Write(needed, FileState::Old { bytes: current.len() })));
        }
    }
    // What is no directory gives way when the file beside it is whole, and not before.
    if !unfinished::are_apart(context) || FileType::from_raw_mode(existing.st_mode) == FileType::Directory {
        place::clear(context, &parent, name, path)?;
    }
    Ok(None)
}

/// Gives a file that looks alike all but its content. Its size and time of change say nothing of that: another mode,
/// owner or ACL leaves both as they are. What is so already is not set again.
fn apply_to_alike(context: &Context<'_>, parent: &OwnedFd, name: &OsStr, path: &Path, node: &Node) {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Ok(file) => metadata::apply(context, path, &file, node),
        // Its owner may not read it, and may change all this.
        Err(Errno::ACCESS) => metadata::apply_to_other(context, parent, name, path, node),
        Err(errno) => context.problem(path, &context.target.error("open", path, errno.into())),
    }
}

/// Whether what is there is to be left as it is.
pub(super) fn keeps(context: &Context<'_>, existing: &Stat, node: &Node, size: u64) -> bool {
    let mtime = FileTime::new(existing.st_mtime, existing.st_mtime_nsec as u32);
    match context.options.overwrite {
        Overwrite::Always => false,
        Overwrite::IfChanged => looks_alike(existing, node, size),
        Overwrite::IfNewer => mtime >= node.mtime,
        Overwrite::Never => true,
    }
}

/// Whether size and time say that a file is what the snapshot has.
fn looks_alike(existing: &Stat, node: &Node, size: u64) -> bool {
    let is_file = FileType::from_raw_mode(existing.st_mode) == FileType::RegularFile;
    let mtime = FileTime::new(existing.st_mtime, existing.st_mtime_nsec as u32);
    is_file && existing.st_size as u64 == size && mtime == node.mtime
}

/// What a file is that was kept. One that looks alike may be from a restore before this one.
fn kept(existing: &Stat, node: &Node, size: u64) -> Prepared {
    if looks_alike(existing, node, size) { Prepared::Done } else { Prepared::KeptOther }
}

/// Says what a restore would do.
fn compare_only(
    context: &Context<'_>,
    path: &Path,
    node: &Node,
    blobs: &[(NeededBlob, u64)],
    size: u64,
) -> Result<Prepared> {
    let existing = context.target.stat(path)?;
    let mut missing: Option<Vec<NeededBlob>> = None;
    if let Some(existing) = existing {
        if keeps(context, &existing, node, size) {
            report_unchanged(context, path, node);
            return Ok(kept(&existing, node, size));
        }
        if FileType::from_raw_mode(existing.st_mode) == FileType::RegularFile {
            let file = context.target.open_file(path, OFlags::RDONLY)?;
            let needed = differing(&file, blobs).map_err(|source| context.target.error("read", path, source))?;
            if needed.is_empty() && existing.st_size as u64 == size {
                report_unchanged(context, path, node);
                return Ok(Prepared::Done);
            }
            missing = Some(needed);
        }
    }
    let hole = match context.options.holes {
        Holes::Everywhere => Some(zero_chunk_id()),
        Holes::InNew if missing.is_none() => Some(zero_chunk_id()),
        Holes::InNew | Holes::Never => None,
    };
    let needed = missing.unwrap_or_else(|| all_of(blobs));
    let offsets: HashSet<u64> = needed.iter().filter(|blob| Some(blob.id) != hole).map(|blob| blob.offset).collect();
    let to_write = blobs.iter().filter(|(blob, _)| offsets.contains(&blob.offset)).map(|(_, length)| length).sum();
    note_packs(context, needed)?;
    context.bytes_written.fetch_add(to_write, Ordering::Relaxed);
    context.progress.report(Event::Bytes(node.size));
    report_restored(context, path);
    Ok(Prepared::Done)
}

fn note_packs(context: &Context<'_>, blobs: Vec<NeededBlob>) -> Result<()> {
    let Some(packs) = &context.packs_needed else { return Ok(()) };
    let places = blobs.iter().map(|blob| Ok(context.vault.blob_location(BlobKind::Data, &blob.id)?.pack));
    let places = places.collect::<Result<Vec<Id>>>()?;
    packs.lock().unwrap_or_else(PoisonError::into_inner).extend(places);
    Ok(())
}

/// Where each blob of a file begins, how long it is, and how long the file is.
fn layout(context: &Context<'_>, node: &Node) -> Result<(Vec<(NeededBlob, u64)>, u64)> {
    let mut offset = 0_u64;
    let mut blobs = Vec::with_capacity(node.blobs().len());
    for id in node.blobs() {
        let location = context.vault.blob_location(BlobKind::Data, id)?;
        let length = location.blob.plaintext_length();
        // Before memory of that size is asked for.
        if length > BLOB_BYTES_MAX {
            let reason = format!("the index says that data blob {id} in it has {length} bytes");
            return Err(context.vault.damaged(levee_store::FileType::Data, &location.pack.to_hex(), reason));
        }
        blobs.push((NeededBlob { id: *id, offset }, length));
        // No file has so many blobs of a gigabyte that this overflows.
        offset = offset.saturating_add(length);
    }
    Ok((blobs, offset))
}

/// The blobs that a file doesn't have where they belong.
fn differing(file: &File, blobs: &[(NeededBlob, u64)]) -> std::io::Result<Vec<NeededBlob>> {
    let mut buffer = Vec::new();
    let mut differing = Vec::new();
    for (blob, length) in blobs {
        buffer.resize(*length as usize, 0);
        match file.read_exact_at(&mut buffer, blob.offset) {
            Ok(()) if Id::of(&buffer) == blob.id => {}
            Ok(()) => differing.push(*blob),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => differing.push(*blob),
            Err(error) => return Err(error),
        }
    }
    Ok(differing)
}

fn report_unchanged(context: &Context<'_>, path: &Path, node: &Node) {
    context.files_unchanged.fetch_add(1, Ordering::Relaxed);
    context.progress.report(Event::Bytes(node.size));
    context.progress.report(Event::Item { path, change: ItemChange::Unmodified });
}

/// Sets the metadata of a file whose content is complete, and gives it its name where it has another until then.
pub(super) fn finish_file(context: &Context<'_>, path: &Path, node: &Node, file: &File) -> Result<()> {
    metadata::apply(context, path, file, node);
    if unfinished::are_apart(context) {
        unfinished::put_in_place(context, path, node)?;
    }
    report_restored(context, path);
    Ok(())
}

fn report_restored(context: &Context<'_>, path: &Path) {
    context.files_restored.fetch_add(1, Ordering::Relaxed);
    context.progress.report(Event::Item { path, change: ItemChange::Restored });
}

/// Names files that lack a part, and reads all of them again when that is wanted.
pub(super) fn check_complete(context: &Context<'_>, files: &[PreparedFile]) {
    parallel_map(compute_threads(), files, |file| {
        if file.has_failed.load(Ordering::Relaxed) {
            // Said already.
        } else if file.remaining.load(Ordering::Relaxed) > 0 {
            context.problems.add(&file.path, "its content is incomplete".into());
        } else if context.options.verify
            && let Err(reason) = verify(context, file)
        {
            context.problems.add(&file.path, reason);
        }
    });
}

fn verify(context: &Context<'_>, file: &PreparedFile) -> std::result::Result<(), String> {
    let check = || -> Result<usize> {
        let (blobs, _) = layout(context, &file.node)?;
        let opened = context.target.open_file(&file.path, OFlags::RDONLY)?;
        let failed = |source| context.target.error("read", &file.path, source);
        Ok(differing(&opened, &blobs).map_err(failed)?.len())
    };
    match check() {
        Ok(0) => Ok(()),
        Ok(count) => Err(format!("{count} of its blobs do not read back as they were written; check the disk")),
        Err(error) => Err(crate::problem::with_sources(&error)),
    }
}
