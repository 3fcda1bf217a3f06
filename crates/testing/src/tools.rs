//! The stock tools that tests hold Levee's formats against.

use std::path::{Path, PathBuf};

/// The path of `age`, the independent reader of journal files' encryption.
pub fn age() -> PathBuf {
    required("age")
}

/// The path of `zstd`, the independent reader of journal files' compression.
pub fn zstd() -> PathBuf {
    required("zstd")
}

/// The library that gives one process another clock (`LD_PRELOAD`).
#[track_caller]
pub fn faketime() -> PathBuf {
    find_faketime().unwrap_or_else(|| panic!("libfaketime is not installed: run `cargo xtask setup`"))
}

/// Where that library lies.
pub fn find_faketime() -> Option<PathBuf> {
    let path = format!("/usr/lib/{}-linux-gnu/faketime/libfaketimeMT.so.1", std::env::consts::ARCH);
    Some(PathBuf::from(path)).filter(|path| path.is_file())
}

/// Where a program of the search path (and of the system's own folders) lies.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|candidate| Path::new(candidate).is_file())
}

/// Where a program lies; its absence fails the test that needs it.
#[track_caller]
pub fn required(program: &str) -> PathBuf {
    find(program).unwrap_or_else(|| panic!("{program} is not installed: run `cargo xtask setup`"))
}
