//! A disk that is full before long. Needs root.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::leave_out;
use crate::process::{run, try_run};

/// How much is written at once when the rest is filled up.
const FILL_BYTES: usize = 64 << 10;

/// A file system in memory of a given size, mounted on a folder until the value is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    /// Mounts it on an empty folder.
    #[track_caller]
    pub fn mount(folder: &Path, mebibytes: u32) -> SmallDisk {
        let options = format!("size={mebibytes}m,mode=0755");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "levee-test"]).arg(folder));
        SmallDisk { folder: folder.into() }
    }

    /// Whether this machine lets us mount one. Where it does not, the test is noted as left out.
    pub fn is_possible() -> bool {
        let tried = tempfile::tempdir().is_ok_and(|folder| {
            let mount = try_run(Command::new("mount").args(["-t", "tmpfs", "levee-test"]).arg(folder.path()));
            mount.is_ok() && try_run(Command::new("umount").arg(folder.path())).is_ok()
        });
        if !tried {
            leave_out("this machine mounts nothing");
        }
        tried
    }

    /// Takes the right to write away, or gives it back.
    #[track_caller]
    pub fn set_read_only(&self, is_read_only: bool) {
        let options = if is_read_only { "remount,ro" } else { "remount,rw" };
        run(Command::new("mount").args(["-o", options]).arg(&self.folder));
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }

    /// Takes up all the room that is left, as somebody else's file would.
    #[track_caller]
    pub fn fill(&self) {
        let failed = |error| -> ! { panic!("cannot fill {}: {error}", self.folder.display()) };
        let mut file = File::options().create(true).append(true).open(self.ballast()).unwrap_or_else(|e| failed(e));
        let mut size = FILL_BYTES;
        while size > 0 {
            match file.write_all(&vec![1; size]) {
                Ok(()) => {}
                // The last of it goes in smaller pieces.
                Err(error) if error.kind() == ErrorKind::StorageFull => size /= 2,
                Err(error) => failed(error),
            }
        }
    }

    /// Gives the room back.
    #[track_caller]
    pub fn free(&self) {
        fs::remove_file(self.ballast())
            .unwrap_or_else(|error| panic!("cannot empty {}: {error}", self.folder.display()));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: what still runs there is ended by whoever owns the folder.
        let _ = try_run(Command::new("umount").arg("-l").arg(&self.folder));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_full_until_it_is_freed() {
        if !SmallDisk::is_possible() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let disk = SmallDisk::mount(folder.path(), 1);
        let write = || fs::write(folder.path().join("more"), [7; 8192]);
        write().unwrap();
        fs::remove_file(folder.path().join("more")).unwrap();
        disk.fill();
        assert_eq!(write().unwrap_err().kind(), ErrorKind::StorageFull);
        disk.free();
        write().unwrap();
        drop(disk);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "it is unmounted");
    }
}
