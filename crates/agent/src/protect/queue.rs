//! A line for what copies much: a bounded number at once, in the order in which they came. A host has one for everything that
//! it sends to recovery sites, and one for each further vault, so that a vault that is slow holds up nothing but itself.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use levee_database::StopSignal;

/// How often somebody who waits looks whether they are to stop, and says anew what they wait behind.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Who has a ticket and has not asked for so long is busy with something else: others go first meanwhile. Longer than the
/// other work of a turn takes as a rule, or those who only copy would always come first.
const ASKS_WITHIN: Duration = Duration::from_secs(60);

/// Who runs and who waits.
#[derive(Debug)]
struct Line {
    bound: usize,
    running: Vec<String>,
    waiting: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    work: String,
    /// When it last asked; `None` for one that does nothing but wait.
    asked_at: Option<Instant>,
}

impl Waiter {
    fn is_there(&self) -> bool {
        self.asked_at.is_none_or(|at| at.elapsed() < ASKS_WITHIN)
    }
}

impl Line {
    fn has(&self, work: &str) -> bool {
        self.running.iter().any(|other| other == work) || self.waiting.iter().any(|other| other.work == work)
    }

    /// Lets the first in line begin, when it is this one and there is room. One that does not ask keeps its place, and
    /// holds nobody up.
    fn begin(&mut self, work: &str) -> bool {
        match self.waiting.iter().position(|waiter| waiter.work == work || waiter.is_there()) {
            Some(first) if self.waiting[first].work == work && self.running.len() < self.bound => {
                self.running.extend(self.waiting.remove(first).map(|waiter| waiter.work));
                true
            }
            _ => false,
        }
    }

    fn leave(&mut self, work: &str) {
        self.waiting.retain(|other| other.work != work);
    }

    /// What is to be over, or to have begun, before this one begins.
    fn ahead_of(&self, work: &str) -> Vec<&str> {
        let before = self.waiting.iter().map(|waiter| waiter.work.as_str()).take_while(|other| *other != work);
        self.running.iter().map(String::as_str).chain(before).collect()
    }
}

/// One line.
#[derive(Debug)]
pub struct CopyQueue {
    line: Mutex<Line>,
    changed: Condvar,
}

/// What became of waiting.
pub enum Entered<'a> {
    Turn(Turn<'a>),
    /// Told to stop before the turn came.
    Stopped,
    /// The same is under way or waits already.
    Overlaps,
}

/// A place in line of somebody who does something else while they wait. Dropping it leaves the line.
///
/// Who holds it asks every moment: nobody behind it begins before it has had its turn, unless it does not ask.
pub struct Ticket<'a> {
    queue: &'a CopyQueue,
    work: String,
}

/// What somebody with a ticket has heard.
pub enum Asked<'a> {
    Turn(Turn<'a>),
    Waits {
        ticket: Ticket<'a>,
        /// What it waits behind.
        behind: String,
    },
}

/// The right to copy, until it is dropped.
pub struct Turn<'a> {
    queue: &'a CopyQueue,
    work: String,
}

impl CopyQueue {
    pub fn new(bound: usize) -> Self {
        let line = Line { bound: bound.max(1), running: Vec::new(), waiting: VecDeque::new() };
        Self { line: Mutex::new(line), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place at the end of the line. `None` when the same is under way or waits already.
    pub fn ticket(&self, work: String) -> Option<Ticket<'_>> {
        let mut line = self.lock();
        if line.has(&work) {
            return None;
        }
        line.waiting.push_back(Waiter { work: work.clone(), asked_at: Some(Instant::now()) });
        Some(Ticket { queue: self, work })
    }

    /// Waits for a turn. `work` names it to others and is in line only once; `tell` hears what it waits behind, and
    /// `None` in the end.
    pub fn enter(&self, work: String, stop: &StopSignal, mut tell: impl FnMut(Option<String>)) -> Entered<'_> {
        let mut line = self.lock();
        if line.has(&work) {
            return Entered::Overlaps;
        }
        line.waiting.push_back(Waiter { work: work.clone(), asked_at: None });
        let mut has_told = false;
        let began = loop {
            if line.begin(&work) {
                break true;
            }
            if stop.is_stopped() {
                line.leave(&work);
                break false;
            }
            let ahead = in_words(&line.ahead_of(&work));
            // Whoever hears it must not hold the line up.
            drop(line);
            tell(Some(ahead));
            has_told = true;
            let (guard, _) = self.changed.wait_timeout(self.lock(), LOOK_EVERY).unwrap_or_else(PoisonError::into_inner);
            line = guard;
        };
        drop(line);
        self.changed.notify_all();
        if has_told {
            tell(None);
        }
        if began { Entered::Turn(Turn { queue: self, work }) } else { Entered::Stopped }
    }
}

impl<'a> Ticket<'a> {
    /// Begins when it is time. Does not wait.
    pub fn ask(self) -> Asked<'a> {
        let mut line = self.queue.lock();
        if let Some(waiter) = line.waiting.iter_mut().find(|waiter| waiter.work == self.work) {
            waiter.asked_at = Some(Instant::now());
        }
        if !line.begin(&self.work) {
            let behind = in_words(&line.ahead_of(&self.work));
            drop(line);
            return Asked::Waits { ticket: self, behind };
        }
        drop(line);
        self.queue.changed.notify_all();
        // The ticket is dropped behind it, and finds that it waits no more.
        Asked::Turn(Turn { queue: self.queue, work: self.work.clone() })
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.queue.lock().leave(&self.work);
        self.queue.changed.notify_all();
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.queue.lock().running.retain(|other| *other != self.work);
        self.queue.changed.notify_all();
    }
}

fn in_words(ahead: &[&str]) -> String {
    match ahead {
        [] => "others".into(),
        [one] => (*one).into(),
        [one, two] => format!("{one} and {two}"),
        [one, rest @ ..] => format!("{one} and {} others", rest.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn turns_come_in_order_and_within_the_bound() {
        let queue = CopyQueue::new(2);
        let stop = StopSignal::new().unwrap();
        let enter = |work: &str| match queue.enter(work.into(), &stop, |_| {}) {
            Entered::Turn(turn) => turn,
            _ => panic!("{work} had no turn"),
        };
        let (first, second) = (enter("first"), enter("second"));
        assert!(matches!(queue.enter("first".into(), &stop, |_| {}), Entered::Overlaps));
        let (told, hears) = mpsc::channel();
        std::thread::scope(|scope| {
            for (work, ahead) in [("third", "first and second"), ("fourth", "first and 2 others")] {
                let told = told.clone();
                let (queue, stop) = (&queue, &stop);
                scope.spawn(move || {
                    let entered = queue.enter(work.into(), stop, |behind| {
                        let _ = told.send((work, behind));
                    });
                    let Entered::Turn(turn) = entered else { panic!() };
                    let _ = told.send((work, Some("began".into())));
                    drop(turn);
                });
                assert_eq!(hears.recv().unwrap(), (work, Some(ahead.into())));
            }
            assert!(matches!(queue.enter("fourth".into(), &stop, |_| {}), Entered::Overlaps));
            drop(first);
            let began: Vec<&str> = hears
                .iter()
                .filter(|(_, what)| what.as_deref() == Some("began"))
                .map(|(work, _)| work)
                .take(2)
                .collect();
            assert_eq!(began, ["third", "fourth"]);
        });
        drop(second);
        assert!(queue.lock().running.is_empty() && queue.lock().waiting.is_empty());
    }

    #[test]
    fn a_ticket_keeps_its_place_and_is_given_back_when_it_is_dropped() {
        let queue = CopyQueue::new(1);
        let ticket = |work: &str| queue.ticket(work.into()).unwrap();
        let Asked::Turn(first) = ticket("first").ask() else { panic!("there was room") };
        assert!(queue.ticket("first".into()).is_none(), "it is under way");
        let (second, third) = (ticket("second"), ticket("third"));
        assert!(queue.ticket("second".into()).is_none(), "it waits");
        let Asked::Waits { ticket: third, behind } = third.ask() else { panic!("it is not its turn") };
        assert_eq!(behind, "first and second");
        drop(first);
        let Asked::Waits { ticket: third, behind } = third.ask() else { panic!("it was the second's turn") };
        assert_eq!(behind, "second");
        drop(second);
        let Asked::Turn(third) = third.ask() else { panic!("nobody is before it") };
        assert!(queue.lock().waiting.is_empty());
        drop(third);
        assert!(queue.lock().running.is_empty());
    }

    #[test]
    fn one_that_does_not_ask_holds_nobody_up_and_keeps_its_place() {
        let queue = CopyQueue::new(1);
        let ticket = |work: &str| queue.ticket(work.into()).unwrap();
        let (busy, next) = (ticket("busy"), ticket("next"));
        let long_ago = Instant::now().checked_sub(ASKS_WITHIN * 2).unwrap();
        queue.lock().waiting[0].asked_at = Some(long_ago);
        let Asked::Turn(turn) = next.ask() else { panic!("nobody who asks is before it") };
        let last = ticket("last");
        let Asked::Waits { ticket: busy, behind } = busy.ask() else { panic!("there is no room") };
        assert_eq!(behind, "next");
        drop(turn);
        assert!(matches!(last.ask(), Asked::Waits { .. }), "the busy one was before it");
        assert!(matches!(busy.ask(), Asked::Turn(_)));
    }

    #[test]
    fn whoever_is_stopped_leaves_the_line() {
        let queue = CopyQueue::new(1);
        let (goes_on, stopped) = (StopSignal::new().unwrap(), StopSignal::new().unwrap());
        let Entered::Turn(turn) = queue.enter("first".into(), &goes_on, |_| {}) else { panic!() };
        stopped.stop();
        let mut heard = Vec::new();
        assert!(matches!(queue.enter("second".into(), &stopped, |behind| heard.push(behind)), Entered::Stopped));
        assert!(queue.lock().waiting.is_empty(), "{heard:?}");
        drop(turn);
        assert!(matches!(queue.enter("third".into(), &goes_on, |_| {}), Entered::Turn(_)));
    }
}
