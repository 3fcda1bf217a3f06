use std::time::Duration;

/// How often a step is tried before the operator is asked. With the waits below it takes about 15 s,
/// long enough for a service to restart, short enough for someone who watches.
pub const ATTEMPTS_MAX: u32 = 6;

const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How long to wait after the given number of failed attempts.
pub fn backoff(attempts: u32) -> Duration {
    FIRST_WAIT.saturating_mul(1 << attempts.saturating_sub(1).min(10)).min(LONGEST_WAIT)
}
