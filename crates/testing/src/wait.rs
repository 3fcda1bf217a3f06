use std::thread;
use std::time::{Duration, Instant};

/// How often a condition is looked at while waiting.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Waits until `condition` answers with a value, and panics after `timeout` naming `what`.
#[track_caller]
pub fn wait_for<T>(what: &str, timeout: Duration, condition: impl FnMut() -> Option<T>) -> T {
    match poll(timeout, condition) {
        Some(value) => value,
        None => panic!("waited {:.1} s in vain for {what}", timeout.as_secs_f64()),
    }
}

/// Waits until `condition` holds, and panics after `timeout` naming `what`.
#[track_caller]
pub fn wait_until(what: &str, timeout: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, timeout, || condition().then_some(()));
}

/// Looks at `condition` until it answers with a value or `timeout` is over.
pub fn poll<T>(timeout: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(POLL_INTERVAL);
    }
}
