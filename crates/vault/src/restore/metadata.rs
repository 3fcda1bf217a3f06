//! Owners, modes, extended attributes and times.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::Context;
use crate::{ExtendedAttribute, FileTime, Node, NodeKind};

fn owner_of(context: &Context<'_>, node: &Node) -> Option<(Uid, Gid)> {
    let (uid, gid) = context.owners.owner_of(node)?;
    // The highest number means "leave it" to the kernel.
    (uid != u32::MAX && gid != u32::MAX).then(|| (Uid::from_raw(uid), Gid::from_raw(gid)))
}

fn times_of(node: &Node) -> Timestamps {
    let time = |time: FileTime| Timespec { tv_sec: time.seconds, tv_nsec: i64::from(time.nanoseconds) };
    Timestamps { last_access: time(node.atime), last_modification: time(node.mtime) }
}

fn has_times(current: &Stat, node: &Node) -> bool {
    let modified = FileTime::new(current.st_mtime, current.st_mtime_nsec as u32);
    let accessed = FileTime::new(current.st_atime, current.st_atime_nsec as u32);
    (modified, accessed) == (node.mtime, node.atime)
}

fn mode_of(node: &Node) -> Mode {
    Mode::from_raw_mode(node.mode & 0o7777)
}

/// Sets everything on an open file or directory.
pub(super) fn apply(context: &Context<'_>, path: &Path, file: &impl AsFd, node: &Node) {
    let failed = |action, errno: Errno| context.problem(path, &context.target.error(action, path, errno.into()));
    // Looking is cheaper than setting what is so already, which writes the inode each time.
    let current = rustix::fs::fstat(file).ok();
    let is_owned = |uid: Uid, gid: Gid| {
        current.as_ref().is_some_and(|current| current.st_uid == uid.as_raw() && current.st_gid == gid.as_raw())
    };
    let new_owner = owner_of(context, node).filter(|(uid, gid)| !is_owned(*uid, *gid));
    // The owner first: changing it takes away setuid and capabilities.
    if let Some((uid, gid)) = new_owner
        && let Err(errno) = rustix::fs::fchown(file, Some(uid), Some(gid))
    {
        failed("set the owner of", errno);
    }
    let has_mode =
        current.as_ref().is_some_and(|current| Mode::from_raw_mode(current.st_mode & 0o7777) == mode_of(node));
    if (new_owner.is_some() || !has_mode)
        && let Err(errno) = rustix::fs::fchmod(file, mode_of(node))
    {
        failed("set the mode of", errno);
    }
    let names = attribute_names(file);
    let is_there = |attribute: &ExtendedAttribute| {
        names.split(|byte| *byte == 0).any(|name| name == attribute.name.as_bytes()) && has_value(file, attribute)
    };
    remove_other_attributes(file, &names, node);
    let wanted = node.extended_attributes.iter().filter(|attribute| context.wants_attribute(&attribute.name));
    for attribute in wanted.filter(|attribute| !is_there(attribute)) {
        let set = rustix::fs::fsetxattr(file, attribute.name.as_os_str(), &attribute.value, XattrFlags::empty());
        if let Err(errno) = set {
            failed("set an extended attribute of", errno);
        }
    }
    // None of this changes the times.
    if current.is_none_or(|current| !has_times(&current, node))
        && let Err(errno) = rustix::fs::futimens(file, &times_of(node))
    {
        failed("set the times of", errno);
    }
}

/// Attributes that say who may do what, or that users have set. A new file inherits ACLs from its
/// directory, so that they are looked for on new files too. Others belong to the system.
fn is_of_the_file(name: &[u8]) -> bool {
    name.starts_with(b"user.")
        || [&b"system.posix_acl_access"[..], b"system.posix_acl_default", b"security.capability"].contains(&name)
}

/// The names of a file's attributes, each with a zero byte behind it. None where they cannot be listed.
fn attribute_names(file: &impl AsFd) -> Vec<u8> {
    // The kernel makes as large a buffer as is asked for, and most files have few attributes or none.
    let mut few = [0_u8; 1024];
    match rustix::fs::flistxattr(file, &mut few) {
        Ok(length) => few[..length].to_vec(),
        Err(Errno::RANGE) => {
            let mut many = vec![0_u8; LIST_BYTES_MAX];
            let length = rustix::fs::flistxattr(file, &mut many).unwrap_or(0);
            many.truncate(length);
            many
        }
        Err(_) => Vec::new(),
    }
}

/// Whether an attribute has the value that it has in the snapshot.
fn has_value(file: &impl AsFd, attribute: &ExtendedAttribute) -> bool {
    // With room for one byte more, so that the beginning of a longer one is not taken for it.
    let mut current = vec![0_u8; attribute.value.len() + 1];
    let read = rustix::fs::fgetxattr(file, attribute.name.as_os_str(), &mut current);
    read.is_ok_and(|length| current.get(..length) == Some(&attribute.value[..]))
}

/// Takes away attributes that the snapshot doesn't have.
fn remove_other_attributes(file: &impl AsFd, names: &[u8], node: &Node) {
    for name in names.split(|byte| *byte == 0).filter(|name| is_of_the_file(name)).map(OsStr::from_bytes) {
        if !node.extended_attributes.iter().any(|attribute| attribute.name == name) {
            // It stays where it may not be removed; the content is right all the same.
            let _ = rustix::fs::fremovexattr(file, name);
        }
    }
}

/// What the kernel allows for the list of one file's attributes.
const LIST_BYTES_MAX: usize = 64 << 10;

pub(super) fn apply_to_directory(context: &Context<'_>, path: &Path, node: &Node) {
    match context.target.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) {
        Ok(directory) => apply(context, path, &directory, node),
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
    // A link has no mode of its own.
    if node.kind != NodeKind::Symlink {
        apply_through_proc(context, parent, name, path, node);
    }
    if let Err(errno) = rustix::fs::utimensat(parent, name, &times_of(node), AtFlags::SYMLINK_NOFOLLOW) {
        failed("set the times of", errno);
    }
}

/// Mode and attributes of a device or FIFO. The kernel sets them by path alone and follows links, so the
/// path is that of a handle that was taken without following: nothing put in its place meanwhile is touched.
fn apply_through_proc(context: &Context<'_>, parent: &OwnedFd, name: &OsStr, path: &Path, node: &Node) {
    let failed = |action, errno: Errno| context.problem(path, &context.target.error(action, path, errno.into()));
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Ok(handle) => handle,
        Err(errno) => return failed("open", errno),
    };
    let is_link = |stat: Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
    if rustix::fs::fstat(&handle).is_ok_and(is_link) {
        return failed("set the mode of", Errno::LOOP);
    }
    let through = format!("/proc/self/fd/{}", handle.as_raw_fd());
    if let Err(errno) = rustix::fs::chmod(&through, mode_of(node)) {
        failed("set the mode of", errno);
    }
    for attribute in node.extended_attributes.iter().filter(|attribute| context.wants_attribute(&attribute.name)) {
        let name = attribute.name.as_os_str();
        if let Err(errno) = rustix::fs::setxattr(&through, name, &attribute.value, XattrFlags::empty()) {
            failed("set an extended attribute of", errno);
        }
    }
}
