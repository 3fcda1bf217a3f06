use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// Asks long work to end. It can be polled as a file descriptor, which becomes readable and stays so.
#[derive(Clone, Debug)]
pub struct StopSignal {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    stopped: AtomicBool,
    event: OwnedFd,
}

impl StopSignal {
    /// Fails only when the process may open no more file descriptors.
    pub fn new() -> std::io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { shared: Arc::new(Shared { stopped: AtomicBool::new(false), event }) })
    }

    /// May be called from any thread, and again.
    pub fn stop(&self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // The counter can't overflow by this: it is written at most once per call and never full in practice;
        // were it full, the descriptor would be readable already, which is all that is wanted.
        let _ = rustix::io::write(&self.shared.event, &1u64.to_ne_bytes());
    }

    /// Waits to be stopped, at most for this time; says whether it was.
    pub fn wait(&self, timeout: Duration) -> bool {
        self.wait_or(None, timeout);
        self.is_stopped()
    }

    /// Waits to be stopped, or until the other descriptor is readable, at most for this time.
    pub fn wait_or(&self, other: Option<BorrowedFd<'_>>, timeout: Duration) {
        let timeout =
            Timespec { tv_sec: timeout.as_secs().min(i32::MAX as u64) as i64, tv_nsec: timeout.subsec_nanos().into() };
        let descriptors = [Some(self.as_fd()), other].into_iter().flatten();
        let mut polled: Vec<_> =
            descriptors.map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN)).collect();
        // A signal ends it early, as anything else may.
        let _ = poll(&mut polled, Some(&timeout));
    }

    pub fn is_stopped(&self) -> bool {
        self.shared.stopped.load(Ordering::SeqCst)
    }
}

impl AsFd for StopSignal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.event.as_fd()
    }
}
