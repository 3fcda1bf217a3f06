//! A thread that works until it is told to stop.

use std::thread::JoinHandle;

use levee_database::StopSignal;

/// A running thread and the means to end it.
#[derive(Debug)]
pub struct Task {
    stop: StopSignal,
    thread: JoinHandle<()>,
}

impl Task {
    pub fn spawn(name: String, work: impl FnOnce(StopSignal) + Send + 'static) -> std::io::Result<Task> {
        let stop = StopSignal::new()?;
        let seen = stop.clone();
        let thread = std::thread::Builder::new().name(name).spawn(move || work(seen))?;
        Ok(Task { stop, thread })
    }

    /// Tells the thread to stop, without waiting.
    pub fn tell(&self) {
        self.stop.stop();
    }

    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the thread to end, having told it to.
    pub fn end(self) {
        self.stop.stop();
        if self.thread.join().is_err() {
            tracing::error!("a protecting thread ended in a panic");
        }
    }
}
