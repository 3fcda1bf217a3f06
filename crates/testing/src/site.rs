use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::process::kill_all_under;
use crate::users::User;

/// A folder that stands for one place that can fail as a whole. Dropping it ends every process that
/// works below it, and removes it.
#[derive(Debug)]
pub struct TempSite {
    folder: tempfile::TempDir,
}

impl TempSite {
    /// A new folder that every user may enter, below the system's folder for temporary files. Paths
    /// are kept short: a unix socket's may have 107 characters.
    pub fn new(name: &str) -> TempSite {
        TempSite::below(&std::env::temp_dir(), name)
    }

    /// A new folder below another one.
    pub fn below(parent: &Path, name: &str) -> TempSite {
        let folder = tempfile::Builder::new()
            .prefix(&format!("levee-{name}-"))
            .tempdir_in(parent)
            .unwrap_or_else(|error| panic!("cannot make a temporary folder in {}: {error}", parent.display()));
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("our own folder");
        TempSite { folder }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Makes a folder below the site.
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()));
        path
    }

    /// Makes a folder below the site that belongs to the database's user.
    pub fn database_folder(&self, name: &str) -> PathBuf {
        let path = self.folder(name);
        if let Some(user) = User::for_database() {
            user.own(&path);
        }
        path
    }

    /// Ends everything that runs below this site, and leaves the folder.
    pub fn keep(mut self) -> PathBuf {
        self.kill_everything();
        self.folder.disable_cleanup(true);
        self.folder.path().to_path_buf()
    }

    /// Sends SIGKILL to everything that runs below this site, as its loss would.
    pub fn kill_everything(&self) {
        kill_all_under(self.path());
    }
}

impl Drop for TempSite {
    fn drop(&mut self) {
        self.kill_everything();
    }
}
