//! A thread that works until it is told to stop.

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
