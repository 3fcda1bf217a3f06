//! One request, which is answered at once or, where it asks for a large file, in pieces.
//!
//! A file is asked of whoever answers in ranges, each when the one before has gone out: a client that takes nothing
//! keeps a piece in memory, and not the file. The names are those of the restic REST protocol.

use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderValue, RANGE};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use tokio::task::spawn_blocking;

use super::answer::{AnswerBody, held};
use super::range::{Wanted, first_and_size};
use super::shares::{Share, Shares};
use super::upload::{PACE, announced_bytes, collect};
use super::{BODY_BYTES_MAX, failed_inside, text};

/// What is read of a file at once: more than hyper and the kernel send between two of them on a fast link.
const PIECE_BYTES: u64 = 1 << 20;
/// The smallest upload counts for this much.
const UPLOAD_BYTES_MIN: usize = 64 << 10;
/// Uploads are held whole, because the hash comes before the disk. One peer may have three of the largest on their way,
/// or thirty-two packs of the usual size; four peers together take all.
const UPLOADS_BYTES_MAX: u32 = 2 << 30;
const UPLOADS_BYTES_OF_EACH: u32 = 512 << 20;
/// Pieces of files that wait to be sent. A restore has eight connections, with a piece or two on each.
const PIECES_BYTES_MAX: u32 = 256 << 20;
const PIECES_BYTES_OF_EACH: u32 = 32 << 20;
/// Listings are whole: 90 MB in a repository of a million files.
const LISTINGS_MAX: u32 = 16;
const LISTINGS_OF_EACH: u32 = 4;
/// Requests that use the disk. No client can make these wait for it.
const WORKING_MAX: u32 = 16;
const WORKING_OF_EACH: u32 = 8;

/// Answers on a thread that may block.
pub(super) type Handle = Arc<dyn Fn(Request<Bytes>) -> Response<Bytes> + Send + Sync>;

/// The bounds of one listener.
pub(super) struct Bounds {
    uploads: Shares,
    pieces: Shares,
    listings: Shares,
    working: Shares,
}

impl Bounds {
    pub(super) fn new() -> Self {
        Self {
            uploads: Shares::new(UPLOADS_BYTES_MAX, UPLOADS_BYTES_OF_EACH),
            pieces: Shares::new(PIECES_BYTES_MAX, PIECES_BYTES_OF_EACH),
            listings: Shares::new(LISTINGS_MAX, LISTINGS_OF_EACH),
            working: Shares::new(WORKING_MAX, WORKING_OF_EACH),
        }
    }
}

/// A request without its body, as often as it has to be asked.
pub(super) struct Question {
    bounds: Arc<Bounds>,
    /// Whose shares it takes.
    whose: String,
    head: Parts,
    handle: Handle,
}

/// Takes the body, and answers.
pub(super) async fn answer(
    bounds: &Arc<Bounds>,
    whose: String,
    request: Request<Incoming>,
    handle: Handle,
) -> Response<AnswerBody> {
    let (head, body) = request.into_parts();
    let question = Arc::new(Question { bounds: bounds.clone(), whose, head, handle });
    let answered = if question.head.method == Method::GET {
        // No body makes anything else of these.
        match question.is_for_file() {
            true => question.file().await,
            false => question.listing().await,
        }
    } else {
        question.with(body).await
    };
    answered.unwrap_or_else(failed_inside)
}

impl Question {
    fn is_for_file(&self) -> bool {
        let name = self.head.uri.path().rsplit('/').next().unwrap_or_default();
        name == "config" || (name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()))
    }

    /// Asks, and gives back what was held meanwhile. It is held to the end of the work, whoever has stopped waiting for
    /// that. `None` when the work has panicked.
    async fn ask<T: Send + 'static>(&self, head: Parts, body: Bytes, held: T) -> Option<(Response<Bytes>, T)> {
        let working = self.bounds.working.take(&self.whose, 1).await?;
        let handle = self.handle.clone();
        let work = move || {
            let answer = handle(Request::from_parts(head, body));
            drop(working);
            (answer, held)
        };
        spawn_blocking(work).await.ok()
    }

    /// What this answers is short: the status, and some words.
    async fn with(&self, body: Incoming) -> Option<Response<AnswerBody>> {
        let refused =
            |status| Some(text(status, "the request's body was too large, too slow or did not arrive whole\n"));
        let (body, share) = if body.is_end_stream() {
            (Bytes::new(), None)
        } else {
            let bytes = announced_bytes(&body).max(UPLOAD_BYTES_MIN);
            if bytes > BODY_BYTES_MAX {
                return refused(StatusCode::PAYLOAD_TOO_LARGE);
            }
            let share = self.bounds.uploads.take(&self.whose, bytes as u32).await?;
            match collect(body, PACE).await {
                Ok(body) => (body, Some(share)),
                Err(status) => return refused(status),
            }
        };
        let (answer, _) = self.ask(self.head.clone(), body, share).await?;
        Some(answer.map(AnswerBody::whole))
    }

    async fn listing(&self) -> Option<Response<AnswerBody>> {
        let share = self.bounds.listings.take(&self.whose, 1).await?;
        let (answer, share) = self.ask(self.head.clone(), Bytes::new(), share).await?;
        Some(answer.map(|bytes| AnswerBody::whole(held(bytes, share))))
    }

    async fn file(self: Arc<Self>) -> Option<Response<AnswerBody>> {
        let header = self.head.headers.get(RANGE).and_then(|value| value.to_str().ok());
        let wanted = header.and_then(Wanted::parse);
        let bytes = match wanted {
            Some(Wanted::From { first, last }) => Some(first..=last.unwrap_or(u64::MAX)),
            Some(Wanted::Last(length)) if length <= PIECE_BYTES => None,
            // A large one: what is asked for depends on how large.
            Some(Wanted::Last(length)) => self.size_bytes().await?.map(|size| size.saturating_sub(length)..=u64::MAX),
            None => self.size_bytes().await?.map(|_| 0..=u64::MAX),
        };
        match bytes.filter(|bytes| bytes.end() - bytes.start() >= PIECE_BYTES) {
            Some(bytes) => self.in_pieces(bytes, wanted.is_some()).await,
            None => {
                let share = self.bounds.pieces.take(&self.whose, PIECE_BYTES as u32).await?;
                let (answer, share) = self.ask(self.head.clone(), Bytes::new(), share).await?;
                Some(answer.map(|bytes| AnswerBody::whole(held(bytes, share))))
            }
        }
    }

    /// The size of a file that does not fit into a piece.
    async fn size_bytes(&self) -> Option<Option<u64>> {
        let mut head = self.head.clone();
        head.method = Method::HEAD;
        head.headers.remove(RANGE);
        let (answer, ()) = self.ask(head, Bytes::new(), ()).await?;
        let length = answer.headers().get(CONTENT_LENGTH).filter(|_| answer.status() == StatusCode::OK);
        let size = length.and_then(|length| length.to_str().ok()?.parse().ok());
        Some(size.filter(|size: &u64| *size > PIECE_BYTES))
    }

    /// Answers with a part of a file, or with the whole.
    async fn in_pieces(self: Arc<Self>, bytes: RangeInclusive<u64>, is_ranged: bool) -> Option<Response<AnswerBody>> {
        let (first, last) = bytes.into_inner();
        let (mut answer, share) = self.range(first, PIECE_BYTES).await?;
        if answer.status() != StatusCode::PARTIAL_CONTENT {
            return Some(answer.map(|bytes| AnswerBody::whole(held(bytes, share))));
        }
        let told = answer.headers().get(CONTENT_RANGE).and_then(|value| first_and_size(value.to_str().ok()?));
        let (_, size) = told.filter(|(told, _)| *told == first)?;
        let end = last.min(size - 1) + 1;
        let next = first.saturating_add(answer.body().len() as u64);
        if next != end.min(first.saturating_add(PIECE_BYTES)) {
            return None;
        }
        answer.headers_mut().remove(CONTENT_LENGTH);
        if is_ranged {
            let range = HeaderValue::from_str(&format!("bytes {first}-{}/{size}", end - 1)).ok()?;
            answer.headers_mut().insert(CONTENT_RANGE, range);
        } else {
            answer.headers_mut().remove(CONTENT_RANGE);
            *answer.status_mut() = StatusCode::OK;
        }
        Some(answer.map(|bytes| AnswerBody::pieces(held(bytes, share), self, next, end)))
    }

    /// The next piece of a part of a file that ends before `end`.
    ///
    /// # Errors
    /// When it cannot be read any more: the file has gone, or this peer may not have it now. The connection ends then,
    /// before the length that was announced.
    pub(super) async fn piece(self: Arc<Self>, first: u64, end: u64) -> io::Result<Bytes> {
        let length = (end - first).min(PIECE_BYTES);
        match self.range(first, length).await {
            Some((answer, share))
                if answer.status() == StatusCode::PARTIAL_CONTENT && answer.body().len() as u64 == length =>
            {
                Ok(held(answer.into_body(), share))
            }
            _ => Err(io::Error::other("the rest of the file could not be read")),
        }
    }

    async fn range(&self, first: u64, length: u64) -> Option<(Response<Bytes>, Share)> {
        let share = self.bounds.pieces.take(&self.whose, length as u32).await?;
        let mut head = self.head.clone();
        let range = format!("bytes={first}-{}", first.saturating_add(length - 1));
        head.headers.insert(RANGE, HeaderValue::from_str(&range).ok()?);
        self.ask(head, Bytes::new(), share).await
    }
}
