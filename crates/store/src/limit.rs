//! Bandwidth limits by time of day, kept piece by piece so that a shared link sees an even flow.

use std::fmt;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

pub use levee_model::Timetable;

/// What is sent or taken at once when there is a limit: small enough that a slow link is not blocked for long.
pub(crate) const PIECE_BYTES: usize = 32 << 10;

/// Limits for both directions, shared by every store that is made with a clone of it.
#[derive(Clone, Default)]
pub struct Bandwidth {
    upload: Option<Throttle>,
    download: Option<Throttle>,
}

impl Bandwidth {
    /// Without a timetable a direction is unlimited.
    pub fn new(upload: Option<Timetable>, download: Option<Timetable>) -> Self {
        Self { upload: upload.map(Throttle::new), download: download.map(Throttle::new) }
    }

    pub(crate) fn upload(&self) -> Option<&Throttle> {
        self.upload.as_ref()
    }

    pub(crate) fn download(&self) -> Option<&Throttle> {
        self.download.as_ref()
    }
}

impl fmt::Debug for Bandwidth {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let timetable = |throttle: &Option<Throttle>| throttle.as_ref().map(|throttle| throttle.timetable.clone());
        formatter
            .debug_struct("Bandwidth")
            .field("upload", &timetable(&self.upload))
            .field("download", &timetable(&self.download))
            .finish()
    }
}

/// One direction.
#[derive(Clone)]
pub(crate) struct Throttle {
    timetable: Arc<Timetable>,
    /// When everything that was let through so far has had its time. Shared by all threads of a direction.
    free_at: Arc<Mutex<Option<Instant>>>,
}

impl Throttle {
    fn new(timetable: Timetable) -> Self {
        Self { timetable: Arc::new(timetable), free_at: Arc::default() }
    }

    /// Counts `bytes` and says how long to wait before more may go.
    fn reserve(&self, bytes: usize, bytes_per_second: Option<u64>, now: Instant) -> Duration {
        let Some(rate) = bytes_per_second else { return Duration::ZERO };
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let start = free_at.map_or(now, |free_at| free_at.max(now));
        let end = start + Duration::from_secs_f64(bytes as f64 / rate as f64);
        *free_at = Some(end);
        end - now
    }

    fn wait_for(&self, bytes: usize) -> Duration {
        self.reserve(bytes, self.timetable.bytes_per_second_at(&jiff::Zoned::now()), Instant::now())
    }

    pub(crate) fn wait(&self, bytes: usize) {
        thread::sleep(self.wait_for(bytes));
    }

    pub(crate) async fn wait_async(&self, bytes: usize) {
        tokio::time::sleep(self.wait_for(bytes)).await;
    }
}

/// A reader that gives no more than its direction may take.
pub(crate) struct Limited<R> {
    inner: R,
    throttle: Option<Throttle>,
}

impl<R> Limited<R> {
    pub(crate) fn new(inner: R, throttle: Option<Throttle>) -> Self {
        Self { inner, throttle }
    }
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(throttle) = &self.throttle else { return self.inner.read(buffer) };
        let length = buffer.len().min(PIECE_BYTES);
        let count = self.inner.read(&mut buffer[..length])?;
        throttle.wait(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_over_pauses_and_pieces() {
        let throttle = Throttle::new("1".parse().unwrap());
        let start = Instant::now();
        let ms = |wait: Duration| wait.as_millis();
        assert_eq!(ms(throttle.reserve(1000, Some(1000), start)), 1000);
        // Another thread at the same time waits behind the first.
        assert_eq!(ms(throttle.reserve(500, Some(1000), start)), 1500);
        let later = start + Duration::from_secs(10);
        assert_eq!(ms(throttle.reserve(1000, Some(2000), later)), 500, "a pause must not be saved up");
        assert_eq!(ms(throttle.reserve(1 << 30, None, later)), 0);
    }

    #[test]
    fn a_limited_reader_takes_its_time() {
        let content = vec![7; 48 << 10];
        let throttle = Throttle::new("128".parse().unwrap());
        let started = Instant::now();
        let mut read = Vec::new();
        Limited::new(content.as_slice(), Some(throttle)).read_to_end(&mut read).unwrap();
        assert_eq!(read, content);
        assert!(started.elapsed() >= Duration::from_millis(370), "{:?}", started.elapsed());
    }
}
