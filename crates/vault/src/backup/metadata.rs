use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use xattr::{FileExt, XAttrs};

use super::Context;
use crate::problem::ProblemLog;
use crate::{ExtendedAttribute, FileTime, Node, NodeKind};

/// Two changes this close together may carry the same time: the kernel's clock moves in ticks.
const TICK: Duration = Duration::from_millis(20);

/// What a directory entry is; `None` for sockets, which cannot be restored.
pub(super) fn kind_of(metadata: &Metadata) -> Option<NodeKind> {
    let file_type = metadata.file_type();
    Some(match () {
        () if file_type.is_file() => NodeKind::File,
        () if file_type.is_dir() => NodeKind::Dir,
        () if file_type.is_symlink() => NodeKind::Symlink,
        () if file_type.is_block_device() => NodeKind::Dev,
        () if file_type.is_char_device() => NodeKind::CharDev,
        () if file_type.is_fifo() => NodeKind::Fifo,
        () => return None,
    })
}

/// A node of what the file system says of a path, without content.
pub(super) fn node_of(context: &Context<'_>, name: &OsStr, path: &Path, kind: NodeKind, metadata: &Metadata) -> Node {
    let extended_attributes = match kind {
        NodeKind::Symlink => Vec::new(),
        _ => extended_attributes(xattr::list(path), |name| xattr::get(path, name), path, &context.problems),
    };
    Node { extended_attributes, ..bare_node(context, name, kind, metadata) }
}

/// The same of a file that is open.
pub(super) fn node_of_file(context: &Context<'_>, file: &File, path: &Path, metadata: &Metadata) -> Node {
    let (names, get) = (file.list_xattr(), |name: &OsStr| file.get_xattr(name));
    let extended_attributes = extended_attributes(names, get, path, &context.problems);
    Node { extended_attributes, ..bare_node(context, path.file_name().unwrap_or_default(), NodeKind::File, metadata) }
}

fn bare_node(context: &Context<'_>, name: &OsStr, kind: NodeKind, metadata: &Metadata) -> Node {
    let is_device = matches!(kind, NodeKind::Dev | NodeKind::CharDev);
    let has_links = is_device || matches!(kind, NodeKind::File | NodeKind::Symlink);
    Node {
        mtime: time(metadata.mtime(), metadata.mtime_nsec()),
        atime: atime_of(context, metadata),
        ctime: time(metadata.ctime(), metadata.ctime_nsec()),
        uid: metadata.uid(),
        gid: metadata.gid(),
        user: context.accounts.user(metadata.uid()),
        group: context.accounts.group(metadata.gid()),
        inode: metadata.ino(),
        device_id: metadata.dev(),
        size: if kind == NodeKind::File { metadata.size() } else { 0 },
        links: if has_links { metadata.nlink() } else { 0 },
        device: if is_device { metadata.rdev() } else { 0 },
        ..Node::new(name.to_os_string(), kind, metadata.mode() & 0o7777)
    }
}

fn time(seconds: i64, nanoseconds: i64) -> FileTime {
    FileTime::new(seconds, u32::try_from(nanoseconds).unwrap_or(0))
}

/// The time of last access, or what is stored in its place.
pub(super) fn atime_of(context: &Context<'_>, metadata: &Metadata) -> FileTime {
    if context.options.with_atime {
        time(metadata.atime(), metadata.atime_nsec())
    } else {
        time(metadata.mtime(), metadata.mtime_nsec())
    }
}

fn extended_attributes(
    names: io::Result<XAttrs>,
    get: impl Fn(&OsStr) -> io::Result<Option<Vec<u8>>>,
    path: &Path,
    problems: &ProblemLog<'_>,
) -> Vec<ExtendedAttribute> {
    let names: Vec<OsString> = match names {
        Ok(names) => names.collect(),
        // File systems without them, and files that have vanished, which is noticed elsewhere.
        Err(error) if is_unsupported(&error) || error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            problems.add_error(path, "cannot list its extended attributes", &error);
            return Vec::new();
        }
    };
    let mut attributes = Vec::with_capacity(names.len());
    for name in names {
        match get(&name) {
            Ok(Some(value)) => attributes.push(ExtendedAttribute { name, value }),
            Ok(None) => {}
            Err(error) => problems.add_error(path, "cannot read an extended attribute", &error),
        }
    }
    attributes
}

fn is_unsupported(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NOTSUP.raw_os_error())
}

/// A file that was changed within the clock's last tick may be changed again without its times showing
/// it. Its stored time is moved a little, so that the next backup reads it again.
pub(crate) fn distrust_if_just_changed(node: &mut Node, read_at: SystemTime) {
    let since_epoch = read_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let horizon = since_epoch.saturating_sub(TICK);
    let horizon = FileTime::new(horizon.as_secs() as i64, horizon.subsec_nanos());
    if node.ctime >= horizon {
        node.ctime = node.ctime.one_nanosecond_earlier();
    }
}

/// Whether a file is as the parent knew it, so that its content need not be read.
pub(super) fn is_unchanged(context: &Context<'_>, parent: &Node, metadata: &Metadata) -> bool {
    let ignore_inode = context.options.ignore_inode;
    let ignore_ctime = ignore_inode || context.options.ignore_ctime;
    parent.kind == NodeKind::File
        && parent.content.is_some()
        && parent.size == metadata.size()
        && (ignore_inode || parent.inode == metadata.ino())
        && parent.mtime == time(metadata.mtime(), metadata.mtime_nsec())
        && (ignore_ctime || parent.ctime == time(metadata.ctime(), metadata.ctime_nsec()))
}
