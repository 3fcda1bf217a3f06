//! Owners, modes, extended attributes and times.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::Context;
use crate::{Node, NodeKind};

fn owner_of(context: &Context<'_>, node: &Node) -> Option<(Uid, Gid)> {
    let (uid, gid) = match context.options.owner {
        Some(owner) => owner,
        // Others than root cannot give files away, and aren't expected to.
        None if !context.is_root => return None,
        None => (node.uid, node.gid),
    };
    // The highest number means "leave it" to the kernel.
    (uid != u32::MAX && gid != u32::MAX).then(|| (Uid::from_raw(uid), Gid::from_raw(gid)))
}

fn times_of(node: &Node) -> Timestamps {
    let time = |time: crate::FileTime| Timespec { tv_sec: time.seconds, tv_nsec: i64::from(time.nanoseconds) };
    Timestamps { last_access: time(node.atime), last_modification: time(node.mtime) }
}

fn mode_of(node: &Node) -> Mode {
    Mode::from_raw_mode(node.mode & 0o7777)
}

/// Sets everything on an open file or directory.
pub(super) fn apply(context: &Context<'_>, path: &Path, file: &impl AsFd, node: &Node, is_fresh: bool) {
    let failed = |action, errno: Errno| context.problem(path, &context.target.error(action, path, errno.into()));
    // The owner first: changing it takes away setuid and capabilities.
    if let Some((uid, gid)) = owner_of(context, node)
        && let Err(errno) = rustix::fs::fchown(file, Some(uid), Some(gid))
    {
        failed("set the owner of", errno);
    }
    if let Err(errno) = rustix::fs::fchmod(file, mode_of(node)) {
        failed("set the mode of", errno);
    }
    for attribute in &node.extended_attributes {
        let set = rustix::fs::fsetxattr(file, attribute.name.as_os_str(), &attribute.value, XattrFlags::empty());
        if let Err(errno) = set {
            failed("set an extended attribute of", errno);
        }
    }
    if !is_fresh {
        remove_other_attributes(file, node);
    }
    if let Err(errno) = rustix::fs::futimens(file, &times_of(node)) {
        failed("set the times of", errno);
    }
}

/// Takes away users' attributes that the snapshot doesn't have. Those of the system belong to the system.
fn remove_other_attributes(file: &impl AsFd, node: &Node) {
    let mut names = Vec::with_capacity(LIST_BYTES_MAX);
    let listed = rustix::fs::flistxattr(file, rustix::buffer::spare_capacity(&mut names));
    if listed.is_err() {
        return;
    }
    for name in names.split(|byte| *byte == 0).filter(|name| name.starts_with(b"user.")) {
        let name: OsString = OsString::from_vec(name.to_vec());
        if !node.extended_attributes.iter().any(|attribute| attribute.name == name) {
            // It stays where it may not be removed; the content is right all the same.
            let _ = rustix::fs::fremovexattr(file, &name);
        }
    }
}

/// What the kernel allows for the list of one file's attributes.
const LIST_BYTES_MAX: usize = 64 << 10;

pub(super) fn apply_to_file(context: &Context<'_>, path: &Path, file: &File, node: &Node, is_fresh: bool) {
    apply(context, path, file, node, is_fresh);
}

pub(super) fn apply_to_directory(context: &Context<'_>, path: &Path, node: &Node) {
    match context.target.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) {
        Ok(directory) => apply(context, path, &directory, node, false),
        Err(errno) => context.problem(path, &context.target.error("open", path, errno.into())),
    }
}

/// Sets what can be set on something that cannot be opened.
pub(super) fn apply_to_other(context: &Context<'_>, parent: &OwnedFd, name: &OsStr, path: &Path, node: &Node) {
    let failed = |action, errno: Errno| context.problem(path, &context.target.error(action, path, errno.into()));
    if let Some((uid, gid)) = owner_of(context, node)
        && let Err(errno) = rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
    {
        failed("set the owner of", errno);
    }
    // A link has no mode of its own. For the others no link can be in the way: they were just made.
    if node.kind != NodeKind::Symlink
        && let Err(errno) = rustix::fs::chmodat(parent, name, mode_of(node), AtFlags::empty())
    {
        failed("set the mode of", errno);
    }
    if let Err(errno) = rustix::fs::utimensat(parent, name, &times_of(node), AtFlags::SYMLINK_NOFOLLOW) {
        failed("set the times of", errno);
    }
}
