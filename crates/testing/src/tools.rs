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
