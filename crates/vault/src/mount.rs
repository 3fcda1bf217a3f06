//! A vault as a read-only file system, by FUSE (Linux, without libfuse).
//!
//! The kernel asks for names and for bytes of files; directories come from the vault's trees, bytes from
//! blobs, a bounded number of which are kept. What the kernel has forgotten is forgotten here too, so that
//! memory does not grow with what was looked at.

mod attributes;
mod filesystem;
mod inodes;
mod layout;
mod time_template;

use std::path::Path;
use std::time::Duration;

use fuser::{BackgroundSession, Config, MountOption, SessionACL};

use crate::{Error, Lock, LockMode, Result, SnapshotSelection, Vault};
use filesystem::VaultFilesystem;
pub use layout::{DEFAULT_TEMPLATES, DEFAULT_TIME_TEMPLATE};

/// Requests that are answered at once. Most of the time goes into reading blobs.
const THREADS: usize = 4;
/// How often it is looked whether the file system was unmounted by someone else.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What is mounted, and for whom.
#[derive(Clone, Debug)]
pub struct MountOptions {
    pub selection: SnapshotSelection,
    /// Where each snapshot appears: `%i` short id, `%I` id, `%u` user, `%h` host, `%t` each of its tags,
    /// `%T` time.
    pub templates: Vec<String>,
    /// How `%T` is written, as a layout of Go.
    pub time_template: String,
    /// Let other users in.
    pub allow_other: bool,
    /// Let those read everything, whatever the stored permissions say.
    pub ignore_permissions: bool,
    /// Show everything as root's.
    pub owner_root: bool,
    /// Take no lock, for repositories that cannot be written to.
    pub no_lock: bool,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            selection: SnapshotSelection::default(),
            templates: DEFAULT_TEMPLATES.map(String::from).to_vec(),
            time_template: DEFAULT_TIME_TEMPLATE.into(),
            allow_other: false,
            ignore_permissions: false,
            owner_root: false,
            no_lock: false,
        }
    }
}

/// A mounted vault. Dropping it unmounts it.
pub struct Mounted {
    session: BackgroundSession,
    _lock: Option<Lock>,
}

/// Mounts a vault at a directory.
pub fn mount(vault: &Vault, at: &Path, options: &MountOptions) -> Result<Mounted> {
    let failed = |source| Error::Target { action: "mount the vault at", path: at.to_path_buf(), source };
    let lock = if options.no_lock { None } else { Some(Lock::take(vault, LockMode::Shared)?) };
    vault.refresh_index()?;
    let filesystem = VaultFilesystem::new(vault.clone(), options)?;
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::RO,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoAtime,
        MountOption::FSName("levee".into()),
        MountOption::Subtype("levee".into()),
    ];
    if options.allow_other {
        config.acl = SessionACL::All;
        if !options.ignore_permissions {
            config.mount_options.push(MountOption::DefaultPermissions);
        }
    }
    config.n_threads = Some(THREADS);
    let session = fuser::spawn_mount(filesystem, at, &config).map_err(failed)?;
    Ok(Mounted { session, _lock: lock })
}

impl Mounted {
    /// Waits until someone unmounts it, or `is_over` says that it is enough, and then unmounts it.
    pub fn wait(self, is_over: impl Fn() -> bool) -> Result<()> {
        while !self.session.guard.is_finished() {
            if is_over() {
                return self.unmount();
            }
            std::thread::sleep(LOOK_EVERY);
        }
        self.session.join().map_err(|source| Error::System { action: "serve the mounted vault", source })
    }

    /// Fails while something in it is in use.
    pub fn unmount(self) -> Result<()> {
        self.session.umount_and_join().map_err(|source| Error::System { action: "unmount the vault", source })
    }
}
