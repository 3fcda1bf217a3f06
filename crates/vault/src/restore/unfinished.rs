//! Files that are written beside their places, by a restore that leaves alone what is there.
//!
//! For `Overwrite::Never` and `IfNewer`, what stands in a file's place needs nothing more: half a file there would be kept
//! by every later run. So a file gets its own name only when it is whole. Until then it has one by which the next run of
//! that kind finds it, and goes on with it or removes it. Where contents or times are compared, half a file is known by
//! itself, and the renaming is spared.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::prepare::keeps;
use super::target::stat;
use super::{Context, Overwrite};
use crate::{Id, Node, Result, Tree};

/// How the names of such files begin.
const PREFIX: &str = ".levee-unfinished-";
/// So much follows of the hash of the name that the file is to get, which itself may be as long as a name can be.
const DIGITS: usize = 32;

/// Read and written by nobody else until it is whole.
const MODE: Mode = Mode::RUSR.union(Mode::WUSR);
const FLAGS: OFlags = OFlags::CLOEXEC.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK);

/// Whether files are written beside their places.
pub(super) fn are_apart(context: &Context<'_>) -> bool {
    matches!(context.options.overwrite, Overwrite::IfNewer | Overwrite::Never)
}

/// What the file that is to get a name is called until it is whole.
fn name_of(name: &OsStr) -> OsString {
    let mut digits = Id::of(name.as_bytes()).to_hex();
    digits.truncate(DIGITS);
    OsString::from(PREFIX.to_string() + &digits)
}

/// What the files of a directory are called until they are whole: nothing that a restore removes as stray.
pub(super) fn names_in(context: &Context<'_>, tree: &Tree) -> HashSet<OsString> {
    match are_apart(context) {
        true => tree.nodes().iter().map(|node| name_of(&node.name)).collect(),
        false => HashSet::new(),
    }
}

/// Makes a file where it lies until it is whole. Nothing may be there.
pub(super) fn create(context: &Context<'_>, path: &Path) -> Result<File> {
    match are_apart(context) {
        true => open_beside(context, path, "create", OFlags::RDWR | OFlags::CREATE | OFlags::EXCL),
        false => context.target.create_file(path),
    }
}

/// Opens a file where it lies until it is whole.
pub(super) fn open(context: &Context<'_>, path: &Path, flags: OFlags) -> Result<File> {
    match are_apart(context) {
        true => open_beside(context, path, "open", flags),
        false => context.target.open_file(path, flags),
    }
}

/// By its directory: the whole path may be too long with this name at its end.
fn open_beside(context: &Context<'_>, path: &Path, action: &'static str, flags: OFlags) -> Result<File> {
    let (parent, name) = context.target.parent_of(path)?;
    let opened = rustix::fs::openat(&parent, name_of(name), flags | FLAGS, MODE);
    opened.map(File::from).map_err(|errno| context.target.error(action, path, errno.into()))
}

/// What an earlier run has written of a file. What cannot be gone on with is removed.
pub(super) fn take_up(context: &Context<'_>, path: &Path) -> Result<Option<File>> {
    let (parent, name) = context.target.parent_of(path)?;
    match rustix::fs::openat(&parent, name_of(name), OFlags::RDWR | FLAGS, Mode::empty()) {
        Ok(left) if is_ours(&left) => Ok(Some(File::from(left))),
        Err(Errno::NOENT) => Ok(None),
        _ => remove(context, &parent, name, path).map(|()| None),
    }
}

/// Whether a file is as `create` makes it. Whoever else had put it there could read what is written into it.
fn is_ours(file: &OwnedFd) -> bool {
    rustix::fs::fstat(file).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && Mode::from_raw_mode(stat.st_mode & 0o7777) == MODE
            && stat.st_uid == rustix::process::geteuid().as_raw()
            && stat.st_nlink == 1
    })
}

/// Removes what there is of a file that is not whole.
pub(super) fn discard(context: &Context<'_>, path: &Path) -> Result<()> {
    let (parent, name) = context.target.parent_of(path)?;
    remove(context, &parent, name, path)
}

/// The same, when the directory is open already.
pub(super) fn remove(context: &Context<'_>, parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<()> {
    match rustix::fs::unlinkat(parent, name_of(name), AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(context.target.error("remove what was begun of", path, errno.into())),
    }
}

/// Gives a whole file its name. What has come there meanwhile and is to be kept stays, and that is an error.
pub(super) fn put_in_place(context: &Context<'_>, path: &Path, node: &Node) -> Result<()> {
    let (parent, name) = context.target.parent_of(path)?;
    let unfinished = name_of(name);
    let failed = |errno: Errno| context.target.error("put the restored file in the place of", path, errno.into());
    match rustix::fs::renameat_with(&parent, &unfinished, &parent, name, RenameFlags::NOREPLACE) {
        Ok(()) => return Ok(()),
        // An older one is there, or this file system cannot ask for that.
        Err(Errno::EXIST | Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
        Err(errno) => return Err(failed(errno)),
    }
    if stat(&parent, name).map_err(failed)?.is_some_and(|there| keeps(context, &there, node, node.size)) {
        return Err(failed(Errno::EXIST));
    }
    rustix::fs::renameat(&parent, &unfinished, &parent, name).map_err(failed)
}
