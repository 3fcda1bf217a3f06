use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Where downloaded and unpacked servers are kept between runs. `LEVEE_TESTS_CACHE` names another
/// place; without it, it is below `/var/cache`, or below the user's own cache when that is not writable.
pub fn folder() -> PathBuf {
    let system = PathBuf::from("/var/cache/levee-tests");
    let chosen = match std::env::var_os("LEVEE_TESTS_CACHE") {
        Some(folder) => PathBuf::from(folder),
        None if fs::create_dir_all(&system).is_ok() && is_writable(&system) => system,
        None => {
            PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/tmp".into())).join(".cache").join("levee-tests")
        }
    };
    fs::create_dir_all(&chosen).unwrap_or_else(|error| panic!("cannot make the folder {}: {error}", chosen.display()));
    chosen
}

fn is_writable(folder: &Path) -> bool {
    rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_ok()
}

/// The folder `name` of the cache, filled by `fill` once, whoever comes first: other processes wait.
/// `fill` gets a folder of its own, which gets the name only when it has succeeded.
pub(crate) fn filled_once(name: &str, fill: impl FnOnce(&Path) -> Result<(), String>) -> Result<PathBuf, String> {
    let folder = folder();
    let done = folder.join(name);
    if done.exists() {
        return Ok(done);
    }
    let lock_path = folder.join(format!("{name}.lock"));
    let failed = |what: &str, error: std::io::Error| format!("cannot {what} {}: {error}", lock_path.display());
    let lock = File::create(&lock_path).map_err(|error| failed("make", error))?;
    lock.lock().map_err(|error| failed("lock", error))?;
    if done.exists() {
        return Ok(done);
    }
    let unfinished = folder.join(format!("{name}.unfinished"));
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).map_err(|error| format!("cannot remove {}: {error}", unfinished.display()))?;
    }
    fs::create_dir_all(&unfinished).map_err(|error| format!("cannot make {}: {error}", unfinished.display()))?;
    fill(&unfinished)?;
    fs::rename(&unfinished, &done)
        .map_err(|error| format!("cannot rename {} to {}: {error}", unfinished.display(), done.display()))?;
    Ok(done)
}
