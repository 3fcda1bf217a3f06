use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo};
use jiff::Timestamp;

use crate::{FileTime, Node, NodeKind};

/// What `stat` calls a block.
const BLOCK_BYTES: u64 = 512;
const IO_BYTES: u32 = 1 << 20;

pub(super) fn file_type(kind: NodeKind) -> Option<FileType> {
    Some(match kind {
        NodeKind::File => FileType::RegularFile,
        NodeKind::Dir => FileType::Directory,
        NodeKind::Symlink => FileType::Symlink,
        NodeKind::Dev => FileType::BlockDevice,
        NodeKind::CharDev => FileType::CharDevice,
        NodeKind::Fifo => FileType::NamedPipe,
        NodeKind::Socket => FileType::Socket,
        NodeKind::Irregular => return None,
    })
}

fn system_time(time: FileTime) -> SystemTime {
    let seconds = Duration::from_secs(time.seconds.unsigned_abs());
    let whole = if time.seconds < 0 { UNIX_EPOCH.checked_sub(seconds) } else { UNIX_EPOCH.checked_add(seconds) };
    let exact = whole.and_then(|whole| whole.checked_add(Duration::from_nanos(u64::from(time.nanoseconds))));
    exact.unwrap_or(UNIX_EPOCH)
}

/// A directory above the snapshots, or a link in one.
pub(super) fn made_up(number: u64, kind: FileType, size: u64, time: Timestamp) -> FileAttr {
    let time = system_time(time.into());
    FileAttr {
        ino: INodeNo(number),
        size,
        blocks: 0,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind,
        perm: if kind == FileType::Directory { 0o555 } else { 0o777 },
        nlink: if kind == FileType::Directory { 2 } else { 1 },
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        rdev: 0,
        blksize: IO_BYTES,
        flags: 0,
    }
}

pub(super) fn of_node(number: u64, node: &Node, size: u64, owner_root: bool) -> Option<FileAttr> {
    let kind = file_type(node.kind)?;
    let (uid, gid) = if owner_root { (0, 0) } else { (node.uid, node.gid) };
    Some(FileAttr {
        ino: INodeNo(number),
        size,
        blocks: size.div_ceil(BLOCK_BYTES),
        atime: system_time(node.atime),
        mtime: system_time(node.mtime),
        ctime: system_time(node.ctime),
        crtime: system_time(node.ctime),
        kind,
        perm: (node.mode & 0o7777) as u16,
        nlink: u32::try_from(node.links).unwrap_or(u32::MAX).max(1),
        uid,
        gid,
        // The kernel's own form fits.
        rdev: node.device as u32,
        blksize: IO_BYTES,
        flags: 0,
    })
}
