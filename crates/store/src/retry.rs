//! Trying again when a network or a server fails.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Entry, Error, FileType, Parallelism, Result, Store, Temperature, ThawRequest};

/// How often and how long to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts for one operation, the first included.
    pub attempts_max: u32,
    /// No attempt is begun later than this after the first.
    pub time_max: Duration,
    /// The wait after the first failure; it doubles from there.
    pub delay_first: Duration,
    pub delay_max: Duration,
}

impl Default for RetryPolicy {
    /// Rides over a server's restart or a short cut of the network.
    fn default() -> Self {
        Self {
            attempts_max: 12,
            time_max: Duration::from_secs(120),
            delay_first: Duration::from_millis(100),
            delay_max: Duration::from_secs(15),
        }
    }
}

/// A store that tries an operation again when the one inside was unreachable, and only then.
///
/// An operation may have succeeded although its answer was lost. Writing is safe to repeat because the
/// same content under the same name succeeds; a removal that finds nothing on a repeated attempt has
/// happened.
pub struct RetryStore<S> {
    inner: S,
    policy: RetryPolicy,
}

impl<S: Store> RetryStore<S> {
    pub fn new(inner: S, policy: RetryPolicy) -> Self {
        Self { inner, policy }
    }

    /// The same store, more or less patient from now on.
    pub fn with_policy(self, policy: RetryPolicy) -> Self {
        Self { policy, ..self }
    }

    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// Tries something that only the store inside can do.
    pub fn attempt<T>(&self, operation: impl Fn(&S) -> Result<T>) -> Result<T> {
        self.retry(|_| operation(&self.inner))
    }

    fn retry<T>(&self, mut operation: impl FnMut(u32) -> Result<T>) -> Result<T> {
        let started = Instant::now();
        let mut delay = self.policy.delay_first;
        let mut attempt = 1;
        loop {
            let error = match operation(attempt) {
                Err(error @ Error::Unreachable { .. }) => error,
                other => return other,
            };
            let wait = jittered(delay);
            if attempt >= self.policy.attempts_max || started.elapsed() + wait > self.policy.time_max {
                return Err(error);
            }
            tracing::warn!(attempt, wait_ms = wait.as_millis() as u64, "{error}; trying again");
            thread::sleep(wait);
            delay = (delay * 2).min(self.policy.delay_max);
            attempt += 1;
        }
    }
}

/// Between half and the whole of `delay`, so that many writers don't come back at once.
fn jittered(delay: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() as u32;
    delay / 2 + (delay / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

impl<S: Store> Store for RetryStore<S> {
    fn create(&self) -> Result<()> {
        self.retry(|_| self.inner.create())
    }

    fn write(&self, file_type: FileType, name: &str, content: &[u8]) -> Result<()> {
        self.retry(|_| self.inner.write(file_type, name, content))
    }

    fn write_tree_pack(&self, name: &str, content: &[u8]) -> Result<()> {
        self.retry(|_| self.inner.write_tree_pack(name, content))
    }

    fn read(&self, file_type: FileType, name: &str) -> Result<Vec<u8>> {
        self.retry(|_| self.inner.read(file_type, name))
    }

    fn read_range(&self, file_type: FileType, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.retry(|_| self.inner.read_range(file_type, name, offset, length))
    }

    fn size_bytes(&self, file_type: FileType, name: &str) -> Result<u64> {
        self.retry(|_| self.inner.size_bytes(file_type, name))
    }

    fn list(&self, file_type: FileType) -> Result<Vec<Entry>> {
        self.retry(|_| self.inner.list(file_type))
    }

    fn remove(&self, file_type: FileType, name: &str) -> Result<()> {
        self.retry(|attempt| match self.inner.remove(file_type, name) {
            Err(Error::NotFound { .. }) if attempt > 1 => Ok(()),
            other => other,
        })
    }

    fn parallelism(&self) -> Parallelism {
        self.inner.parallelism()
    }

    fn archived(&self, file_type: FileType) -> Result<Vec<Entry>> {
        self.retry(|_| self.inner.archived(file_type))
    }

    fn temperature(&self, file_type: FileType, name: &str) -> Result<Temperature> {
        self.retry(|_| self.inner.temperature(file_type, name))
    }

    fn thaw(&self, file_type: FileType, name: &str, request: &ThawRequest) -> Result<Temperature> {
        self.retry(|_| self.inner.thaw(file_type, name, request))
    }

    fn location(&self) -> String {
        self.inner.location()
    }
}
