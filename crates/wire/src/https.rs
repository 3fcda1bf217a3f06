//! HTTPS for repositories: plain requests, from agents that show their certificates or from clients that a
//! server of its own admits.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Incoming};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::credentials::{ClientCertificate, Credentials, Protocol};
use crate::error::Result;
use crate::identity::PeerIdentity;
use crate::listen;

/// The largest body of a request: restic's largest pack (128 MiB), a last blob that goes over, and its header.
pub const BODY_BYTES_MAX: usize = 152 << 20;
/// A sender whose link was cut in the middle of a body does not keep its place for longer.
const STALL_MAX: Duration = Duration::from_secs(30);
/// Requests that are held in memory at once, with their bodies.
const REQUESTS_MAX: usize = 16;

/// Answers one request. Called on a thread that may block.
pub trait Repositories: Send + Sync + 'static {
    fn handle(&self, peer: &PeerIdentity, request: Request<Bytes>) -> Response<Bytes>;
}

/// Serves repositories until `shutdown`; then open connections are cut.
pub async fn serve(
    listener: TcpListener,
    credentials: Credentials,
    repositories: Arc<dyn Repositories>,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let tls = credentials.server_config(ClientCertificate::Required, Protocol::Http1)?;
    let service = Service { credentials, repositories, places: Arc::new(Semaphore::new(REQUESTS_MAX)) };
    let service = tower::service_fn(move |request| {
        let service = service.clone();
        async move { Ok::<_, Infallible>(service.answer(request).await) }
    });
    listen::serve(listener, tls, Protocol::Http1, service, shutdown).await;
    Ok(())
}

/// Who may ask, and what they are answered, where no certificate says who asks.
pub trait Guarded: Send + Sync + 'static {
    /// Called before the body is taken, on a thread that may block. Answers whoever may not ask.
    fn refusal(&self, head: &Parts) -> Option<Response<Bytes>>;

    /// Answers one request that was admitted. Called on a thread that may block.
    fn handle(&self, request: Request<Bytes>) -> Response<Bytes>;
}

/// Serves requests until `shutdown`; then open connections are cut.
pub async fn serve_guarded(
    listener: TcpListener,
    tls: rustls::ServerConfig,
    guarded: Arc<dyn Guarded>,
    shutdown: impl Future<Output = ()>,
) {
    let places = Arc::new(Semaphore::new(REQUESTS_MAX));
    let service = tower::service_fn(move |request: Request<Incoming>| {
        let (guarded, places) = (guarded.clone(), places.clone());
        async move { Ok::<_, Infallible>(answer_guarded(guarded, places, request).await) }
    });
    listen::serve(listener, tls, Protocol::Http1, service, shutdown).await;
}

async fn answer_guarded(
    guarded: Arc<dyn Guarded>,
    places: Arc<Semaphore>,
    request: Request<Incoming>,
) -> Response<WholeBody> {
    let (head, body) = request.into_parts();
    let asked = guarded.clone();
    let Ok((head, refusal)) = spawn_blocking(move || {
        let refusal = asked.refusal(&head);
        (head, refusal)
    })
    .await
    else {
        return failed_inside();
    };
    if let Some(refusal) = refusal {
        return refusal.map(WholeBody::new);
    }
    with_body(&places, body, move |body| guarded.handle(Request::from_parts(head, body))).await
}

#[derive(Clone)]
struct Service {
    credentials: Credentials,
    repositories: Arc<dyn Repositories>,
    places: Arc<Semaphore>,
}

impl Service {
    async fn answer(&self, request: Request<Incoming>) -> Response<WholeBody> {
        let Some(listen::Sender(Some(peer))) = request.extensions().get::<listen::Sender>().cloned() else {
            return text(StatusCode::UNAUTHORIZED, "this needs an agent's certificate\n");
        };
        if self.credentials.revocations().contains(&peer) {
            return text(StatusCode::FORBIDDEN, "this certificate has been revoked\n");
        }
        let (head, body) = request.into_parts();
        let repositories = self.repositories.clone();
        with_body(&self.places, body, move |body| repositories.handle(&peer, Request::from_parts(head, body))).await
    }
}

/// Takes the body, and hands it to `handle` on a thread that may block.
async fn with_body(
    places: &Arc<Semaphore>,
    body: Incoming,
    handle: impl FnOnce(Bytes) -> Response<Bytes> + Send + 'static,
) -> Response<WholeBody> {
    // The semaphore is never closed.
    let Ok(_place) = places.clone().acquire_owned().await else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "shutting down\n");
    };
    let body = match collect(body).await {
        Ok(body) => body,
        Err(status) => return text(status, "the request's body was too large or did not arrive whole\n"),
    };
    match spawn_blocking(move || handle(body)).await {
        Ok(response) => response.map(WholeBody::new),
        Err(_) => failed_inside(),
    }
}

fn failed_inside() -> Response<WholeBody> {
    text(StatusCode::INTERNAL_SERVER_ERROR, "the request failed inside; the server's log says more\n")
}

async fn collect(mut body: Incoming) -> Result<Bytes, StatusCode> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > BODY_BYTES_MAX {
        return Err(StatusCode::PAYLOAD_TOO_LARGE);
    }
    let mut collected = BytesMut::with_capacity(announced);
    loop {
        let frame = std::future::poll_fn(|context| std::pin::Pin::new(&mut body).poll_frame(context));
        match timeout(STALL_MAX, frame).await.map_err(|_| StatusCode::REQUEST_TIMEOUT)? {
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

fn text(status: StatusCode, message: &'static str) -> Response<WholeBody> {
    let mut response = Response::new(WholeBody::new(Bytes::from_static(message.as_bytes())));
    *response.status_mut() = status;
    response
}

/// A body that is there as a whole.
struct WholeBody(Option<Bytes>);

impl WholeBody {
    fn new(bytes: Bytes) -> WholeBody {
        WholeBody(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }
}

impl Body for WholeBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
        std::task::Poll::Ready(self.0.take().map(|bytes| Ok(hyper::body::Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        hyper::body::SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}
