//! Time that goes on while the machine sleeps.

use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

/// A point in time by two clocks, neither of which can be trusted alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    /// Since the machine started, the time in which it slept included. Knows nothing of a virtual machine that was
    /// paused from outside.
    since_boot: Duration,
    /// By this clock others judge how old a lock is. It may be set back.
    wall: SystemTime,
}

impl Moment {
    pub fn now() -> Self {
        // Never negative: it begins with zero when the machine starts.
        let since_boot = clock_gettime(ClockId::Boottime).try_into().unwrap_or_default();
        Self { since_boot, wall: SystemTime::now() }
    }

    /// How long ago an earlier moment was, by the clock that says more.
    pub fn since(self, earlier: Self) -> Duration {
        let by_wall = self.wall.duration_since(earlier.wall).unwrap_or_default();
        self.since_boot.saturating_sub(earlier.since_boot).max(by_wall)
    }

    /// What is `paused` passes by the wall clock alone.
    #[cfg(test)]
    pub fn after(self, running: Duration, paused: Duration) -> Self {
        Self { since_boot: self.since_boot + running, wall: self.wall + running + paused }
    }

    #[cfg(test)]
    pub fn with_wall_of(self, other: Self) -> Self {
        Self { wall: other.wall, ..self }
    }
}
