//! The server's last word on what is wanted, until it is taken over.

use std::time::{Duration, Instant};

use super::Wanted;

/// Between two attempts to take over what is left. The thread that makes them also listens for higher epochs, and must not be
/// held up in that by a full disk.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What was said last, and whether all of it is in force here.
#[derive(Default)]
pub struct LastWord {
    said: Option<Wanted>,
    /// When what is left of it is taken over again: a defect, or a disk, was in the way.
    again_at: Option<Instant>,
}

impl LastWord {
    /// What is to be taken over now: what was just said, or once more what was said last, when some of it has been left for a
    /// moment or `is_due`. It stays the word that it was: otherwise the start gate of an app that was not taken over at once
    /// would wait for the server to speak again, and that has no reason to.
    pub fn wanted_now(&mut self, said: Option<Wanted>, is_due: bool, now: Instant) -> Option<Wanted> {
        let is_wanted = said.is_some() || is_due || self.again_at.is_some_and(|at| at <= now);
        if said.is_some() {
            self.said = said;
        }
        if is_wanted { self.said.clone() } else { None }
    }

    pub fn was_taken_over(&mut self, is_whole: bool, now: Instant) {
        self.again_at = (!is_whole).then(|| now + AGAIN_AFTER);
    }
}

#[cfg(test)]
mod tests {
    use levee_model::control::Desired;

    use super::super::Source;
    use super::*;

    fn said(revision: u64) -> Option<Wanted> {
        Some((Desired { revision, ..Desired::default() }, Source::Server))
    }

    /// What is taken over, by revision: what was said, and how often a taking-over met a defect before it went well.
    fn check(said: &[(u64, Source, u32)], expected: &[(u64, Source)]) {
        let (mut word, mut taken, mut now) = (LastWord::default(), Vec::new(), Instant::now());
        for (revision, source, mut defects) in said.iter().copied() {
            let mut next = Some((Desired { revision, ..Desired::default() }, source));
            while let Some((desired, source)) = word.wanted_now(next.take(), false, now) {
                taken.push((desired.revision, source));
                word.was_taken_over(defects == 0, now);
                defects = defects.saturating_sub(1);
                now += AGAIN_AFTER;
            }
        }
        assert_eq!(taken, expected);
    }

    #[test]
    fn what_met_a_defect_is_taken_over_again_as_the_word_that_it_was() {
        use Source::{Remembered, Server};
        check(&[(5, Remembered, 0), (5, Server, 0)], &[(5, Remembered), (5, Server)]);
        check(&[(5, Server, 2), (6, Server, 0)], &[(5, Server), (5, Server), (5, Server), (6, Server)]);
        // What the server has not said to this process does not open a gate at the second attempt either.
        check(&[(5, Remembered, 1)], &[(5, Remembered), (5, Remembered)]);
    }

    #[test]
    fn a_newer_word_takes_the_place_of_one_that_is_left() {
        let (mut word, now) = (LastWord::default(), Instant::now());
        assert!(word.wanted_now(None, true, now).is_none(), "nothing was ever said");
        word.wanted_now(said(5), false, now);
        word.was_taken_over(false, now);
        assert_eq!(word.wanted_now(said(6), false, now), said(6));
        word.was_taken_over(true, now);
        assert_eq!(word.wanted_now(None, false, now + AGAIN_AFTER), None);
        assert_eq!(word.wanted_now(None, true, now), said(6), "something of it is due");
    }

    #[test]
    fn what_is_left_is_taken_over_again_in_a_moment_and_not_at_every_look() {
        let (mut word, now) = (LastWord::default(), Instant::now());
        word.wanted_now(said(5), false, now);
        word.was_taken_over(false, now);
        assert_eq!(word.wanted_now(None, false, now + AGAIN_AFTER / 2), None);
        assert_eq!(word.wanted_now(None, false, now + AGAIN_AFTER), said(5));
    }
}
