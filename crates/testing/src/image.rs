//! Disk images, made and judged by the stock tools: `qemu-img`, `mke2fs`, `mkfs.xfs`, `sfdisk`.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::process::{run, try_run};
use crate::tools;

/// Runs `qemu-img`, which must succeed, and returns what it printed.
#[track_caller]
pub fn qemu_img<S: AsRef<OsStr>>(arguments: &[S]) -> String {
    run(Command::new(tools::required("qemu-img")).args(arguments))
}

/// Whether `qemu-img check` finds an image without any fault or leak.
#[track_caller]
pub fn assert_sound_qcow2(image: &Path) {
    qemu_img(&[OsStr::new("check"), OsStr::new("-q"), image.as_os_str()]);
}

/// Holds two images of any format against each other.
#[track_caller]
pub fn assert_same_content(image: &Path, other: &Path) {
    qemu_img(&[OsStr::new("compare"), OsStr::new("-q"), image.as_os_str(), other.as_os_str()]);
}

/// An empty file of a size.
#[track_caller]
pub fn empty(image: &Path, bytes: u64) {
    let file = File::create(image).unwrap_or_else(|error| panic!("cannot create {}: {error}", image.display()));
    file.set_len(bytes).unwrap_or_else(|error| panic!("cannot size {}: {error}", image.display()));
}

/// Makes an ext4 of what a folder holds, without mounting anything.
#[track_caller]
pub fn ext4_of(folder: &Path, image: &Path, mebibytes: u32, options: &[&str]) {
    let mut command = Command::new(tools::required("mke2fs"));
    command.args(["-q", "-F", "-t", "ext4", "-d"]).arg(folder).args(options).arg(image);
    run(command.arg(format!("{mebibytes}m")));
}

/// Makes an empty XFS, or one of what a protofile says.
#[track_caller]
pub fn xfs(image: &Path, mebibytes: u32, options: &[&OsStr]) {
    empty(image, u64::from(mebibytes) << 20);
    run(Command::new(tools::required("mkfs.xfs")).args(["-q", "-f"]).args(options).arg(image));
}

/// Writes a table of partitions that `sfdisk` reads from its input.
#[track_caller]
pub fn partition(image: &Path, script: &str) {
    let mut command = Command::new(tools::required("sfdisk"));
    let command = command.args(["-q", "--no-reread", "--no-tell-kernel"]).arg(image).stdin(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start sfdisk: {error}"));
    let mut input = child.stdin.take().expect("its input is a pipe");
    input.write_all(script.as_bytes()).unwrap_or_else(|error| panic!("cannot write to sfdisk: {error}"));
    drop(input);
    let status = child.wait().unwrap_or_else(|error| panic!("cannot wait for sfdisk: {error}"));
    assert!(status.success(), "sfdisk: {status}");
}

/// An image that is mounted until the value is dropped. Needs root.
#[derive(Debug)]
pub struct Mounted {
    folder: PathBuf,
}

impl Mounted {
    /// Mounts it, a file through a loop device, on a folder, which is made.
    #[track_caller]
    pub fn mount(image: &Path, folder: &Path) -> Mounted {
        std::fs::create_dir_all(folder).unwrap_or_else(|error| panic!("cannot make {}: {error}", folder.display()));
        let options: &[&str] = if image.is_file() { &["-o", "loop"] } else { &[] };
        run(Command::new("mount").args(options).arg(image).arg(folder));
        Mounted { folder: folder.into() }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Not lazily: the image is read next, and must be whole by then.
        if let Err(message) = try_run(Command::new("umount").arg(&self.folder)) {
            eprintln!("{message}");
            let _ = try_run(Command::new("umount").arg("-l").arg(&self.folder));
        }
    }
}

/// A loop device over a file, until the value is dropped. Needs root.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
}

impl LoopDevice {
    #[track_caller]
    pub fn over(file: &Path) -> LoopDevice {
        let printed = run(Command::new("losetup").args(["--find", "--show"]).arg(file));
        LoopDevice { path: printed.trim().into() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = try_run(Command::new("losetup").arg("-d").arg(&self.path));
    }
}
