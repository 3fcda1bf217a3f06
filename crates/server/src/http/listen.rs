use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use levee_wire::{ClientCertificate, Credentials, Protocol};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::error::Result;

/// Connections that are open at once; more wait in the system's queue.
const CONNECTIONS_MAX: usize = 256;
/// How long a client may take to agree on TLS, and then to send the head of a request.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
/// How long open calls may take to end when the server stops. Calls that wait for a change are cut.
const ENDING_TIME_MAX: Duration = Duration::from_secs(2);

/// Serves the API with the server's certificate until `shutdown`.
pub async fn serve(
    listener: TcpListener,
    credentials: &Credentials,
    router: Router,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let tls = credentials.server_config(ClientCertificate::Optional, Protocol::Http1)?;
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let ending = GracefulShutdown::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection to the API could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (acceptor, router, watcher) = (acceptor.clone(), router.clone(), ending.watcher());
        tokio::spawn(async move {
            let _place = place;
            let Some(stream) = agree(&acceptor, stream).await else { return };
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME_MAX);
            let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
            if let Err(error) = watcher.watch(connection).await {
                tracing::debug!(%error, "a connection to the API ended");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(ENDING_TIME_MAX, ending.shutdown()).await.is_err() {
        tracing::debug!("calls that were still open were cut");
    }
    Ok(())
}

async fn agree(acceptor: &TlsAcceptor, stream: TcpStream) -> Option<tokio_rustls::server::TlsStream<TcpStream>> {
    // Answers are small, and should not wait for one another.
    let _ = stream.set_nodelay(true);
    match tokio::time::timeout(HEAD_TIME_MAX, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a client of the API did not agree on TLS");
            None
        }
        Err(_) => None,
    }
}
