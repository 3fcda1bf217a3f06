//! Bandwidth limits by time of day, kept piece by piece so that a shared link sees an even flow.

use std::fmt;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Zoned;
pub use levee_model::Timetable;

/// What is sent or taken at once when there is a limit: small enough that a slow link is not blocked for long.
const PIECE_BYTES: usize = 32 << 10;
/// Smaller ones would be more headers than content.
const PIECE_BYTES_MIN: usize = 1 << 10;
/// As many go in a second at least, where the limit leaves room for them.
const PIECES_PER_SECOND: u64 = 8;
/// How long a wait goes on before it looks at the timetable again.
const STEP_MAX: Duration = Duration::from_millis(250);
/// Transfers that may share a limit: those of several copies to one vault, each on some connections.
const SHARERS_MAX: u64 = 64;
/// More is not waited for a single request: a dead peer is noticed long before, and this is for one that never answers.
const TIME_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

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

    /// What the limit may add to the time that sending so many bytes takes: a request that waits for its turn is not late.
    pub(crate) fn upload_time_for(&self, bytes: u64) -> Duration {
        self.upload.as_ref().map_or(Duration::ZERO, |throttle| throttle.time_for(bytes))
    }

    pub(crate) fn download_time_for(&self, bytes: u64) -> Duration {
        self.download.as_ref().map_or(Duration::ZERO, |throttle| throttle.time_for(bytes))
    }

    pub(crate) fn is_unlimited(&self) -> bool {
        self.upload.is_none() && self.download.is_none()
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

/// A moment by two clocks: one that never jumps, for how long something takes, and the local one, for the timetable.
#[derive(Clone, Debug)]
struct Moment {
    monotonic: Instant,
    local: Zoned,
}

impl Moment {
    fn now() -> Self {
        Self { monotonic: Instant::now(), local: Zoned::now() }
    }
}

/// What was let in and has not had its time yet. The rate is asked for anew at each step, so that bytes which came in at one
/// rate go on at the next one.
#[derive(Debug, Default)]
struct Flow {
    /// All bytes that ever came in; what this was after a piece is the piece's place in the line.
    came_in: u64,
    /// How many of them have not had their time. Never below zero: an idle hour is not saved up.
    waiting: f64,
    /// When `waiting` was so, and the rate at that time.
    at: Option<Instant>,
    bytes_per_second: Option<u64>,
}

impl Flow {
    fn go_on(&mut self, bytes_per_second: Option<u64>, now: Instant) {
        let last = *self.at.get_or_insert(now);
        let seconds = now.saturating_duration_since(last).as_secs_f64();
        let slower = |rate: u64| self.bytes_per_second.map_or(rate, |before| before.min(rate));
        // Where in between the rate has changed is not known: the slower one is never too fast.
        self.waiting = bytes_per_second.map_or(0.0, |rate| (self.waiting - slower(rate) as f64 * seconds).max(0.0));
        self.at = Some(last.max(now));
        self.bytes_per_second = bytes_per_second;
    }

    fn let_in(&mut self, bytes: usize) -> u64 {
        self.came_in += bytes as u64;
        self.waiting += bytes as f64;
        self.came_in
    }

    /// How much of what waits stands before the end of a piece, or in it.
    fn bytes_before(&self, place: u64) -> f64 {
        self.waiting - (self.came_in - place) as f64
    }
}

/// One direction.
#[derive(Clone)]
pub(crate) struct Throttle {
    timetable: Arc<Timetable>,
    /// Shared by all threads of a direction, which stand in one line.
    flow: Arc<Mutex<Flow>>,
}

impl Throttle {
    fn new(timetable: Timetable) -> Self {
        Self { timetable: Arc::new(timetable), flow: Arc::default() }
    }

    /// Puts `bytes` in the line, and gives their place in it.
    fn let_in(&self, bytes: usize, now: &Moment) -> u64 {
        let rate = self.timetable.bytes_per_second_at(&now.local);
        let mut flow = self.flow.lock().unwrap_or_else(PoisonError::into_inner);
        // First, or the time before would count for what comes in now.
        flow.go_on(rate, now.monotonic);
        flow.let_in(bytes)
    }

    /// How long to wait until asking again; nothing when all up to this place have had their time.
    fn wait_left(&self, place: u64, now: &Moment) -> Duration {
        let rate = self.timetable.bytes_per_second_at(&now.local);
        let mut flow = self.flow.lock().unwrap_or_else(PoisonError::into_inner);
        flow.go_on(rate, now.monotonic);
        let seconds = rate.map_or(0.0, |rate| flow.bytes_before(place) / rate as f64);
        Duration::from_secs_f64(seconds.clamp(0.0, STEP_MAX.as_secs_f64()))
    }

    pub(crate) fn wait(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let place = self.let_in(bytes, &Moment::now());
        while let Some(left) = some_time(self.wait_left(place, &Moment::now())) {
            thread::sleep(left);
        }
    }

    pub(crate) async fn wait_async(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let place = self.let_in(bytes, &Moment::now());
        while let Some(left) = some_time(self.wait_left(place, &Moment::now())) {
            tokio::time::sleep(left).await;
        }
    }

    /// How much goes at once. At a slow rate less, so that a server hears from each of many uploads before it takes one for
    /// dead.
    pub(crate) fn piece_bytes(&self) -> usize {
        let slowest = self.timetable.slowest_bytes_per_second().unwrap_or(u64::MAX);
        (slowest / PIECES_PER_SECOND).clamp(PIECE_BYTES_MIN as u64, PIECE_BYTES as u64) as usize
    }

    /// What the limit may add to the time that `bytes` take, when others share it.
    pub(crate) fn time_for(&self, bytes: u64) -> Duration {
        let seconds = self.timetable.slowest_bytes_per_second().map_or(0, |rate| bytes.div_ceil(rate));
        Duration::from_secs(seconds.saturating_mul(SHARERS_MAX)).min(TIME_MAX)
    }
}

fn some_time(time: Duration) -> Option<Duration> {
    (!time.is_zero()).then_some(time)
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
        let length = buffer.len().min(throttle.piece_bytes());
        let count = self.inner.read(&mut buffer[..length])?;
        throttle.wait(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
