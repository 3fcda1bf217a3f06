//! A stream on which writing fails when the other side takes nothing for too long: neither hyper nor TLS has a time for
//! that.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// Lies below TLS, where a byte that is taken is one that the kernel has.
pub(super) struct Patient<T> {
    inner: T,
    stall_max: Duration,
    /// Runs while something waits to be written.
    timer: Pin<Box<Sleep>>,
    is_waiting: bool,
}

impl<T> Patient<T> {
    pub(super) fn new(inner: T, stall_max: Duration) -> Self {
        Self { inner, stall_max, timer: Box::pin(sleep(stall_max)), is_waiting: false }
    }

    fn bounded(&mut self, context: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.is_waiting = false;
            return written;
        }
        if !self.is_waiting {
            self.is_waiting = true;
            self.timer.as_mut().reset(Instant::now() + self.stall_max);
        }
        ready!(self.timer.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(ErrorKind::TimedOut, "the other side takes nothing of what is sent")))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Patient<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Patient<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.bounded(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.bounded(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const STALL_MAX: Duration = Duration::from_millis(500);

    #[tokio::test]
    async fn who_takes_nothing_is_given_up() {
        let (ours, mut theirs) = duplex(4);
        let mut stream = Patient::new(ours, STALL_MAX);
        stream.write_all(b"1234").await.unwrap();
        // The time runs only while something waits.
        sleep(2 * STALL_MAX).await;
        theirs.read_exact(&mut [0; 4]).await.unwrap();
        stream.write_all(b"1234").await.unwrap();
        let failed = stream.write_all(b"5").await.unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn who_takes_a_little_is_waited_for() {
        let (ours, mut theirs) = duplex(4);
        let mut stream = Patient::new(ours, STALL_MAX);
        let reading = tokio::spawn(async move {
            for _ in 0..20 {
                sleep(STALL_MAX / 10).await;
                theirs.read_u8().await.unwrap();
            }
        });
        stream.write_all(&[7; 20]).await.unwrap();
        reading.await.unwrap();
    }
}
