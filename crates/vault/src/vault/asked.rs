//! Which index files were asked for lately. By a list that is late they may be gone, so each is asked for when others have
//! written a new one, which may stand in its place; but there may be thousands, at a store that is far away.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::Id;

/// One that was there is not asked for again sooner.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Asked {
    /// When each was there.
    at: HashMap<Id, Instant>,
    /// When a new one was last seen, until all others were asked for since.
    owed_since: Option<Instant>,
}

impl Asked {
    /// Parts known files into those to ask for now and the others. Those that a new one may replace and that were asked for
    /// just before it came have their turn in a later look, also without another new one.
    pub fn due(&mut self, known: Vec<Id>, has_new: bool, now: Instant) -> (Vec<Id>, Vec<Id>) {
        if has_new {
            self.owed_since = Some(now);
        }
        let Some(since) = self.owed_since else { return (Vec::new(), known) };
        let is_due =
            |at: Instant| at < since && now.checked_duration_since(at).is_none_or(|age| age >= ASK_AGAIN_AFTER);
        known.into_iter().partition(|id| self.at.get(id).is_none_or(|at| is_due(*at)))
    }

    /// Notes what asking for some files has brought, and forgets those that are not listed any more.
    pub fn note(&mut self, asked: &[Id], there: &[Id], now: Instant, is_listed: impl Fn(&Id) -> bool) {
        for id in asked {
            self.at.remove(id);
        }
        self.at.extend(there.iter().map(|id| (*id, now)));
        self.at.retain(|id, _| is_listed(id));
        if self.owed_since.is_some_and(|since| self.at.values().all(|at| *at >= since)) {
            self.owed_since = None;
        }
    }

    /// One that was found gone, or was removed.
    pub fn forget(&mut self, id: &Id) {
        self.at.remove(id);
    }

    /// What was asked before counts no more: at the next new one every file is asked for.
    pub fn forget_all(&mut self) {
        self.at.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(numbers: std::ops::Range<u8>) -> Vec<Id> {
        numbers.map(|number| Id::from_bytes([number; 32])).collect()
    }

    #[test]
    fn each_file_is_asked_for_once_in_a_minute_and_after_each_new_one() {
        let (mut asked, begin) = (Asked::default(), Instant::now());
        // Asks for what is due, all of which is there, and says how many that were.
        let mut look = |known: Vec<Id>, has_new: bool, second: u64| {
            let now = begin + Duration::from_secs(second);
            let (due, others) = asked.due(known.clone(), has_new, now);
            assert_eq!(due.len() + others.len(), known.len());
            asked.note(&due, &due, now, |id| known.contains(id));
            due.len()
        };
        assert_eq!(look(files(0..3), false, 0), 0, "nothing has come that could stand for them");
        assert_eq!(look(files(0..3), true, 1), 3);
        assert_eq!(look(files(0..4), false, 2), 0);
        assert_eq!(look(files(0..4), true, 30), 1, "the others were asked for half a minute ago");
        assert_eq!(look(files(0..5), false, 40), 1, "the one that was new");
        assert_eq!(look(files(0..5), false, 61), 3, "what was put off");
        assert_eq!(look(files(0..5), false, 200), 0, "all were asked for since the last new one");
        assert_eq!(look(files(0..5), true, 201), 5);
    }

    #[test]
    fn a_file_that_was_gone_is_asked_for_again_at_once() {
        let (mut asked, now) = (Asked::default(), Instant::now());
        let (due, _) = asked.due(files(0..2), true, now);
        asked.note(&due, &files(0..1), now, |_| true);
        assert_eq!(asked.due(files(0..2), true, now), (files(1..2), files(0..1)));
        asked.forget(&files(0..1)[0]);
        assert_eq!(asked.due(files(0..2), true, now).0, files(0..2));
        asked.note(&files(0..2), &files(0..2), now, |_| true);
        asked.forget_all();
        assert_eq!(asked.due(files(0..2), true, now).0, files(0..2));
    }
}
