//! Taking the body of a request.

use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use hyper::StatusCode;
use hyper::body::Body;
use tokio::time::timeout;

use super::BODY_BYTES_MAX;

/// How slowly a body may come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Without a single byte.
    stall_max: Duration,
    /// Before the rate counts.
    grace: Duration,
    /// In the mean since the body began.
    bytes_per_second_min: u64,
}

/// A sender whose link was cut in the middle of a body does not keep its share for longer than the stall; who sends a
/// byte now and then, on purpose, not for longer than the grace. The rate is that of a limit of 2 KiB a second which
/// eight uploads share: nobody who means it is slower.
pub(super) const PACE: Pace =
    Pace { stall_max: Duration::from_secs(30), grace: Duration::from_secs(60), bytes_per_second_min: 256 };

impl Pace {
    /// How long the next bytes may take to come.
    fn patience(&self, elapsed: Duration, received: usize) -> Duration {
        let due = self.grace + Duration::from_secs(received as u64 / self.bytes_per_second_min.max(1));
        self.stall_max.min(due.saturating_sub(elapsed))
    }
}

/// What the body may take of memory: a sender that does not say how long it is may send as much as any.
pub(super) fn announced_bytes(body: &impl Body) -> usize {
    body.size_hint().upper().map_or(BODY_BYTES_MAX, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX))
}

/// # Errors
/// The status to answer when it is too large, too slow, or does not arrive whole.
pub(super) async fn collect<B: Body<Data = Bytes> + Unpin>(mut body: B, pace: Pace) -> Result<Bytes, StatusCode> {
    let begun = Instant::now();
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let mut collected = BytesMut::with_capacity(announced.min(BODY_BYTES_MAX));
    loop {
        let patience = pace.patience(begun.elapsed(), collected.len());
        let frame = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context));
        match timeout(patience, frame).await.map_err(|_| StatusCode::REQUEST_TIMEOUT)? {
            None => return Ok(collected.freeze()),
            Some(Err(_)) => return Err(StatusCode::BAD_REQUEST),
            Some(Ok(frame)) => {
                let Ok(data) = frame.into_data() else { continue };
                if collected.len() + data.len() > BODY_BYTES_MAX {
                    return Err(StatusCode::PAYLOAD_TOO_LARGE);
                }
                collected.extend_from_slice(&data);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::task::{Context, Poll, ready};

    use hyper::body::Frame;
    use tokio::time::{Interval, interval};

    use super::*;

    /// Sends a piece at each tick.
    struct Ticking {
        ticks: Interval,
        piece: &'static [u8],
        left: usize,
    }

    impl Body for Ticking {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            if self.left == 0 {
                return Poll::Ready(None);
            }
            ready!(self.ticks.poll_tick(context));
            self.left -= 1;
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(self.piece)))))
        }
    }

    #[tokio::test]
    async fn bodies_that_trickle_are_ended() {
        let pace =
            Pace { stall_max: Duration::from_secs(2), grace: Duration::from_millis(500), bytes_per_second_min: 100 };
        let collected = |millis: u64, piece: &'static [u8], left: usize| {
            collect(Ticking { ticks: interval(Duration::from_millis(millis)), piece, left }, pace)
        };
        // A byte at a time never stalls, and would go on for twenty seconds.
        let begun = Instant::now();
        assert_eq!(collected(100, b"x", 200).await, Err(StatusCode::REQUEST_TIMEOUT));
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        // Slow, but of use: ten times the rate for a second and a half.
        assert_eq!(collected(100, &[7; 100], 15).await.map(|body| body.len()), Ok(1500));
        assert_eq!(collected(3600 * 1000, b"x", 2).await, Err(StatusCode::REQUEST_TIMEOUT), "a stall");
    }

    #[test]
    fn patience_ends_with_the_grace_and_grows_with_what_comes() {
        let check = |elapsed: u64, received: usize, expected: u64| {
            assert_eq!(PACE.patience(Duration::from_secs(elapsed), received), Duration::from_secs(expected));
        };
        check(0, 0, 30);
        check(40, 0, 20);
        check(61, 0, 0);
        check(61, 1 << 20, 30);
        // A pack of 16 MiB in eighteen hours.
        check(18 * 3600, 16 << 20, 30);
        check(19 * 3600, 16 << 20, 0);
    }
}
