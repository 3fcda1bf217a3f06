//! The body of an answer. It takes no more memory than its share, until the last byte has gone out.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::question::Question;
use super::shares::Share;

/// Bytes that wait to be sent.
struct Held {
    bytes: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The share is kept for as long as the bytes are anywhere. That is longer than the body itself is: it is let go when
/// its last bytes are in the connection's buffer, where a client that reads nothing keeps them.
pub(super) fn held(bytes: Bytes, share: Share) -> Bytes {
    Bytes::from_owner(Held { bytes, _share: share })
}

/// Bytes that are there, and more that are asked for once those have gone out.
pub(super) struct AnswerBody {
    ready: Option<Bytes>,
    rest: Option<Rest>,
}

type Asking = Pin<Box<dyn Future<Output = io::Result<Bytes>> + Send>>;

/// What is left of a file.
struct Rest {
    question: Arc<Question>,
    next: u64,
    end: u64,
    asking: Option<Asking>,
}

impl AnswerBody {
    /// A body that is there as a whole.
    pub(super) fn whole(bytes: Bytes) -> Self {
        Self { ready: Some(bytes).filter(|bytes| !bytes.is_empty()), rest: None }
    }

    /// The beginning of a part of a file, and from where to where it goes on.
    pub(super) fn pieces(beginning: Bytes, question: Arc<Question>, next: u64, end: u64) -> Self {
        let rest = (next < end).then_some(Rest { question, next, end, asking: None });
        Self { rest, ..Self::whole(beginning) }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    /// Polled when there is room for more alone, which is what keeps the pieces few.
    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if let Some(bytes) = this.ready.take() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        let Some(Rest { question, next, end, asking }) = &mut this.rest else { return Poll::Ready(None) };
        let asked = asking.get_or_insert_with(|| -> Asking { Box::pin(question.clone().piece(*next, *end)) });
        let piece = ready!(asked.as_mut().poll(context));
        *asking = None;
        if let Ok(piece) = &piece {
            *next += piece.len() as u64;
        }
        if piece.is_err() || *next >= *end {
            this.rest = None;
        }
        Poll::Ready(Some(piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.ready.is_none() && self.rest.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let ready = self.ready.as_ref().map_or(0, |bytes| bytes.len() as u64);
        SizeHint::with_exact(ready + self.rest.as_ref().map_or(0, |rest| rest.end - rest.next))
    }
}
