//! Where the parts of a restored cluster go on this machine.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use levee_model::postgres::wal_file_name;
use levee_vault::{Progress, RESTORE_LOCK_PATIENCE, RestoreLock, RestoreOptions, restore};

use super::configuration::FOLDERS;
use super::{Mode, RestoreRequest, damaged_base};
use crate::postgres::base::{DATA_PATH, TABLESPACES_PATH};
use crate::postgres::instance::OsUser;
use crate::{Error, Result};

/// A unix socket's path has at most 107 bytes.
const SOCKET_PATH_BYTES_MAX: usize = 107;

pub(super) fn file_error(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::File { doing, path, source }
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(file_error("removing", path)(error)),
        _ => Ok(()),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(suffix);
    PathBuf::from(name)
}

/// Where the tablespaces go for which no place was given: below this folder, by number.
pub fn default_tablespaces(data_directory: &Path) -> PathBuf {
    beside(data_directory, ".tablespaces")
}

/// One part of the cluster: where it is put together, and where it belongs.
struct Part {
    stored: PathBuf,
    incoming: PathBuf,
    target: PathBuf,
    /// `None` for the data directory.
    oid: Option<u32>,
}

/// All parts of a cluster; the data directory is the first.
pub(super) struct Layout {
    parts: Vec<Part>,
}

/// What was restored.
pub(super) struct Restored {
    pub files: u64,
    pub bytes: u64,
}

impl Layout {
    pub fn of(request: &RestoreRequest<'_>) -> Result<Layout> {
        let incoming = |target: &Path| beside(target, ".levee-restore");
        let data = request.data_directory;
        let mut parts =
            vec![Part { stored: DATA_PATH.into(), incoming: incoming(data), target: data.into(), oid: None }];
        for tablespace in &request.plan.base.facts.tablespaces {
            let target = match request.tablespaces.get(Path::new(&tablespace.location)) {
                Some(target) => target.clone(),
                None => default_tablespaces(data).join(tablespace.oid.to_string()),
            };
            if !target.is_absolute() {
                let value = target.display().to_string();
                return Err(Error::InvalidSetting { setting: "a tablespace's path", value });
            }
            parts.push(Part {
                stored: Path::new(TABLESPACES_PATH).join(tablespace.oid.to_string()),
                incoming: incoming(&target),
                target,
                oid: Some(tablespace.oid),
            });
        }
        Ok(Layout { parts })
    }

    /// Where the data directory is put together.
    pub fn incoming(&self) -> &Path {
        &self.parts[0].incoming
    }

    /// Nothing may lie where something is to be put.
    pub fn check_free(&self) -> Result<()> {
        for part in &self.parts {
            match fs::read_dir(&part.target) {
                Ok(mut entries) => {
                    if entries.next().is_some() {
                        return Err(Error::NotEmpty { path: part.target.clone() });
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(file_error("looking into", &part.target)(error)),
            }
        }
        Ok(())
    }

    pub fn restore(&self, request: &RestoreRequest<'_>, user: &OsUser, progress: &dyn Progress) -> Result<Restored> {
        let mut restored = Restored { files: 0, bytes: 0 };
        for part in &self.parts {
            // What an interrupted restore has left is ours alone.
            match fs::remove_dir_all(&part.incoming) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(file_error("removing", &part.incoming)(error));
                }
                _ => {}
            }
            let options = RestoreOptions {
                target: part.incoming.clone(),
                subfolder: Some(part.stored.clone()),
                owner: Some((user.uid, user.gid)),
                lock: RestoreLock::IfPossible,
                patience: RESTORE_LOCK_PATIENCE,
                ..RestoreOptions::default()
            };
            let summary = restore(request.vault, &request.plan.base.snapshot, &options, progress)
                .map_err(Error::vault("restoring the base backup"))?;
            if let Some(first) = &summary.errors.first_damage {
                return Err(damaged_base(request, format!("{}: {}", first.path.display(), first.message)));
            }
            if let Some(first) = summary.errors.first.first() {
                return Err(Error::NotRestored {
                    problems: summary.errors.count,
                    first: format!("{}: {}", first.path.display(), first.message),
                });
            }
            restored.files += summary.files_restored;
            restored.bytes += summary.bytes_written;
            let mode = Permissions::from_mode(0o700);
            fs::set_permissions(&part.incoming, mode).map_err(file_error("setting the mode of", &part.incoming))?;
        }
        // From it, recovery would make the links again as they were at the source.
        remove_file(&self.incoming().join("tablespace_map"))?;
        // The signal of a standby that the base was taken from would start recovery before everything is in place.
        for signal in ["recovery.signal", "standby.signal"] {
            remove_file(&self.incoming().join(signal))?;
        }
        self.link_tablespaces(|part| &part.incoming)?;
        Ok(restored)
    }

    fn link_tablespaces<'a>(&'a self, place: impl Fn(&'a Part) -> &'a Path) -> Result<()> {
        for part in &self.parts {
            let Some(oid) = part.oid else { continue };
            let link = self.incoming().join("pg_tblspc").join(oid.to_string());
            remove_file(&link)?;
            symlink(place(part), &link).map_err(file_error("linking", &link))?;
        }
        Ok(())
    }

    /// Files that were written by this process belong to the server's user.
    pub fn give_to(&self, user: &OsUser) -> Result<()> {
        if !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        let mut folders = vec![self.incoming().to_path_buf()];
        user.own(self.incoming())?;
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).map_err(file_error("listing", &folder))? {
                let entry = entry.map_err(file_error("listing", &folder))?;
                let kind = entry.file_type().map_err(file_error("looking at", &folder))?;
                // Everything deeper came from the snapshot, with its owner.
                let ours = FOLDERS.map(|name| self.incoming().join(name));
                if folder == self.incoming() || ours.iter().any(|ours| folder.starts_with(ours)) {
                    user.own(&entry.path())?;
                }
                if kind.is_dir() && ours.iter().any(|ours| entry.path().starts_with(ours)) {
                    folders.push(entry.path());
                }
                if kind.is_dir() && entry.file_name() == "pg_tblspc" {
                    for part in self.parts.iter().filter_map(|part| part.oid) {
                        user.own(&entry.path().join(part.to_string()))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Lets the tablespaces' links lead to where they will be.
    pub fn link_final(&self) -> Result<()> {
        self.link_tablespaces(|part| &part.target)
    }

    /// Gives every part its name, the data directory last. Its content is on the disk before: whoever finds it under its name
    /// takes it for whole, also after a power cut. One call for each file system costs less than one for each file. Only
    /// the rename of the data directory is left to do when a server could be started in it.
    pub fn enter(&self, mode: Mode, user: &OsUser) -> Result<()> {
        let mut synced = BTreeSet::new();
        for part in &self.parts {
            let mut sync = || {
                let folder = File::open(&part.incoming)?;
                if synced.insert(folder.metadata()?.dev()) {
                    rustix::fs::syncfs(&folder)?;
                }
                Ok(())
            };
            sync().map_err(file_error("syncing the file system of", &part.incoming))?;
        }
        for part in self.parts.iter().rev() {
            if part.oid.is_none() {
                write_signal(&part.incoming, mode, user)?;
            }
            if let Some(parent) = part.target.parent() {
                fs::create_dir_all(parent).map_err(file_error("creating", parent))?;
            }
            // Over an empty folder a rename succeeds as well.
            fs::rename(&part.incoming, &part.target).map_err(file_error("renaming", &part.incoming))?;
            if let Some(parent) = part.target.parent() {
                File::open(parent).and_then(|folder| folder.sync_all()).map_err(file_error("syncing", parent))?;
            }
        }
        Ok(())
    }
}

pub(super) fn check_socket_path(private_directory: &Path, port: u16) -> Result<()> {
    let socket = private_directory.join(format!(".s.PGSQL.{port}"));
    if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        return Err(Error::SocketPathTooLong { path: socket });
    }
    Ok(())
}

pub(super) fn private_directory(path: &Path, user: &OsUser) -> Result<()> {
    fs::create_dir_all(path).map_err(file_error("creating", path))?;
    fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(file_error("setting the mode of", path))?;
    if rustix::process::geteuid().is_root() { user.own(path) } else { Ok(()) }
}

pub(super) fn identity_copy(private_directory: &Path) -> PathBuf {
    private_directory.join("journal-identity.txt")
}

/// An identity file that the server's user can read: the given one, or a copy in the private folder.
pub(super) fn readable_identity(request: &RestoreRequest<'_>, user: &OsUser) -> Result<PathBuf> {
    if rustix::process::geteuid().as_raw() == user.uid {
        return Ok(request.identity_file.to_path_buf());
    }
    let content = fs::read(request.identity_file).map_err(file_error("reading", request.identity_file))?;
    let path = identity_copy(request.private_directory);
    let _ = fs::remove_file(&path);
    let write = || {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o400).open(&path)?;
        file.write_all(&content)?;
        file.sync_all()
    };
    write().map_err(file_error("writing", &path))?;
    user.own(&path)?;
    Ok(path)
}

/// Runs `restore_command`'s program once, as the server will: a folder that is closed to its user is
/// found now, and not in the middle of a recovery.
pub(super) fn check_fetch_wal(request: &RestoreRequest<'_>, user: &OsUser, identity_file: &Path) -> Result<()> {
    let plan = request.plan;
    let facts = &plan.base.facts;
    let name = wal_file_name(facts.timeline, facts.start, facts.segment_size);
    let probe = request.private_directory.join("fetch-wal-check");
    let mut command = user.command(request.fetch_wal_program)?;
    command
        .args(["database", "fetch-wal", "--journal"])
        .arg(request.journal.dir())
        .arg("--identity-file")
        .arg(identity_file)
        .args(["--system-identifier", &plan.system_identifier.to_string(), &name])
        .arg(&probe)
        .stdin(Stdio::null());
    let doing = "running fetch-wal as the server's user";
    let output = command.output().map_err(|source| Error::System { doing, source })?;
    let _ = fs::remove_file(&probe);
    if output.status.success() {
        return Ok(());
    }
    Err(Error::JournalClosedTo {
        user: user.name.clone(),
        journal: request.journal.dir().into(),
        reason: String::from_utf8_lossy(&output.stderr).trim().to_string(),
    })
}

/// Lets whoever gets at the private socket in without a password.
pub(super) fn write_open_hba(private_directory: &Path, user: &OsUser) -> Result<()> {
    let path = private_directory.join("pg_hba.conf");
    fs::write(&path, "local all all trust\n").map_err(file_error("writing", &path))?;
    if rustix::process::geteuid().is_root() { user.own(&path) } else { Ok(()) }
}

/// Lets recovery begin. Until it is there PostgreSQL does not start in a restored data directory: without it only the
/// directory's own log counts, and there is none.
fn write_signal(data_directory: &Path, mode: Mode, user: &OsUser) -> Result<()> {
    let name = match mode {
        Mode::Promote | Mode::Pause => "recovery.signal",
        Mode::Standby => "standby.signal",
    };
    let path = data_directory.join(name);
    // The folder belongs to the database's user already: no link that was put there meanwhile is followed.
    let file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(file_error("writing", &path))?;
    let sync = || {
        if rustix::process::geteuid().is_root() {
            fchown(&file, Some(user.uid), Some(user.gid))?;
        }
        file.sync_all()?;
        File::open(data_directory)?.sync_all()
    };
    sync().map_err(file_error("syncing", &path))
}
