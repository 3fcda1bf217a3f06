//! How much all repositories may take together, and how much those of each user.

mod counted;
mod taken;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use levee_store::LocalStore;

use counted::{Counted, Names};
use taken::bytes_in;

/// The files are not counted again sooner. Clients that are refused try again and again.
const RECOUNT_INTERVAL: Duration = Duration::from_secs(60);
/// Nor is more of the time spent with that, where there are many: one part in so many.
const RECOUNT_PART: u32 = 10;

/// The bounds of a server.
#[derive(Debug)]
pub(super) struct Quotas {
    served: PathBuf,
    all: Option<Arc<Quota>>,
    bytes_max_per_user: Option<u64>,
    /// By the folder that is a user's own. Users make no folders but theirs, so there are no more than users.
    by_user: Mutex<HashMap<String, Arc<Quota>>>,
    names: Arc<Names>,
}

impl Quotas {
    /// Counts what is there already.
    pub(super) fn of(served: &Path, bytes_max: Option<u64>, bytes_max_per_user: Option<u64>) -> anyhow::Result<Self> {
        let all =
            bytes_max.map(|bytes_max| Quota::of("all users".into(), served, bytes_max)).transpose()?.map(Arc::new);
        let quotas =
            Self { served: served.into(), all, bytes_max_per_user, by_user: Mutex::default(), names: Arc::default() };
        // Now rather than at a user's first request, which would wait for it.
        if bytes_max_per_user.is_some() {
            let unreadable = || format!("cannot read the folder {}", served.display());
            for entry in fs::read_dir(served).with_context(unreadable)? {
                let entry = entry.with_context(unreadable)?;
                let name = entry.file_name();
                if let Some(user) = name.to_str().filter(|user| !user.starts_with('.') && entry.path().is_dir()) {
                    quotas.of_user(user)?;
                }
            }
        }
        Ok(quotas)
    }

    /// A repository in a user's folder, or outside of all of them, with the quotas that hold for it.
    pub(super) fn counted(&self, repository: LocalStore, user: Option<&str>) -> anyhow::Result<Counted> {
        let own = user.map(|user| self.of_user(user)).transpose()?.flatten();
        let quotas = own.into_iter().chain(self.all.clone()).collect();
        Ok(Counted::new(repository, quotas, self.names.clone()))
    }

    fn of_user(&self, user: &str) -> anyhow::Result<Option<Arc<Quota>>> {
        let Some(bytes_max) = self.bytes_max_per_user else { return Ok(None) };
        let mut by_user = self.by_user.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(quota) = by_user.get(user) {
            return Ok(Some(quota.clone()));
        }
        let quota = Arc::new(Quota::of(user.into(), &self.served.join(user), bytes_max)?);
        by_user.insert(user.into(), quota.clone());
        Ok(Some(quota))
    }
}

/// A bound, and what counts towards it.
#[derive(Debug)]
struct Quota {
    whose: String,
    folder: PathBuf,
    bytes_max: u64,
    used: Mutex<Used>,
}

#[derive(Debug)]
struct Used {
    /// Of stored files and uploads under way.
    bytes: u64,
    /// Of these, what is under way.
    under_way: u64,
    /// All that was ever reserved; it wraps.
    reserved: u64,
    /// Whether the log says that it is used up. Clients try again and again.
    is_told: bool,
    counting: Counting,
}

#[derive(Clone, Copy, Debug)]
enum Counting {
    /// At the start, as far as anybody is refused.
    Never,
    Now,
    Ended {
        at: Instant,
        took: Duration,
    },
}

impl Counting {
    fn is_due(self, now: Instant) -> bool {
        match self {
            Self::Never => true,
            Self::Now => false,
            Self::Ended { at, took } => now.saturating_duration_since(at) >= RECOUNT_INTERVAL.max(took * RECOUNT_PART),
        }
    }
}

impl Quota {
    fn of(whose: String, folder: &Path, bytes_max: u64) -> anyhow::Result<Self> {
        let bytes = bytes_in(folder).with_context(|| format!("cannot measure what {} holds", folder.display()))?;
        let used = Used { bytes, under_way: 0, reserved: 0, is_told: false, counting: Counting::Never };
        Ok(Self { whose, folder: folder.into(), bytes_max, used: Mutex::new(used) })
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes this much for an upload, which has to be settled, or nothing. Before it says no it looks whether somebody
    /// has made room without this server.
    fn reserve(&self, bytes: u64) -> bool {
        if self.try_reserve(bytes) || (self.recount_when_due() && self.try_reserve(bytes)) {
            return true;
        }
        let mut used = self.used();
        if !std::mem::replace(&mut used.is_told, true) {
            tracing::warn!(
                "the quota of {} is used up: {} of {} bytes are taken, and {bytes} more were refused",
                self.whose,
                used.bytes,
                self.bytes_max
            );
        }
        false
    }

    fn try_reserve(&self, bytes: u64) -> bool {
        let mut used = self.used();
        let Some(sum) = used.bytes.checked_add(bytes).filter(|sum| *sum <= self.bytes_max) else { return false };
        used.bytes = sum;
        used.under_way += bytes;
        used.reserved = used.reserved.wrapping_add(bytes);
        true
    }

    /// The upload is over, and has taken this much of what was reserved.
    fn settle(&self, reserved: u64, taken: u64) {
        let mut used = self.used();
        used.under_way = used.under_way.saturating_sub(reserved);
        used.release(reserved.saturating_sub(taken));
    }

    fn release(&self, bytes: u64) {
        self.used().release(bytes);
    }

    /// Whether it was counted again. Uploads go on meanwhile: what was under way when it began counts in full, as what
    /// came since, though some of it may have been seen. It may be too much for that, and never too little.
    fn recount_when_due(&self) -> bool {
        let begun = Instant::now();
        let (under_way, reserved) = {
            let mut used = self.used();
            if !used.counting.is_due(begun) {
                return false;
            }
            used.counting = Counting::Now;
            (used.under_way, used.reserved)
        };
        let counted = bytes_in(&self.folder);
        let mut used = self.used();
        used.counting = Counting::Ended { at: Instant::now(), took: begun.elapsed() };
        match counted {
            Ok(bytes) => {
                let since = used.reserved.wrapping_sub(reserved);
                used.bytes = bytes.saturating_add(under_way).saturating_add(since);
                true
            }
            Err(error) => {
                tracing::warn!(%error, "cannot measure what {} holds; it counts as before", self.folder.display());
                false
            }
        }
    }
}

impl Used {
    fn release(&mut self, bytes: u64) {
        if bytes > 0 {
            self.bytes = self.bytes.saturating_sub(bytes);
            self.is_told = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(quota: &Quota) -> u64 {
        quota.used().bytes
    }

    #[test]
    fn it_is_counted_again_when_something_was_removed_behind_its_back() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, [0; 8000]).unwrap();
        let quota = Quota::of("all".into(), folder.path(), 5 * 4096).unwrap();
        assert_eq!(used(&quota), 3 * 4096);
        assert!(quota.reserve(4096) && !quota.try_reserve(2 * 4096));
        fs::remove_file(&file).unwrap();
        // What is under way is on no disk yet, and counts.
        assert!(quota.reserve(3 * 4096));
        assert_eq!(used(&quota), 5 * 4096);
        quota.settle(3 * 4096, 0);
        quota.settle(4096, 0);
        assert_eq!((used(&quota), quota.used().under_way), (4096, 0));
    }

    #[test]
    fn who_tries_again_and_again_does_not_keep_the_disk_busy() {
        let folder = tempfile::tempdir().unwrap();
        let quota = Quota::of("all".into(), folder.path(), 4096).unwrap();
        assert!(quota.recount_when_due() && !quota.recount_when_due());
        let at = Instant::now();
        let check = |took: u64, after: u64, expected: bool| {
            let ended = Counting::Ended { at, took: Duration::from_secs(took) };
            assert_eq!(ended.is_due(at + Duration::from_secs(after)), expected, "{took} {after}");
        };
        check(0, 59, false);
        check(0, 60, true);
        check(30, 299, false);
        check(30, 300, true);
        assert!(!Counting::Now.is_due(at));
    }
}
