//! What a service asks for when it gets more than it can do: to be left alone for so long.
//!
//! Source: RFC 9110, section 10.2.3, `Retry-After`.

use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;

/// However long a service asks for: somebody waits for the operation, and it is asked again after so long.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Until when a service wants to be left alone. It holds for all threads of a store: the service means the caller, not
/// the one request that it has refused.
#[derive(Debug, Default)]
pub(crate) struct Pause {
    until: Mutex<Option<Instant>>,
}

impl Pause {
    /// Looks at an answer, whatever its status.
    pub(crate) fn note(&self, status: StatusCode, headers: &HeaderMap) {
        if !matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            return;
        }
        let said = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let Some(asked) = said.and_then(|value| asked_for(value, Timestamp::now())) else { return };
        let asked_until = Instant::now() + asked.min(PAUSE_MAX);
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        *until = (*until).max(Some(asked_until));
    }

    pub(crate) fn wait(&self) {
        thread::sleep(self.left());
    }

    pub(crate) async fn wait_async(&self) {
        let left = self.left();
        if !left.is_zero() {
            tokio::time::sleep(left).await;
        }
    }

    fn left(&self) -> Duration {
        let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }
}

/// How long from `now` on: services say seconds or a date.
fn asked_for(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
    // A date that is over asks for nothing.
    Duration::try_from(at.duration_since(now)).ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn seconds_and_dates_are_read() {
        let now: Timestamp = "2026-11-26T08:00:00Z".parse().unwrap();
        let check = |value: &str, seconds: Option<u64>| {
            assert_eq!(asked_for(value, now), seconds.map(Duration::from_secs), "{value:?}");
        };
        check("0", Some(0));
        check(" 120 ", Some(120));
        check("Thu, 26 Nov 2026 08:01:30 GMT", Some(90));
        check("Thu, 26 Nov 2026 07:59:00 GMT", None);
        check("soon", None);
        check("-1", None);
    }

    #[test]
    fn only_a_service_with_too_much_to_do_is_left_alone_and_not_for_ever() {
        let check = |status: StatusCode, value: &'static str, expected: std::ops::Range<u64>| {
            let pause = Pause::default();
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(value))]);
            pause.note(status, &headers);
            // One that asks for less does not shorten it.
            pause.note(StatusCode::TOO_MANY_REQUESTS, &HeaderMap::new());
            assert!(expected.contains(&pause.left().as_secs()), "{status} {value}: {:?}", pause.left());
        };
        check(StatusCode::TOO_MANY_REQUESTS, "30", 20..31);
        check(StatusCode::SERVICE_UNAVAILABLE, "30", 20..31);
        check(StatusCode::TOO_MANY_REQUESTS, "100000", 50..61);
        check(StatusCode::OK, "30", 0..1);
        check(StatusCode::MOVED_PERMANENTLY, "30", 0..1);
    }
}
