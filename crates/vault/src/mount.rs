//! A vault as a read-only file system, by FUSE (Linux, without libfuse).
//!
//! The kernel asks for names and for bytes of files; directories come from the vault's trees, bytes from
//! blobs, a bounded number of which are kept. What the kernel has forgotten is forgotten here too, so that
//! memory does not grow with what was looked at.

mod attributes;
mod filesystem;
mod inodes;
mod large_trees;
mod layout;
mod time_template;

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use fuser::{BackgroundSession, Config, MountOption, SessionACL};
use rustix::mount::UnmountFlags;

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
    at: PathBuf,
    /// Ends when the last question has been answered.
    serving: Receiver<Infallible>,
    _lock: Option<Lock>,
}

/// Mounts a vault at a directory.
pub fn mount(vault: &Vault, at: &Path, options: &MountOptions) -> Result<Mounted> {
    let failed = |source| Error::Target { action: "mount the vault at", path: at.to_path_buf(), source };
    // Where it is unmounted from, whatever becomes of links on the way there.
    let at = std::fs::canonicalize(at).map_err(failed)?;
    let lock = if options.no_lock { None } else { Some(Lock::take(vault, LockMode::Shared)?) };
    vault.refresh_index()?;
    let (served, serving) = channel();
    let filesystem = VaultFilesystem::new(vault.clone(), options, served)?;
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
    let session = fuser::spawn_mount(filesystem, &at, &config).map_err(failed)?;
    Ok(Mounted { session, at, serving, _lock: lock })
}

impl Mounted {
    /// Waits until someone unmounts it, or `is_over` says that it is enough, and then unmounts it as `unmount` does.
    pub fn wait(self, is_over: impl Fn() -> bool, in_use: impl FnOnce()) -> Result<()> {
        while !self.session.guard.is_finished() {
            if is_over() {
                return self.unmount(in_use);
            }
            std::thread::sleep(LOOK_EVERY);
        }
        self.session.join().map_err(|source| Error::System { action: "serve the mounted vault", source })
    }

    /// Unmounts it. While something in it is in use, that goes on being served, though it is at no place any more:
    /// `in_use` is called, and this returns when the last has closed what it has open.
    pub fn unmount(self, in_use: impl FnOnce()) -> Result<()> {
        let Self { session, at, serving, _lock } = self;
        let failed = |source| Error::Target { action: "unmount the vault from", path: at.clone(), source };
        match session.umount_and_join() {
            // Others than root are through fusermount, which detaches what is in use, and have waited by now.
            Err(source) if source.kind() == io::ErrorKind::ResourceBusy => {}
            result => return result.map_err(failed),
        }
        // The session's handle is used up. To end now would leave a place at which everybody who looks gets errors, until
        // root unmounts it by hand.
        let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        rustix::mount::unmount(&at, flags).map_err(|error| failed(error.into()))?;
        in_use();
        // Nothing ever comes but the end.
        let _ = serving.recv();
        Ok(())
    }
}
