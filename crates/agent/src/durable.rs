//! Small files that must survive a crash whole: either the old content or the new, never a mixture.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Tells the temporary files of threads that write the same path apart.
static WRITES: AtomicU64 = AtomicU64::new(0);

/// Writes a file of mode 0600. When it returns, the content is on the disk under its name.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let temporary = path.with_file_name(format!(
        ".{}.{}.{}.tmp",
        path.file_name().unwrap_or_default().to_string_lossy(),
        std::process::id(),
        WRITES.fetch_add(1, Ordering::Relaxed)
    ));
    let replace = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    replace().inspect_err(|_| {
        // On a full disk half a file would stay behind with each attempt; one that was never made can't be removed.
        let _ = fs::remove_file(&temporary);
    })?;
    File::open(folder)?.sync_all()
}

/// Removes what a process that was killed had begun to write into a folder. Nobody may be writing there.
pub fn remove_unfinished(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(".tmp") {
            // It is in nobody's way; the next start tries again.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// `write` of a value as JSON.
pub fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    write(path, &serde_json::to_vec_pretty(value).map_err(io::Error::other)?)
}

/// Reads a value back; `None` when there is no such file.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(content) => serde_json::from_slice(&content).map(Some).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_goes_and_the_rest_stays() {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("state.json"), b"{}").unwrap();
        for name in [".state.json.17.3.tmp", ".hidden", "other.tmp"] {
            fs::write(folder.path().join(name), "half").unwrap();
        }
        remove_unfinished(folder.path());
        let mut left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [".hidden", "other.tmp", "state.json"]);
        remove_unfinished(&folder.path().join("absent"));
    }
}
