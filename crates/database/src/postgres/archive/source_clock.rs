use std::collections::VecDeque;

use jiff::Timestamp;
use levee_model::postgres::Lsn;

/// How many moments wait for the sink at most. Beyond it every second one is forgotten, which only makes `as_of`
/// coarser.
const PENDING_MAX: usize = 1024;

/// Knows up to which moment of the source's clock everything is durable at the sink.
///
/// A data message says where the source's flushed log ended at a moment. A keepalive says only how much was *sent* by
/// then; there may have been more. But between two keepalives the server looks for more to send: when nothing came
/// in between, the first one had told of everything that there was.
#[derive(Debug, Default)]
pub(super) struct SourceClock {
    /// Moments with the log's end at each, both rising.
    pending: VecDeque<(Lsn, Timestamp)>,
    unconfirmed: Option<(Lsn, Timestamp)>,
    as_of: Option<Timestamp>,
}

impl SourceClock {
    pub(super) fn data(&mut self, source_end: Lsn, time: Timestamp) {
        self.unconfirmed = None;
        self.push(source_end, time);
    }

    /// Returns a moment that is now known to have had its log's end there.
    pub(super) fn keepalive(&mut self, sent_end: Lsn, time: Timestamp) -> Option<(Lsn, Timestamp)> {
        let before = self.unconfirmed.replace((sent_end, time));
        let (end, time) = before.filter(|(end, _)| *end == sent_end)?;
        self.push(end, time);
        Some((end, time))
    }

    /// Takes in how much is durable. Returns `as_of`.
    pub(super) fn durable(&mut self, durable: Lsn) -> Option<Timestamp> {
        while let Some((_, time)) = self.pending.pop_front_if(|(end, _)| *end <= durable) {
            self.as_of = Some(time);
        }
        self.as_of
    }

    fn push(&mut self, end: Lsn, time: Timestamp) {
        match self.pending.back_mut() {
            Some(last) if last.0 == end => last.1 = time,
            // The end never goes back on one connection; were it to, the moment would prove nothing.
            Some(last) if last.0 > end => {}
            _ => self.pending.push_back((end, time)),
        }
        if self.pending.len() > PENDING_MAX {
            let mut keep = false;
            self.pending.retain(|_| {
                keep = !keep;
                keep
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_moment_counts_once_all_that_was_there_is_durable() {
        let mut clock = SourceClock::default();
        clock.data(Lsn(100), at(1));
        clock.data(Lsn(200), at(2));
        clock.data(Lsn(200), at(3));
        assert_eq!(clock.durable(Lsn(99)), None);
        assert_eq!(clock.durable(Lsn(150)), Some(at(1)));
        assert_eq!(clock.durable(Lsn(200)), Some(at(3)));
    }

    #[test]
    fn a_keepalive_counts_only_once_the_next_shows_that_nothing_was_left_to_send() {
        let mut clock = SourceClock::default();
        clock.data(Lsn(100), at(1));
        assert_eq!(clock.keepalive(Lsn(100), at(2)), None);
        clock.data(Lsn(150), at(3));
        assert_eq!(clock.keepalive(Lsn(120), at(4)), None, "sent less than there is");
        assert_eq!(clock.durable(Lsn(120)), Some(at(1)));
        assert_eq!(clock.keepalive(Lsn(150), at(5)), None);
        assert_eq!(clock.keepalive(Lsn(150), at(6)), Some((Lsn(150), at(5))));
        assert_eq!(clock.durable(Lsn(149)), Some(at(1)));
        assert_eq!(clock.durable(Lsn(150)), Some(at(5)));
    }

    #[test]
    fn what_waits_is_bounded_and_the_newest_stays() {
        let mut clock = SourceClock::default();
        for second in 0..5000 {
            clock.data(Lsn(second), at(second as i64));
        }
        assert!(clock.pending.len() <= PENDING_MAX);
        let as_of = clock.durable(Lsn(5000)).unwrap();
        assert!(as_of >= at(4990), "{as_of}");
    }
}
