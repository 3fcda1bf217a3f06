//! When log that has been taken in must be durable.

use std::time::{Duration, Instant};

/// For how long log that no commit waits for may lie in memory. Every flush costs the disk as much as a commit
/// does, and the archive must not take that from the database; five in a second cost next to nothing, and the
/// recovery point is still far younger than a second.
pub const FLUSH_INTERVAL: Duration = Duration::from_millis(200);

/// Knows when the next flush is due. It reads no clock: `now` is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlushSchedule {
    due: Option<Instant>,
}

impl FlushSchedule {
    /// Something was taken in. With `may_wait` no commit waits for it.
    pub fn took(&mut self, may_wait: bool, now: Instant) {
        let due = if may_wait { now + FLUSH_INTERVAL } else { now };
        self.due = Some(self.due.map_or(due, |known| known.min(due)));
    }

    pub fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// When the next flush is due; `None` when nothing is left to flush.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Everything that was taken in is durable.
    pub fn flushed(&mut self) {
        self.due = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_commit_waits_for_is_due_at_once_and_the_rest_within_the_interval() {
        let start = Instant::now();
        let mut schedule = FlushSchedule::default();
        assert!(!schedule.is_due(start + FLUSH_INTERVAL), "nothing is there to flush");
        schedule.took(true, start);
        // What comes later does not put it off.
        schedule.took(true, start + FLUSH_INTERVAL / 2);
        assert!(!schedule.is_due(start + FLUSH_INTERVAL / 2));
        assert!(schedule.is_due(start + FLUSH_INTERVAL));
        assert_eq!(schedule.due(), Some(start + FLUSH_INTERVAL));
        schedule.took(false, start + FLUSH_INTERVAL / 2);
        assert!(schedule.is_due(start + FLUSH_INTERVAL / 2));
        schedule.flushed();
        assert!(!schedule.is_due(start + FLUSH_INTERVAL) && schedule.due().is_none());
    }
}
