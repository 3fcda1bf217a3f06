//! The start gate: a protected database is started only where, and at the epoch at which, it may write.
//!
//! What the gate knows is a small file, replaced whole and durable before anybody acts on it. After a
//! restart of the machine a writer is not taken at its word: another site may have taken over meanwhile,
//! so somebody who knows has to confirm it first.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use levee_model::{AppName, Epoch};
use serde::{Deserialize, Serialize};

use super::restore;
use crate::{Error, Result};

/// What this site may do with an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateRole {
    Writer,
    /// Stopped for good at this epoch.
    Stopped,
}

/// What the gate's file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateRecord {
    pub app: AppName,
    pub epoch: Epoch,
    pub role: GateRole,
    /// The boot of the machine in which this was last confirmed.
    pub confirmed_boot: String,
}

/// The gate of one app at this site.
#[derive(Clone, Debug)]
pub struct StartGate {
    file: PathBuf,
    app: AppName,
}

impl StartGate {
    /// The gate whose file lies in `folder`, which must exist.
    pub fn open(folder: &Path, app: AppName) -> StartGate {
        StartGate { file: folder.join(format!("{app}.gate.json")), app }
    }

    /// What was last written; `None` when nothing ever was.
    pub fn read(&self) -> Result<Option<GateRecord>> {
        match fs::read(&self.file) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|source| Error::GateUnreadable { path: self.file.clone(), source }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::File { doing: "reading the start gate", path: self.file.clone(), source }),
        }
    }

    /// Makes this site the writer at an epoch, durably, or confirms that it still is.
    ///
    /// # Errors
    /// `GateStale` when a newer epoch is known, or this site has stopped at this one.
    pub fn open_for_writer(&self, epoch: Epoch) -> Result<()> {
        self.check_newer(epoch, GateRole::Writer)?;
        self.write(epoch, GateRole::Writer)
    }

    /// Makes this site the writer again at the epoch at which it was stopped: only for a run that was aborted
    /// before the app had moved.
    ///
    /// # Errors
    /// `GateStale` when a newer epoch is known.
    pub fn reopen(&self, epoch: Epoch) -> Result<()> {
        self.check_newer(epoch, GateRole::Stopped)?;
        self.write(epoch, GateRole::Writer)
    }

    /// Shuts the gate at an epoch, durably. It opens again at a newer one, or by `reopen`.
    pub fn shut(&self, epoch: Epoch) -> Result<()> {
        self.check_newer(epoch, GateRole::Stopped)?;
        self.write(epoch, GateRole::Stopped)
    }

    fn check_newer(&self, epoch: Epoch, role: GateRole) -> Result<()> {
        match self.read()? {
            Some(known) if known.epoch > epoch => {
                Err(Error::GateStale { app: self.app.clone(), epoch, known: known.epoch })
            }
            Some(known) if known.epoch == epoch && known.role == GateRole::Stopped && role == GateRole::Writer => {
                Err(Error::GateStale { app: self.app.clone(), epoch, known: known.epoch })
            }
            _ => Ok(()),
        }
    }

    fn write(&self, epoch: Epoch, role: GateRole) -> Result<()> {
        let record = GateRecord { app: self.app.clone(), epoch, role, confirmed_boot: boot_id()? };
        let error = |source| Error::File { doing: "writing the start gate", path: self.file.clone(), source };
        let text = serde_json::to_vec_pretty(&record).map_err(|source| error(source.into()))?;
        let beside = self.file.with_added_extension("tmp");
        let mut file = File::create(&beside).map_err(error)?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(error)?;
        fs::rename(&beside, &self.file).map_err(error)?;
        let folder = self.file.parent().unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(error)
    }

    /// Says whether the app's databases may be started here at this epoch.
    ///
    /// # Errors
    /// `GateShut`, with what to do.
    pub fn check_start(&self, epoch: Epoch) -> Result<()> {
        let shut = |reason: String| Err(Error::GateShut { app: self.app.clone(), reason });
        match self.read()? {
            None => shut("this site was never made its writer; protect the app, or fail over to here".into()),
            Some(record) if record.role == GateRole::Stopped => shut(format!(
                "it was stopped here at epoch {} and is written elsewhere; switch over to bring it back",
                record.epoch
            )),
            Some(record) if record.epoch != epoch => shut(format!(
                "this site is its writer at epoch {}, and was asked to start it at epoch {epoch}; see `levee status`",
                record.epoch
            )),
            Some(record) if record.confirmed_boot != boot_id()? => shut(
                "this machine was restarted since it was last confirmed that the app is written here: start the agent and \
                 let it reach the server, or, if no other site has taken over, say so with `levee agent start-database \
                 APP/ASSET --no-other-writer`"
                    .into(),
            ),
            Some(_) => Ok(()),
        }
    }
}

/// The kernel's name for this boot.
fn boot_id() -> Result<String> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text =
        fs::read_to_string(path).map_err(|source| Error::File { doing: "reading", path: path.into(), source })?;
    Ok(text.trim().to_string())
}

/// Moves old data out of the way, to `NAME.set-aside-epochN-TIMESTAMP` beside it, and answers with the
/// new path; `None` when there is nothing. Never overwrites anything.
pub fn set_aside(path: &Path, epoch: Epoch, now: Timestamp) -> Result<Option<PathBuf>> {
    let error = |source| Error::File { doing: "setting aside", path: path.into(), source };
    let is_there = match fs::symlink_metadata(path) {
        Ok(_) => true,
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => false,
        Err(source) => return Err(error(source)),
    };
    if !is_there {
        return Ok(None);
    }
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".set-aside-epoch{epoch}-{}", now.strftime("%Y%m%dT%H%M%SZ")));
    for attempt in 0u32.. {
        let mut candidate = name.clone();
        if attempt > 0 {
            candidate.push(format!("-{attempt}"));
        }
        let target = path.with_file_name(candidate);
        match rustix::fs::renameat_with(
            rustix::fs::CWD,
            path,
            rustix::fs::CWD,
            &target,
            rustix::fs::RenameFlags::NOREPLACE,
        ) {
            Ok(()) => {
                let folder = path.parent().unwrap_or(Path::new("/"));
                File::open(folder).and_then(|folder| folder.sync_all()).map_err(error)?;
                return Ok(Some(target));
            }
            Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(error(errno.into())),
        }
    }
    Ok(None)
}

/// Moves the tablespaces of a cluster out of the way as `set_aside` does: those that the next restore would fill, whether
/// the data directory leads to them or an earlier restore was cut off in them. The links in the data directory lead to their
/// new places, so that it can still be started where it will be. Others stay where they are. Answers with the new paths.
pub fn set_tablespaces_aside<'a>(
    data_directory: &Path,
    places: impl IntoIterator<Item = &'a PathBuf>,
    epoch: Epoch,
    now: Timestamp,
) -> Result<Vec<PathBuf>> {
    let links = tablespace_links(data_directory)?;
    let mut targets: BTreeSet<PathBuf> = places.into_iter().cloned().collect();
    for entry in folder_entries(&restore::default_tablespaces(data_directory))? {
        // Others were set aside before.
        if entry.file_name().is_some_and(|name| name.to_string_lossy().parse::<u32>().is_ok()) {
            targets.insert(entry);
        }
    }
    let mut moved = Vec::new();
    for target in targets {
        // An empty folder is free, and may be the point of a mount.
        if folder_entries(&target)?.is_empty() {
            continue;
        }
        let aside = match set_aside(&target, epoch, now) {
            Ok(Some(aside)) => aside,
            Ok(None) => continue,
            // The point of a mount cannot be renamed. Nothing is to wait for that but the next restore, which will name it.
            Err(Error::File { source, .. }) if source.kind() == std::io::ErrorKind::ResourceBusy => {
                tracing::warn!(tablespace = %target.display(), "it is the point of a mount, and stays: empty it by hand");
                continue;
            }
            Err(error) => return Err(error),
        };
        for (link, _) in links.iter().filter(|(_, leads_to)| *leads_to == target) {
            let beside = link.with_added_extension("tmp");
            let error = |source| Error::File { doing: "linking", path: link.clone(), source };
            let _ = fs::remove_file(&beside);
            std::os::unix::fs::symlink(&aside, &beside).and_then(|()| fs::rename(&beside, link)).map_err(error)?;
        }
        moved.push(aside);
    }
    Ok(moved)
}

/// The links of a data directory to tablespaces outside of it, and where they lead.
fn tablespace_links(data_directory: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    let links = folder_entries(&data_directory.join("pg_tblspc"))?;
    let leads = links.into_iter().filter_map(|link| Some((fs::read_link(&link).ok()?, link)));
    Ok(leads
        .filter(|(target, _)| target.is_absolute() && !target.starts_with(data_directory))
        .map(|(target, link)| (link, target))
        .collect())
}

/// What lies in a folder; nothing when it is not there.
fn folder_entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let error = |source| Error::File { doing: "listing", path: folder.into(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(error(source)),
    };
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(error)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tablespaces_go_with_their_data_directory_and_stay_linked_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let (data, fast, left) = (dir.path().join("pg"), dir.path().join("fast"), dir.path().join("left"));
        let below = restore::default_tablespaces(&data).join("16400");
        for folder in [&fast, &left, &below] {
            fs::create_dir_all(folder.join("PG_15")).unwrap();
        }
        fs::create_dir_all(data.join("pg_tblspc")).unwrap();
        let link = |oid: &str| data.join("pg_tblspc").join(oid);
        std::os::unix::fs::symlink(&fast, link("16399")).unwrap();
        std::os::unix::fs::symlink(&below, link("16400")).unwrap();
        let now: Timestamp = "2026-11-20T11:22:33Z".parse().unwrap();
        // One that a restore had filled and that no data directory leads to is in the way as well.
        let set_aside = || set_tablespaces_aside(&data, [&fast, &left], Epoch(2), now).unwrap();
        assert_eq!(set_aside().len(), 3);
        for place in [&fast, &left, &below] {
            assert!(!place.exists(), "{}", place.display());
        }
        for oid in ["16399", "16400"] {
            assert!(link(oid).join("PG_15").is_dir(), "{oid} leads to nothing");
        }
        // What was set aside stays where it is when the next one goes.
        fs::rename(&data, dir.path().join("old")).unwrap();
        assert_eq!(set_aside(), Vec::<PathBuf>::new());
    }

    fn app() -> AppName {
        AppName::new("shop").unwrap()
    }

    #[test]
    fn only_the_writer_of_the_epoch_passes() {
        let dir = tempfile::tempdir().unwrap();
        let gate = StartGate::open(dir.path(), app());
        let refused = |epoch: u64, expected: &str| {
            let error = gate.check_start(Epoch(epoch)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        refused(1, "never made its writer");
        gate.open_for_writer(Epoch(1)).unwrap();
        gate.check_start(Epoch(1)).unwrap();
        refused(2, "at epoch 1");
        gate.shut(Epoch(2)).unwrap();
        refused(1, "stopped here at epoch 2");
        refused(2, "stopped here at epoch 2");
        for old in [1, 2] {
            assert!(matches!(gate.open_for_writer(Epoch(old)), Err(Error::GateStale { .. })));
        }
        assert!(matches!(gate.shut(Epoch(1)), Err(Error::GateStale { .. })));
        gate.shut(Epoch(2)).unwrap();
        gate.open_for_writer(Epoch(3)).unwrap();
        gate.check_start(Epoch(3)).unwrap();
        // After a restart of the machine somebody has to confirm it.
        let record = GateRecord { confirmed_boot: "another".into(), ..gate.read().unwrap().unwrap() };
        fs::write(&gate.file, serde_json::to_vec(&record).unwrap()).unwrap();
        refused(3, "restarted");
        gate.open_for_writer(Epoch(3)).unwrap();
        gate.check_start(Epoch(3)).unwrap();
        fs::write(&gate.file, b"{").unwrap();
        assert!(matches!(gate.check_start(Epoch(3)), Err(Error::GateUnreadable { .. })));
    }

    #[test]
    fn old_data_are_moved_and_nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pg");
        let now: Timestamp = "2026-11-20T11:22:33Z".parse().unwrap();
        assert_eq!(set_aside(&path, Epoch(2), now).unwrap(), None);
        let mut seen = Vec::new();
        for round in 0..3 {
            fs::create_dir(&path).unwrap();
            fs::write(path.join("round"), format!("{round}")).unwrap();
            seen.push(set_aside(&path, Epoch(2), now).unwrap().unwrap());
        }
        assert_eq!(seen[0], dir.path().join("pg.set-aside-epoch2-20261120T112233Z"));
        for (round, path) in seen.iter().enumerate() {
            assert_eq!(fs::read_to_string(path.join("round")).unwrap(), format!("{round}"));
        }
    }
}
