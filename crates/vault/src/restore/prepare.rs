//! Getting files ready to be written: made or opened, compared with what is there, given their size.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::fs::{FallocateFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::target::stat;
use super::{Context, Overwrite, metadata, place};
use crate::parallel::{compute_threads, parallel_map};
use crate::{BlobKind, Error, Event, FileTime, Id, ItemChange, Node, Result};

/// Files from this size on get their blocks before they are written: fewer extents, and a full disk is
/// noticed at once.
const PREALLOCATE_FROM_BYTES: u64 = 1 << 20;

/// A file that is ready to be written.
pub(super) struct PreparedFile {
    pub path: PathBuf,
    pub node: Node,
    pub needed: Vec<NeededBlob>,
    /// Made anew, so that what isn't written reads as zeros.
    pub is_fresh: bool,
    /// Blobs that are still to be written.
    pub remaining: AtomicUsize,
    pub has_failed: AtomicBool,
}

/// A blob that the file lacks.
#[derive(Clone, Copy)]
pub(super) struct NeededBlob {
    pub id: Id,
    pub offset: u64,
}

pub(super) fn prepare(context: &Context<'_>, files: Vec<(PathBuf, Node)>) -> Vec<PreparedFile> {
    let prepared = parallel_map(compute_threads(), &files, |(path, node)| prepare_file(context, path, node));
    let mut ready = Vec::with_capacity(files.len());
    for ((path, node), prepared) in files.into_iter().zip(prepared) {
        match prepared {
            Ok(Some((needed, is_fresh))) => {
                let remaining = AtomicUsize::new(needed.len());
                let has_failed = AtomicBool::new(false);
                ready.push(PreparedFile { path, node, needed, is_fresh, remaining, has_failed });
            }
            Ok(None) => {}
            Err(error) => context.problem(&path, &error),
        }
    }
    ready
}

/// `None` when the file is done already.
fn prepare_file(context: &Context<'_>, path: &Path, node: &Node) -> Result<Option<(Vec<NeededBlob>, bool)>> {
    let target = context.target;
    let (blobs, size) = layout(context, node)?;
    let (parent, name) = target.parent_of(path)?;
    let failed = |action, errno: Errno| target.error(action, path, errno.into());
    let existing = stat(&parent, name).map_err(|errno| failed("look at", errno))?;
    let is_file = existing.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
    if is_file {
        let file = target.open_file(path, OFlags::RDONLY)?;
        let current = file.metadata().map_err(|source| target.error("look at", path, source))?;
        let mtime = FileTime::new(current.mtime(), current.mtime_nsec() as u32);
        let keep = match context.options.overwrite {
            Overwrite::Always => false,
            Overwrite::IfChanged => current.len() == size && mtime == node.mtime,
            Overwrite::IfNewer => mtime >= node.mtime,
            Overwrite::Never => true,
        };
        if keep {
            report_unchanged(context, path, node);
            return Ok(None);
        }
        let needed = differing(&file, &blobs).map_err(|source| target.error("read", path, source))?;
        if needed.is_empty() && current.len() == size {
            metadata::apply_to_file(context, path, &file, node, false);
            report_unchanged(context, path, node);
            return Ok(None);
        }
        // Other names of it may lie outside of the target: what they see must not change.
        if current.nlink() == 1 {
            let file = target.open_file(path, OFlags::RDWR)?;
            file.set_len(size).map_err(|source| target.error("set the length of", path, source))?;
            if needed.is_empty() {
                finish_file(context, path, node, &file, false);
                return Ok(None);
            }
            return Ok(Some((needed, false)));
        }
    }
    place::clear(context, &parent, name, path)?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
    let file = target.open_at(path, flags, Mode::RUSR | Mode::WUSR).map_err(|errno| failed("create", errno))?;
    let file = File::from(file);
    if size > 0 {
        file.set_len(size).map_err(|source| target.error("set the length of", path, source))?;
    }
    if size >= PREALLOCATE_FROM_BYTES && !context.options.sparse {
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size) {
            // Not every file system can.
            Ok(()) | Err(Errno::NOTSUP | Errno::NOSYS) => {}
            Err(errno) => return Err(failed("get room for", errno)),
        }
    }
    if blobs.is_empty() {
        finish_file(context, path, node, &file, true);
        return Ok(None);
    }
    Ok(Some((blobs.into_iter().map(|(needed, _)| needed).collect(), true)))
}

/// Where each blob of a file begins, how long it is, and how long the file is.
fn layout(context: &Context<'_>, node: &Node) -> Result<(Vec<(NeededBlob, u64)>, u64)> {
    let mut offset = 0_u64;
    let mut blobs = Vec::with_capacity(node.blobs().len());
    for id in node.blobs() {
        let length = context.vault.blob_location(BlobKind::Data, id)?.blob.plaintext_length();
        blobs.push((NeededBlob { id: *id, offset }, length));
        offset = offset.checked_add(length).ok_or(Error::Stopped)?;
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

/// Sets the metadata of a file whose content is complete.
pub(super) fn finish_file(context: &Context<'_>, path: &Path, node: &Node, file: &File, is_fresh: bool) {
    metadata::apply_to_file(context, path, file, node, is_fresh);
    context.files_restored.fetch_add(1, Ordering::Relaxed);
    context.progress.report(Event::Item { path, change: ItemChange::Restored });
}

/// Names files that lack a part, and reads all of them again when that is wanted.
pub(super) fn check_complete(context: &Context<'_>, files: &[PreparedFile]) {
    parallel_map(compute_threads(), files, |file| {
        if file.has_failed.load(Ordering::Relaxed) || file.remaining.load(Ordering::Relaxed) > 0 {
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
