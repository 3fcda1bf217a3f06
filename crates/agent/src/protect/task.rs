//! A thread that works until it is told to stop.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use levee_database::StopSignal;

/// A running thread and the means to end it.
#[derive(Debug)]
pub struct Task {
    stop: StopSignal,
    thread: JoinHandle<()>,
    has_panicked: Arc<AtomicBool>,
}

/// Notes a panic as it goes by.
struct Witness(Arc<AtomicBool>);

impl Drop for Witness {
    fn drop(&mut self) {
        self.0.store(std::thread::panicking(), Ordering::SeqCst);
    }
}

/// Ends other work when this goes out of scope.
struct Ends<'a> {
    other: &'a StopSignal,
    /// Only where it goes by a panic.
    only_at_panic: bool,
}

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        if !self.only_at_panic || std::thread::panicking() {
            self.other.stop();
        }
    }
}

/// Carries out a task's work with something beside it that lasts as long. A panic of either ends the other and goes on from
/// here, so that the whole task is seen to have died: nobody else would begin that one half again.
///
/// `stop` ends the work, `stop_beside` what goes on beside it.
pub fn beside<T>(
    stop: &StopSignal,
    stop_beside: &StopSignal,
    work: impl FnOnce() -> T,
    other: impl FnOnce() + Send,
) -> T {
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let _ends = Ends { other: stop, only_at_panic: true };
            other();
        });
        let _ends = Ends { other: stop_beside, only_at_panic: false };
        work()
    })
}

/// Does one of several things that a thread does over and over. Says whether it went without a panic: the others must not end
/// with it.
pub fn survives(what: &str, work: impl FnOnce()) -> bool {
    let outcome = catch_unwind(AssertUnwindSafe(work));
    if outcome.is_err() {
        // What it said itself stands before this in the log.
        tracing::error!(what, "this ended in a panic, and is tried again");
    }
    outcome.is_ok()
}

impl Task {
    pub fn spawn(name: String, work: impl FnOnce(StopSignal) + Send + 'static) -> std::io::Result<Task> {
        let stop = StopSignal::new()?;
        let (seen, has_panicked) = (stop.clone(), Arc::new(AtomicBool::new(false)));
        let witness = Witness(has_panicked.clone());
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            let _witness = witness;
            work(seen);
        })?;
        Ok(Task { stop, thread, has_panicked })
    }

    /// Tells the thread to stop, without waiting.
    pub fn tell(&self) {
        self.stop.stop();
    }

    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Whether the thread has ended in a panic.
    pub fn has_died(&self) -> bool {
        self.is_finished() && self.has_panicked.load(Ordering::SeqCst)
    }

    /// Waits for the thread to end, having told it to.
    pub fn end(self) {
        self.stop.stop();
        let name = self.thread.thread().name().unwrap_or_default().to_string();
        if self.thread.join().is_err() {
            // What it said itself stands before this in the log.
            tracing::error!(thread = %name, "a protecting thread ended in a panic");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NEVER: Duration = Duration::from_secs(60);

    /// A task of two halves, each of which may panic.
    fn dies(work: fn(&StopSignal), other: fn(&StopSignal)) -> bool {
        let task = Task::spawn("two halves".into(), move |stop| {
            let stop_beside = StopSignal::new().unwrap();
            beside(&stop, &stop_beside, || work(&stop), || other(&stop_beside));
        });
        let task = task.unwrap();
        while !task.is_finished() {
            std::thread::sleep(Duration::from_millis(5));
        }
        task.has_died()
    }

    #[test]
    fn a_panic_of_one_half_ends_the_other_and_is_the_tasks() {
        let waits = |stop: &StopSignal| assert!(stop.wait(NEVER));
        assert!(dies(waits, |_| panic!("a defect beside the work")));
        assert!(dies(|_| panic!("a defect of the work"), waits));
        assert!(!dies(|_| {}, waits), "what goes on beside it ends with the work");
    }

    #[test]
    fn a_panic_in_one_thing_is_told_and_goes_no_further() {
        let mut done = 0;
        assert!(!survives("a defect", || panic!("a defect")));
        assert!(survives("the next", || done += 1));
        assert_eq!(done, 1);
    }
}
