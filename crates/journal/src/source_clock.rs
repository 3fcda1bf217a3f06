//! From "at this moment the source's log ended there" to "everything up to this moment is durable here".

use std::collections::VecDeque;

use jiff::Timestamp;
use levee_model::postgres::Lsn;

/// How many notes are kept while the source is ahead. When full, every other one is dropped: the age
/// that is shown then gets coarser, never younger than it is.
const NOTES_MAX: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct SourceClock {
    notes: VecDeque<(Lsn, Timestamp)>,
    as_of: Option<Timestamp>,
}

impl SourceClock {
    pub(crate) fn starting_at(as_of: Option<Timestamp>) -> Self {
        Self { notes: VecDeque::new(), as_of }
    }

    /// At `at`, on the source's clock, the source's log ended at `source_end`.
    pub(crate) fn note(&mut self, source_end: Lsn, at: Timestamp) {
        if let Some((last_end, last_at)) = self.notes.back_mut()
            && *last_end == source_end
        {
            *last_at = at.max(*last_at);
            return;
        }
        if self.notes.len() == NOTES_MAX {
            let mut keep = false;
            self.notes.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.notes.push_back((source_end, at));
    }

    /// The moment up to which everything is contained in a log that ends at `end`.
    pub(crate) fn as_of(&mut self, end: Lsn) -> Option<Timestamp> {
        while let Some((source_end, at)) = self.notes.front()
            && *source_end <= end
        {
            self.as_of = self.as_of.max(Some(*at));
            self.notes.pop_front();
        }
        self.as_of
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_moment_counts_once_the_log_has_reached_its_end() {
        let mut clock = SourceClock::starting_at(None);
        clock.note(Lsn(100), at(1));
        clock.note(Lsn(200), at(2));
        clock.note(Lsn(200), at(3));
        assert_eq!(clock.as_of(Lsn(99)), None);
        assert_eq!(clock.as_of(Lsn(150)), Some(at(1)));
        assert_eq!(clock.as_of(Lsn(200)), Some(at(3)));
        clock.note(Lsn(200), at(2));
        assert_eq!(clock.as_of(Lsn(200)), Some(at(3)), "a clock that steps back does not make the log older");
    }

    #[test]
    fn too_many_notes_get_coarser_never_younger() {
        let mut clock = SourceClock::starting_at(None);
        for second in 0..10_000 {
            clock.note(Lsn(second as u64 * 10), at(second));
        }
        assert!(clock.notes.len() <= NOTES_MAX);
        for second in [0, 1, 500, 5000, 9999] {
            assert!(clock.as_of(Lsn(second as u64 * 10)).is_none_or(|as_of| as_of <= at(second)));
        }
    }
}
