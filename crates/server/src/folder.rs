use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::error::{Result, ServerError};

/// The server's folder:
///
/// ```text
/// state.db      what the server knows (SQLite)
/// ca/           the certificate authority and the key for grants, 0600
/// entries.json  what the server's own DNS node answers
/// admin-token   the first token, 0600; may be removed once it was copied
/// lock          held while a server runs here
/// ```
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    lock: File,
}

impl Folder {
    /// Opens the folder for this process alone, making it when it is not there.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |doing, path: &Path| {
            let path = path.to_path_buf();
            move |source| ServerError::File { doing, path, source }
        };
        std::fs::create_dir_all(path).map_err(failed("make the folder", path))?;
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
            .map_err(failed("set the mode of", path))?;
        let lock_path = path.join("lock");
        let lock = File::create(&lock_path).map_err(failed("open", &lock_path))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| ServerError::FolderInUse { path: path.to_path_buf() })?;
        Ok(Self { path: path.to_path_buf(), lock })
    }

    /// Lets another process have the folder. Nothing may be changed in it from here on.
    pub fn release(&self) {
        // The lock ends with the process at the latest.
        let _ = flock(&self.lock, FlockOperation::Unlock);
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn state(&self) -> PathBuf {
        self.path.join("state.db")
    }

    pub fn authority(&self) -> PathBuf {
        self.path.join("ca")
    }

    pub fn entries(&self) -> PathBuf {
        self.path.join("entries.json")
    }

    pub fn admin_token(&self) -> PathBuf {
        self.path.join("admin-token")
    }
}
