//! Dialling a listener of Levee's.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use crate::error::{Error, Result};
use crate::explain::{self, Dialled};
use crate::identity::SERVER_NAME;
use crate::listen::{FRAME_BYTES_MAX, HANDSHAKE_TIMEOUT, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, WINDOW_BYTES};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens one connection. When it ends, calls fail and the caller dials again: nothing reconnects behind its back.
pub(crate) async fn connect(dialled: &Dialled, config: ClientConfig) -> Result<Channel> {
    let stream = secure(dialled, config).await?;
    let failed = |error: tonic::transport::Error| Error::Handshake {
        peer: dialled.peer.clone(),
        source: io::Error::other(error),
    };
    // Taken by the first and only use of the connector.
    let only = Mutex::new(Some(stream));
    let connector = tower::service_fn(move |_| {
        let stream = only.lock().ok().and_then(|mut only| only.take());
        async move { stream.map(TokioIo::new).ok_or_else(|| io::Error::other("the connection has ended")) }
    });
    // The stream is encrypted already; tonic takes an https address only with TLS of its own.
    Endpoint::from_static("http://levee.internal")
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
        .map_err(failed)
}

async fn secure(dialled: &Dialled, config: ClientConfig) -> Result<BufReader<TlsStream<TcpStream>>> {
    let timed_out = |limit: Duration| Error::TimedOut {
        peer: dialled.peer.clone(),
        address: dialled.address.clone(),
        seconds: limit.as_secs(),
    };
    let unreachable =
        |source| Error::Unreachable { peer: dialled.peer.clone(), address: dialled.address.clone(), source };
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(&dialled.address))
        .await
        .map_err(|_| timed_out(CONNECT_TIMEOUT))?
        .map_err(unreachable)?;
    stream.set_nodelay(true).map_err(unreachable)?;
    // The verifier judges by the certificate's own name; this one only fills the field.
    let name = ServerName::try_from(SERVER_NAME)
        .map_err(|error| Error::Malformed { what: "the server's name".into(), why: error.to_string() })?;
    let handshake = async {
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let mut stream = BufReader::new(stream);
        // In TLS 1.3 the other side judges our certificate after our half of the handshake. It sends its first
        // HTTP/2 frame or the reason of its refusal at once, and only here the reason can be told.
        match stream.fill_buf().await?.is_empty() {
            true => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other side closed the connection")),
            false => Ok(stream),
        }
    };
    timeout(HANDSHAKE_TIMEOUT, handshake)
        .await
        .map_err(|_| timed_out(HANDSHAKE_TIMEOUT))?
        .map_err(|error| explain::handshake(dialled, error))
}
