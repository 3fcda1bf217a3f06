//! One line for everything on this host that copies much: a bounded number at once, in the order in which they came.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use levee_database::StopSignal;

/// How often somebody who waits looks whether they are to stop, and says anew what they wait behind.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Who runs and who waits.
#[derive(Debug)]
struct Line {
    bound: usize,
    running: Vec<String>,
    waiting: VecDeque<String>,
}

impl Line {
    fn has(&self, work: &str) -> bool {
        self.running.iter().any(|other| other == work) || self.waiting.iter().any(|other| other == work)
    }

    /// Lets the first in line begin, when it is this one and there is room.
    fn begin(&mut self, work: &str) -> bool {
        let may_begin = self.running.len() < self.bound && self.waiting.front().is_some_and(|first| first == work);
        if may_begin {
            self.running.extend(self.waiting.pop_front());
        }
        may_begin
    }

    /// What is to be over, or to have begun, before this one begins.
    fn ahead_of(&self, work: &str) -> Vec<&str> {
        let before = self.waiting.iter().take_while(|other| *other != work);
        self.running.iter().chain(before).map(String::as_str).collect()
    }
}

/// The line of one host.
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

    /// Waits for a turn. `work` names it to others and is in line only once; `tell` hears what it waits behind, and
    /// `None` in the end.
    pub fn enter(&self, work: String, stop: &StopSignal, mut tell: impl FnMut(Option<String>)) -> Entered<'_> {
        let mut line = self.lock();
        if line.has(&work) {
            return Entered::Overlaps;
        }
        line.waiting.push_back(work.clone());
        let mut has_told = false;
        let began = loop {
            if line.begin(&work) {
                break true;
            }
            if stop.is_stopped() {
                line.waiting.retain(|other| *other != work);
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
