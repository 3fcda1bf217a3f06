//! Files that appear whole and on disk, or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::direct;

/// Names that start so are being written, or were left behind by a crash on a file system that knows no
/// files without a name. They are never listed.
const TEMPORARY_PREFIX: &str = ".tmp-";

/// Writes a file that isn't there yet. Fails with `AlreadyExists` rather than replace anything.
pub(super) fn write_new(folder: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    // A file without a name goes by itself when its writer is killed.
    match unnamed_file(folder) {
        Ok(file) => {
            fill(&file, content)?;
            match give_name(&file, path) {
                // Without /proc there is no way to it.
                Err(error) if error.kind() == ErrorKind::NotFound => write_named(folder, path, content)?,
                other => other?,
            }
        }
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => write_named(folder, path, content)?,
        Err(error) => return Err(error.into()),
    }
    sync_folder(folder)
}

/// Writes a file in the place of one that is there.
pub(super) fn replace(folder: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    temporary_file(folder, content)?.persist(path)?;
    sync_folder(folder)
}

fn unnamed_file(folder: &Path) -> Result<File, Errno> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR).map(File::from)
}

fn give_name(file: &File, path: &Path) -> io::Result<()> {
    let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(rustix::fs::linkat(CWD, unnamed, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

fn write_named(folder: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = temporary_file(folder, content)?;
    match rustix::fs::renameat_with(CWD, &*temporary, CWD, path, RenameFlags::NOREPLACE) {
        Ok(()) => {
            // The name is gone, so there is nothing left to clean up.
            let _ = temporary.keep();
            Ok(())
        }
        // Some file systems cannot promise it in one step: a second name for the file can.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => fs::hard_link(&temporary, path),
        Err(error) => Err(error.into()),
    }
}

fn temporary_file(folder: &Path, content: &[u8]) -> io::Result<tempfile::TempPath> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let named = tempfile::Builder::new().prefix(TEMPORARY_PREFIX).make_in(folder, |path| options.open(path))?;
    let (file, path) = named.into_parts();
    fill(&file, content)?;
    Ok(path)
}

fn fill(file: &File, content: &[u8]) -> io::Result<()> {
    direct::write_all(file, content)?;
    file.sync_all()?;
    let size = file.metadata()?.len();
    if size != content.len() as u64 {
        return Err(io::Error::other(format!("{size} of {} bytes were written", content.len())));
    }
    Ok(())
}

pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        other => other,
    }
}

/// Makes a folder with all those above it, each durable in its parent.
pub(super) fn create_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_folder(parent)?;
    make_folder(folder)?;
    sync_folder(parent)
}

pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_writing_never_replace() {
        let dir = tempfile::tempdir().unwrap();
        for (name, write) in [("unnamed", write_new as fn(&Path, &Path, &[u8]) -> _), ("named", write_named)] {
            let path = dir.path().join(name);
            write(dir.path(), &path, b"first").unwrap();
            let again = write(dir.path(), &path, b"second").unwrap_err();
            assert_eq!(again.kind(), ErrorKind::AlreadyExists, "{name}");
            assert_eq!(fs::read(&path).unwrap(), b"first", "{name}");
            replace(dir.path(), &path, b"third").unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"third", "{name}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "something was left behind");
    }
}
