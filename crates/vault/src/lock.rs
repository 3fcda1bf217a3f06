//! Locks: files that tell others what must not be done now.
//!
//! Many shared locks may stand at once, an exclusive one only alone. Who wants a lock writes it and then
//! looks for others: of two that come at once, at least one sees the other and steps back. A lock is
//! refreshed by a new file every few minutes, and stale when it was not for half an hour.
//!
//! Whoever slept longer than that may have lost its lock, and another may have removed what it relies on. A lock
//! whose own file is found gone is therefore lost for good, whatever is written afterwards.

mod moment;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use jiff::{SignedDuration, Timestamp};
use levee_store::FileType;
use serde::{Deserialize, Serialize};

use crate::accounts::Whoami;
use crate::{Error, Id, Result, Vault};
use moment::Moment;

/// How long others do well to wait for the moment in which a repository's owner clears old data away.
pub const SWAP_PATIENCE: Duration = Duration::from_secs(120);

/// How long what brings an app back waits for a lock that it can do without.
pub const RESTORE_LOCK_PATIENCE: Duration = Duration::from_secs(2);
const REFRESH_EVERY: Duration = Duration::from_secs(5 * 60);
const STALE_AFTER: SignedDuration = SignedDuration::from_mins(30);
/// Without a refresh for so long, what was done under the lock must not be recorded any more.
const LOST_AFTER: Duration = Duration::from_secs(25 * 60);

/// How often a lock that others hold is asked for again. Short: between two writers there may be little time.
const ASK_AGAIN_EVERY: Duration = Duration::from_millis(250);

/// Who may work beside the holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// Readers and writers, who only add.
    Shared,
    /// Towards readers and writers the same as `Shared`, but only one at a time: who moves data about.
    Maintenance,
    /// Nobody else.
    Exclusive,
}

impl LockMode {
    fn conflicts_with(self, other: &LockFile) -> bool {
        match self {
            LockMode::Shared => other.exclusive,
            LockMode::Maintenance => other.exclusive || other.levee_maintenance,
            LockMode::Exclusive => true,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LockFile {
    #[serde(with = "crate::file_time::as_timestamp")]
    time: Timestamp,
    exclusive: bool,
    #[serde(default)]
    hostname: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    pid: i32,
    #[serde(default)]
    uid: u32,
    #[serde(default)]
    gid: u32,
    /// Ours; restic passes over what it doesn't know.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    levee_maintenance: bool,
}

impl LockFile {
    pub fn new(mode: LockMode) -> Self {
        let Whoami { hostname, username, uid, gid } = Whoami::now();
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let (exclusive, levee_maintenance) = (mode == LockMode::Exclusive, mode == LockMode::Maintenance);
        Self { time: Timestamp::now(), exclusive, hostname, username, pid, uid, gid, levee_maintenance }
    }

    /// As restic sees it: too old, or its process on this very host is gone.
    fn is_stale(&self, now: Timestamp, hostname: &str) -> bool {
        let process_is_gone = || {
            let Some(pid) = rustix::process::Pid::from_raw(self.pid) else { return false };
            matches!(rustix::process::test_kill_process(pid), Err(rustix::io::Errno::SRCH))
        };
        now.duration_since(self.time) > STALE_AFTER || (self.hostname == hostname && process_is_gone())
    }

    fn holder(&self) -> String {
        format!("{}@{} (process {})", self.username, self.hostname, self.pid)
    }
}

/// A held lock. Dropping it removes its file.
pub struct Lock {
    vault: Vault,
    held: Arc<Held>,
    stop: Option<Sender<()>>,
    refresher: Option<JoinHandle<()>>,
}

struct Held {
    mode: LockMode,
    /// The file that stands for the lock now.
    current: Mutex<Id>,
    /// From before that file was written: the time in it, by which others count, is no earlier.
    refreshed_at: Mutex<Moment>,
    /// Its own file was found gone: somebody has removed it, and nothing kept others out since. Never taken back.
    is_gone: AtomicBool,
}

/// The lock files that stand for the locks held through a vault. Held while one is written, so that what
/// ends the process finds every file that is there.
#[derive(Default)]
pub(crate) struct OwnLocks {
    files: HashSet<Id>,
    /// The process is about to end: no more are taken.
    closed: bool,
}

fn write_lock(vault: &Vault, mode: LockMode) -> Result<Id> {
    let mut own = vault.own_locks();
    if own.closed {
        return Err(Error::Stopped);
    }
    let id = vault.write_file_as(FileType::Lock, &LockFile::new(mode))?;
    own.files.insert(id);
    Ok(id)
}

/// Removes a lock file that is still ours.
fn remove_lock(vault: &Vault, id: &Id) -> levee_store::Result<()> {
    if vault.own_locks().files.remove(id) {
        vault.store().remove(FileType::Lock, &id.to_hex())?;
    }
    Ok(())
}

impl Vault {
    /// Removes the files of all locks that are held through this vault, for a process that is about to end
    /// without letting go of them one by one. Nothing may be done with the vault afterwards.
    pub fn release_locks(&self) {
        let files = {
            let mut own = self.own_locks();
            own.closed = true;
            std::mem::take(&mut own.files)
        };
        for id in files {
            if let Err(error) = self.store().remove(FileType::Lock, &id.to_hex()) {
                tracing::warn!(%error, "the repository's lock file stays behind; it will be stale in half an hour");
            }
        }
    }
}

impl Lock {
    /// Takes a lock, or says who holds one that forbids it.
    pub fn take(vault: &Vault, mode: LockMode) -> Result<Self> {
        Self::take_beside(vault, mode, None)
    }

    /// Takes a lock, and waits so long for others to end.
    pub fn take_within(vault: &Vault, mode: LockMode, patience: Duration) -> Result<Self> {
        with_patience(patience, || Self::take_beside(vault, mode, None))
    }

    /// An exclusive lock beside this one, for the step that nobody may come between.
    pub fn exclusively(&self, patience: Duration) -> Result<Self> {
        with_patience(patience, || {
            // Not refreshed meanwhile, so that its file has one name.
            let own = self.held.current.lock().unwrap_or_else(PoisonError::into_inner);
            Self::take_beside(&self.vault, LockMode::Exclusive, Some(*own))
        })
    }

    fn take_beside(vault: &Vault, mode: LockMode, own: Option<Id>) -> Result<Self> {
        refuse_if_locked(vault, mode, &[own])?;
        let before = Moment::now();
        let id = write_lock(vault, mode)?;
        let held = Arc::new(Held {
            mode,
            current: Mutex::new(id),
            refreshed_at: Mutex::new(before),
            is_gone: AtomicBool::new(false),
        });
        let (stop, stopped) = bounded(0);
        let mut lock = Self { vault: vault.clone(), held: held.clone(), stop: Some(stop), refresher: None };
        refuse_if_locked(vault, mode, &[own, Some(id)])?;
        // Up to now a prune may have been at work.
        vault.ask_for_index_files_anew();
        let vault = vault.clone();
        let refresh = move || {
            while stopped.recv_timeout(REFRESH_EVERY) == Err(RecvTimeoutError::Timeout) {
                held.refresh(&vault, Moment::now());
            }
        };
        let spawned = std::thread::Builder::new().name("vault-lock".into()).spawn(refresh);
        lock.refresher = Some(spawned.map_err(|source| Error::System { action: "start a thread", source })?);
        Ok(lock)
    }

    /// What makes it as if somebody had removed the lock, and a refresh had found so.
    #[cfg(test)]
    pub(crate) fn loser(&self) -> Box<dyn Fn() + Send + Sync> {
        let held = self.held.clone();
        Box::new(move || held.note_gone())
    }

    /// An error when others may by now take the lock for stale, or somebody has removed it.
    pub fn check(&self) -> Result<()> {
        let now = Moment::now();
        if self.held.age(now) >= LOST_AFTER {
            // This machine has slept, or its clock was set: whether the lock still stands can be asked now.
            self.held.refresh(&self.vault, now);
        }
        self.held.check(&self.vault, Moment::now())
    }
}

/// Tries again while the repository is locked by others, until the time is over.
fn with_patience(patience: Duration, mut take: impl FnMut() -> Result<Lock>) -> Result<Lock> {
    let started = Instant::now();
    loop {
        match take() {
            Err(Error::Locked { .. }) if started.elapsed() + ASK_AGAIN_EVERY < patience => {
                std::thread::sleep(ASK_AGAIN_EVERY);
            }
            other => return other,
        }
    }
}

impl Held {
    fn age(&self, now: Moment) -> Duration {
        now.since(*self.refreshed_at.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn check(&self, vault: &Vault, now: Moment) -> Result<()> {
        if self.is_gone.load(Ordering::SeqCst) {
            return Err(Error::LockGone { location: vault.location() });
        }
        let age = self.age(now);
        if age < LOST_AFTER {
            return Ok(());
        }
        Err(Error::LockLost { location: vault.location(), minutes: age.as_secs() / 60 })
    }

    fn refresh(&self, vault: &Vault, now: Moment) {
        // Nothing is recorded any more, and others need not wait for it.
        if self.is_gone.load(Ordering::SeqCst) {
            return;
        }
        // Held over the whole change: see `exclusively`.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        // So late that somebody may have taken it for stale. A new file would hide that the old one was gone for a
        // while. The file itself is asked for: a list of them may be old.
        if self.age(now) >= LOST_AFTER {
            // On a disk that is not mounted for a moment nothing is there, and nothing was removed.
            let stands = vault.store().size_bytes(FileType::Lock, &current.to_hex());
            let has_vault = || vault.store().size_bytes(FileType::Config, "").map(drop);
            match stands.map(drop) {
                Ok(()) => {}
                Err(levee_store::Error::NotFound { .. }) if has_vault().is_ok() => return self.note_gone(),
                Err(error) => {
                    tracing::warn!(%error, "the repository's lock is not refreshed: whether it stands is not known");
                    return;
                }
            }
        }
        match write_lock(vault, self.mode) {
            Ok(new) => {
                let old = std::mem::replace(&mut *current, new);
                match remove_lock(vault, &old) {
                    Ok(()) => {}
                    // Before the age begins anew, so that no check comes between.
                    Err(levee_store::Error::NotFound { .. }) => self.note_gone(),
                    Err(error) => tracing::warn!(%error, "an old lock file stays behind"),
                }
                *self.refreshed_at.lock().unwrap_or_else(PoisonError::into_inner) = now;
            }
            Err(error) => tracing::warn!(%error, "the repository's lock could not be refreshed"),
        }
    }

    fn note_gone(&self) {
        self.is_gone.store(true, Ordering::SeqCst);
        tracing::error!("somebody has removed the repository's lock of this process; it will record nothing more");
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(refresher) = self.refresher.take() {
            // A panic there has been reported by the thread itself.
            let _ = refresher.join();
        }
        let current = *self.held.current.lock().unwrap_or_else(PoisonError::into_inner);
        match remove_lock(&self.vault, &current) {
            // What is gone cannot stay behind.
            Ok(()) | Err(levee_store::Error::NotFound { .. }) => {}
            Err(error) => {
                tracing::warn!(%error, "the repository's lock file stays behind; it will be stale in half an hour")
            }
        }
    }
}

/// Reads a lock; `None` when it has just been removed.
fn read_lock(vault: &Vault, id: &Id) -> Result<Option<LockFile>> {
    match vault.read_file_as(FileType::Lock, id) {
        Ok(lock) => Ok(Some(lock)),
        Err(Error::Store(levee_store::Error::NotFound { .. })) => Ok(None),
        Err(error) => Err(error),
    }
}

fn refuse_if_locked(vault: &Vault, mode: LockMode, own: &[Option<Id>]) -> Result<()> {
    for id in vault.list_ids(FileType::Lock)? {
        if own.contains(&Some(id)) {
            continue;
        }
        let Some(lock) = read_lock(vault, &id)? else { continue };
        if mode.conflicts_with(&lock) {
            return Err(Error::Locked {
                location: vault.location(),
                exclusive: lock.exclusive,
                by: lock.holder(),
                since: lock.time,
                stale: lock.is_stale(Timestamp::now(), &Whoami::now().hostname),
            });
        }
    }
    Ok(())
}

/// Stale locks, or all of them. Unreadable ones are stale to nobody.
pub fn locks_to_remove(vault: &Vault, all: bool) -> Result<Vec<Id>> {
    let (now, hostname) = (Timestamp::now(), Whoami::now().hostname);
    let mut found = Vec::new();
    for id in vault.list_ids(FileType::Lock)? {
        if all || read_lock(vault, &id)?.is_some_and(|lock| lock.is_stale(now, &hostname)) {
            found.push(id);
        }
    }
    Ok(found)
}

/// Removes stale locks, or all of them, and says how many.
pub fn unlock(vault: &Vault, all: bool) -> Result<usize> {
    let mut removed = 0;
    for id in locks_to_remove(vault, all)? {
        match vault.store().remove(FileType::Lock, &id.to_hex()) {
            Ok(()) => removed += 1,
            Err(levee_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Password;
    use levee_store::LocalStore;

    #[test]
    fn a_refreshed_lock_has_a_new_file_and_is_still_held() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(LocalStore::new(dir.path()));
        let vault = Vault::init(store, &Password::new("password")).unwrap();
        let lock = Lock::take(&vault, LockMode::Exclusive).unwrap();
        let before = vault.list_ids(FileType::Lock).unwrap();
        lock.held.refresh(&vault, Moment::now());
        let after = vault.list_ids(FileType::Lock).unwrap();
        assert_eq!((before.len(), after.len()), (1, 1));
        assert_ne!(before, after);
        lock.check().unwrap();
        assert!(matches!(Lock::take(&vault, LockMode::Shared), Err(Error::Locked { exclusive: true, .. })));
        drop(lock);
        assert!(vault.list_ids(FileType::Lock).unwrap().is_empty());
    }

    #[test]
    fn a_lock_that_went_while_its_holder_slept_is_lost_for_good() {
        let minutes = |count: u64| Duration::from_secs(count * 60);
        // (running, paused, whether somebody removes the file meanwhile, what a check says before and after a refresh)
        let check = |running, paused, removed: bool, before: &str, after: &str| {
            let dir = tempfile::tempdir().unwrap();
            let store = Arc::new(LocalStore::new(dir.path()));
            let vault = Vault::init(store, &Password::new("password")).unwrap();
            let lock = Lock::take(&vault, LockMode::Shared).unwrap();
            if removed {
                unlock(&vault, true).unwrap();
            }
            let now = Moment::now().after(running, paused);
            let said = || match lock.held.check(&vault, now) {
                Ok(()) => "held",
                Err(Error::LockLost { .. }) => "old",
                Err(Error::LockGone { .. }) => "gone",
                Err(error) => panic!("{error:?}"),
            };
            let said_before = said();
            lock.held.refresh(&vault, now);
            assert_eq!((said_before, said()), (before, after), "{running:?} {paused:?} {removed}");
            // What is lost is not written anew, which would keep others out for nothing.
            assert_eq!(vault.list_ids(FileType::Lock).unwrap().is_empty(), removed && before == "old");
            lock.held.refresh(&vault, now);
            assert_eq!(said(), after, "and again");
        };
        check(minutes(4), minutes(0), false, "held", "held");
        check(minutes(4), minutes(0), true, "held", "gone");
        check(minutes(0), minutes(120), false, "old", "held");
        check(minutes(0), minutes(120), true, "old", "gone");
        check(minutes(26), minutes(0), true, "old", "gone");
    }

    #[test]
    fn either_clock_is_enough_to_grow_old_by() {
        let (start, minute) = (Moment::now(), Duration::from_secs(60));
        assert_eq!(start.after(minute, Duration::ZERO).since(start), minute);
        assert_eq!(start.after(Duration::ZERO, minute).since(start), minute);
        // A clock that is set back doesn't make anything younger.
        assert_eq!(start.after(minute, Duration::ZERO).with_wall_of(start).since(start), minute);
        assert_eq!(start.since(start.after(minute, Duration::ZERO)), Duration::ZERO);
    }

    #[test]
    fn maintenance_goes_on_beside_writers_but_not_beside_its_like() {
        let dir = tempfile::tempdir().unwrap();
        let vault = Vault::init(Arc::new(LocalStore::new(dir.path())), &Password::new("password")).unwrap();
        let maintenance = Lock::take(&vault, LockMode::Maintenance).unwrap();
        let writer = Lock::take(&vault, LockMode::Shared).unwrap();
        assert!(matches!(Lock::take(&vault, LockMode::Maintenance), Err(Error::Locked { exclusive: false, .. })));
        assert!(matches!(maintenance.exclusively(Duration::ZERO), Err(Error::Locked { .. })));
        let waiting = std::thread::scope(|scope| {
            let exclusive = scope.spawn(|| maintenance.exclusively(Duration::from_secs(30)));
            drop(writer);
            exclusive.join().unwrap().unwrap()
        });
        assert!(matches!(Lock::take(&vault, LockMode::Shared), Err(Error::Locked { exclusive: true, .. })));
        drop(waiting);
        Lock::take(&vault, LockMode::Shared).unwrap();
    }

    #[test]
    fn locks_grow_stale_by_age_and_with_their_process() {
        let now: Timestamp = "2026-11-20T12:00:00Z".parse().unwrap();
        let check = |minutes_ago: i64, hostname: &str, pid: i32, stale: bool| {
            let time = now - SignedDuration::from_mins(minutes_ago);
            let lock = LockFile { time, hostname: hostname.into(), pid, ..LockFile::new(LockMode::Shared) };
            assert_eq!(lock.is_stale(now, "here"), stale, "{minutes_ago} {hostname} {pid}");
        };
        let own = rustix::process::getpid().as_raw_nonzero().get();
        check(29, "here", own, false);
        check(31, "here", own, true);
        check(0, "here", i32::MAX, true);
        check(0, "elsewhere", i32::MAX, false);
    }
}
