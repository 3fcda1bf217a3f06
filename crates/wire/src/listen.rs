//! Accepting TLS connections and serving requests on them, each with the identity of who sent it.

mod patient;

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tower::Service;
use tracing::{debug, warn};

use crate::credentials::Protocol;
use crate::explain;
use crate::identity::{CertificateFacts, PeerIdentity, Subject};
use patient::Patient;

/// A log stream over a long line needs this much under way: 16 MiB in 30 ms are 500 MB/s.
pub(crate) const WINDOW_BYTES: u32 = 16 << 20;
/// One piece of log in few frames.
pub(crate) const FRAME_BYTES_MAX: u32 = 1 << 20;
/// A dead link is found within these two together.
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Somebody who connects and says nothing does not keep a place for longer.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Somebody who takes nothing of an answer does not keep what waits to be sent for longer. Of a large buffer the kernel
/// wakes its writer only when a third is free, which at 12 KB/s takes as long.
const WRITE_STALL_MAX: Duration = Duration::from_secs(120);
/// Far above the agents of one Levee; bounds what strangers can hold open.
const CONNECTIONS_MAX: usize = 4096;
/// Where each connection has a thread: far above the databases and peers of one agent.
const THREADS_MAX: usize = 512;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Who sent a request; none where the listener does not ask for a certificate.
#[derive(Clone, Debug)]
pub(crate) struct Sender(pub Option<PeerIdentity>);

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin(pub Option<IpAddr>);

/// Keeps the thread of its connection going, also when the connection has ended.
#[derive(Clone, Debug)]
pub(crate) struct Held(#[expect(dead_code, reason = "it is there to be dropped")] mpsc::Sender<()>);

/// Serves until `shutdown`; connections that are open then are cut.
pub(crate) async fn serve<S, B>(
    listener: TcpListener,
    tls: ServerConfig,
    protocol: Protocol,
    service: S,
    shutdown: impl Future<Output = ()>,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => return,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &places) => accepted,
        };
        if let Some((stream, place)) = accepted {
            connections.spawn(connection(acceptor.clone(), stream, protocol, service.clone(), place, |_| {}));
        }
    }
}

/// As `serve`, over HTTP/2, with a thread and a runtime of its own for each connection.
///
/// A commit that waits for another site passes through here twice. On a shared runtime each time wakes several threads;
/// here one thread reads, does the work, even where that blocks, and answers. For listeners that few others dial.
pub(crate) async fn serve_on_threads<S, B>(
    listener: TcpListener,
    tls: ServerConfig,
    service: S,
    shutdown: impl Future<Output = ()>,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let places = Arc::new(Semaphore::new(THREADS_MAX));
    // Dropped with this future, which cuts every connection.
    let (_goes_on, cut) = watch::channel(());
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => return,
            accepted = accept(&listener, &places) => accepted,
        };
        let Some((stream, place)) = accepted else { continue };
        let (acceptor, service, mut cut) = (acceptor.clone(), service.clone(), cut.clone());
        let serve = move || -> io::Result<()> {
            let stream = stream.into_std()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async move {
                let stream = TcpStream::from_std(stream)?;
                let (held, mut all_let_go) = mpsc::channel(1);
                let holds = move |request: &mut Request<Incoming>| {
                    request.extensions_mut().insert(Held(held.clone()));
                };
                tokio::select! {
                    () = connection(acceptor, stream, Protocol::Http2, service, place, holds) => {}
                    _ = cut.changed() => {}
                }
                // What a call has begun it brings to its end.
                all_let_go.recv().await;
                Ok(())
            })
        };
        let spawned = std::thread::Builder::new().name("connection".into()).spawn(|| {
            if let Err(error) = serve() {
                warn!(%error, "a connection could not be served");
            }
        });
        if let Err(error) = spawned {
            warn!(%error, "a connection could not be served");
        }
    }
}

async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    // The semaphore is never closed.
    let place = places.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, place)),
        Err(error) => {
            warn!(%error, "a connection could not be accepted; trying again");
            // Most often there are no file descriptors left, which will not change at once.
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

async fn connection<S, B>(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    protocol: Protocol,
    service: S,
    place: OwnedSemaphorePermit,
    prepare: impl Fn(&mut Request<Incoming>) + Send + Clone + 'static,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let address = stream.peer_addr().ok();
    let from = address.map(|address| address.to_string()).unwrap_or_default();
    let origin = Origin(address.map(|address| address.ip()));
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%from, %error, "TCP_NODELAY could not be set");
    }
    let stream = Patient::new(stream, WRITE_STALL_MAX);
    let stream = match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return warn!(%from, error = explain::chain(&error), "refused a connection"),
        Err(_) => return debug!(%from, "somebody connected and did not finish the handshake"),
    };
    let sender = Sender(peer_of(&stream));
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(sender.clone());
        request.extensions_mut().insert(origin);
        prepare(&mut request);
        let mut service = service.clone();
        async move {
            std::future::poll_fn(|context| service.poll_ready(context)).await?;
            service.call(request).await
        }
    });
    let stream = TokioIo::new(stream);
    let ended = match protocol {
        Protocol::Http2 => {
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .initial_stream_window_size(WINDOW_BYTES)
                .initial_connection_window_size(WINDOW_BYTES)
                .max_frame_size(FRAME_BYTES_MAX)
                .keep_alive_interval(KEEPALIVE_INTERVAL)
                .keep_alive_timeout(KEEPALIVE_TIMEOUT)
                .serve_connection(stream, service)
                .await
        }
        Protocol::Http1 => {
            hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(60))
                .serve_connection(stream, service)
                .await
        }
    };
    if let Err(error) = ended {
        debug!(%from, error = explain::chain(&error), "a connection ended");
    }
    drop(place);
}

fn peer_of(stream: &TlsStream<Patient<TcpStream>>) -> Option<PeerIdentity> {
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    // The handshake has already read it once, and refused what does not read.
    match CertificateFacts::read(certificate).ok()?.subject {
        Subject::Agent(peer) => Some(peer),
        Subject::Server { .. } => None,
    }
}
