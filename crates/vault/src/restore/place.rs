//! Making and removing directory entries of every kind.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::target::stat;
use super::{Context, Overwrite, metadata};
use crate::{Event, FileTime, ItemChange, Node, NodeKind, Result};

/// Directories are private until their metadata are set.
const DIRECTORY_MODE: Mode = Mode::RWXU;

fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// What has become of a directory of the snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MadeDirectory {
    Anew,
    WasThere,
    /// It was not made: something else is there, and is to be left as it is.
    Kept,
}

/// Makes a directory unless it is there. Anything else in its place is removed, unless it is to be kept.
pub(super) fn make_directory(context: &Context<'_>, path: &Path, node: &Node) -> Result<MadeDirectory> {
    let target = context.target;
    if context.options.dry_run {
        return Ok(match target.stat(path)? {
            Some(current) if file_type(&current) == FileType::Directory => MadeDirectory::WasThere,
            Some(current) if keeps(context, &current, node) => MadeDirectory::Kept,
            _ => MadeDirectory::Anew,
        });
    }
    let (parent, name) = target.parent_of(path)?;
    let failed = |errno: Errno| target.error("create the directory", path, errno.into());
    match stat(&parent, name).map_err(failed)? {
        Some(current) if file_type(&current) == FileType::Directory => return Ok(MadeDirectory::WasThere),
        Some(current) if keeps(context, &current, node) => return Ok(MadeDirectory::Kept),
        Some(_) => rustix::fs::unlinkat(&parent, name, AtFlags::empty()).map_err(failed)?,
        None => {}
    }
    rustix::fs::mkdirat(&parent, name, DIRECTORY_MODE).map_err(failed)?;
    Ok(MadeDirectory::Anew)
}

/// Makes room for something that isn't a directory.
pub(super) fn clear(context: &Context<'_>, parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<()> {
    let failed = |errno: Errno| context.target.error("replace", path, errno.into());
    match stat(parent, name).map_err(failed)? {
        None => Ok(()),
        Some(stat) if file_type(&stat) != FileType::Directory => {
            rustix::fs::unlinkat(parent, name, AtFlags::empty()).map_err(failed)
        }
        Some(_) if context.options.delete => remove_recursively(parent, name).map(drop).map_err(failed),
        // An empty one goes; what is in a full one may be wanted.
        Some(_) => rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR).map_err(failed),
    }
}

/// Whether something that is there already is to be left as it is.
fn keeps(context: &Context<'_>, current: &Stat, node: &Node) -> bool {
    match context.options.overwrite {
        Overwrite::Always | Overwrite::IfChanged => false,
        Overwrite::IfNewer => FileTime::new(current.st_mtime, current.st_mtime_nsec as u32) >= node.mtime,
        Overwrite::Never => true,
    }
}

/// Whether a device or FIFO is there as the snapshot has it.
fn is_same_special(current: &Stat, node: &Node) -> bool {
    let is_device = matches!(node.kind, NodeKind::Dev | NodeKind::CharDev);
    special_type(node.kind) == Some(file_type(current)) && (!is_device || current.st_rdev == node.device)
}

fn special_type(kind: NodeKind) -> Option<FileType> {
    match kind {
        NodeKind::Fifo => Some(FileType::Fifo),
        NodeKind::Dev => Some(FileType::BlockDevice),
        NodeKind::CharDev => Some(FileType::CharacterDevice),
        _ => None,
    }
}

/// Makes a symbolic link, device or FIFO. `false` when there is nothing to make, or it cannot be made here,
/// which is then reported.
pub(super) fn make_other(context: &Context<'_>, path: &Path, node: &Node) -> Result<bool> {
    match node.kind {
        // A socket is made by the process that listens on it.
        NodeKind::Socket => return Ok(false),
        NodeKind::Irregular | NodeKind::File | NodeKind::Dir => {
            context.problems.add(path, format!("skipped: a {} cannot be restored", node.kind.as_str()));
            return Ok(false);
        }
        NodeKind::Dev | NodeKind::CharDev if !context.is_root => {
            context.problems.add(path, "skipped: only root can create devices".into());
            return Ok(false);
        }
        _ => {}
    }
    let target = context.target;
    if context.options.dry_run {
        return Ok(target.stat(path)?.is_none_or(|current| !keeps(context, &current, node)));
    }
    let (parent, name) = target.parent_of(path)?;
    let failed = |errno: Errno| target.error("create", path, errno.into());
    if let Some(current) = stat(&parent, name).map_err(failed)? {
        if keeps(context, &current, node) {
            return Ok(false);
        }
        let is_same = match node.kind {
            NodeKind::Symlink => rustix::fs::readlinkat(&parent, name, Vec::new())
                .is_ok_and(|current| current.as_bytes() == node.link_target.as_bytes()),
            _ => is_same_special(&current, node),
        };
        if is_same {
            metadata::apply_to_other(context, &parent, name, path, node);
            return Ok(true);
        }
        clear(context, &parent, name, path)?;
    }
    match special_type(node.kind) {
        None => rustix::fs::symlinkat(&node.link_target, &parent, name).map_err(failed)?,
        Some(kind) => {
            let mode = Mode::RUSR | Mode::WUSR;
            rustix::fs::mknodat(&parent, name, kind, mode, node.device).map_err(failed)?;
        }
    }
    metadata::apply_to_other(context, &parent, name, path, node);
    Ok(true)
}

/// Gives a restored file another name. `false` when what is there already is kept.
pub(super) fn make_hard_link(context: &Context<'_>, path: &Path, first: &Path, node: &Node) -> Result<bool> {
    let target = context.target;
    if context.options.dry_run {
        return Ok(target.stat(path)?.is_none_or(|current| !keeps(context, &current, node)));
    }
    let (parent, name) = target.parent_of(path)?;
    let (first_parent, first_name) = target.parent_of(first)?;
    let failed = |errno: Errno| target.error("create the hard link", path, errno.into());
    let original = stat(&first_parent, first_name).map_err(failed)?.ok_or_else(|| failed(Errno::NOENT))?;
    if let Some(current) = stat(&parent, name).map_err(failed)? {
        if (current.st_dev, current.st_ino) == (original.st_dev, original.st_ino) {
            return Ok(true);
        }
        if keeps(context, &current, node) {
            return Ok(false);
        }
        clear(context, &parent, name, path)?;
    }
    rustix::fs::linkat(&first_parent, first_name, &parent, name, AtFlags::empty()).map_err(failed)?;
    Ok(true)
}

/// Removes the entries of a directory that are not wanted, and says how many.
pub(super) fn remove_unwanted(context: &Context<'_>, path: &Path, wanted: &dyn Fn(&OsStr) -> bool) -> u64 {
    let Ok(directory) = context.target.open_directory(path) else { return 0 };
    let names = match names_in(&directory) {
        Ok(names) => names,
        Err(errno) => {
            context.problem(path, &context.target.error("list", path, errno.into()));
            return 0;
        }
    };
    let mut removed = 0;
    for name in names.iter().map(|name| OsStr::from_bytes(name)).filter(|name| !wanted(name)) {
        let path = path.join(name);
        let counted = match context.options.dry_run {
            true => count_recursively(&directory, name),
            false => remove_recursively(&directory, name),
        };
        match counted {
            Ok(count) => {
                removed += count;
                context.progress.report(Event::Item { path: &path, change: ItemChange::Deleted });
            }
            Err(errno) => context.problem(&path, &context.target.error("remove", &path, errno.into())),
        }
    }
    removed
}

fn names_in(directory: &OwnedFd) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    Ok(names)
}

/// Removes something and all that is in it, without following links; says how many entries that were.
fn remove_recursively(parent: &OwnedFd, name: &OsStr) -> rustix::io::Result<u64> {
    let is_directory = stat(parent, name)?.is_some_and(|stat| file_type(&stat) == FileType::Directory);
    if !is_directory {
        return rustix::fs::unlinkat(parent, name, AtFlags::empty()).map(|()| 1);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    let mut removed = 1;
    for name in names_in(&directory)? {
        removed += remove_recursively(&directory, OsStr::from_bytes(&name))?;
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?;
    Ok(removed)
}

/// What `remove_recursively` would remove.
fn count_recursively(parent: &OwnedFd, name: &OsStr) -> rustix::io::Result<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Ok(directory) => directory,
        Err(Errno::NOTDIR | Errno::LOOP) => return Ok(1),
        Err(errno) => return Err(errno),
    };
    names_in(&directory)?
        .iter()
        .try_fold(1, |count, name| Ok(count + count_recursively(&directory, OsStr::from_bytes(name))?))
}
