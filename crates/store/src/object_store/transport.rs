//! The HTTP below all services: Levee's own TLS, bounds and limits instead of opendal's defaults.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use opendal::{Buffer, ErrorKind, HttpBody, HttpTransport, HttpTransporter};
use reqwest::header::{CONTENT_LENGTH, HeaderValue};
use reqwest::{Body, Client, StatusCode, Url};

use crate::extent;
use crate::limit::{Bandwidth, PIECE_BYTES, Throttle};
use crate::link::{CONNECT_TIMEOUT, FILE_BYTES_MAX, IDLE_CONNECTIONS_MAX, SILENCE_MAX, time_for};
use crate::{Error, Result, trust};

/// What an error says whose answer had status 401; `failure` knows it by this.
pub(super) const UNAUTHORIZED: &str = "status 401";
/// The same for status 507.
pub(super) const FULL: &str = "the service has no space left";
/// Services redirect to the region of a bucket; more than a few is a loop.
const REDIRECTS_MAX: usize = 3;

/// How a service is spoken to.
#[derive(Clone, Default)]
pub struct TransportOptions {
    /// Who is trusted, and which certificate is shown. Without it the machine's own roots are.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    pub bandwidth: Bandwidth,
}

impl fmt::Debug for TransportOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TransportOptions").field("bandwidth", &self.bandwidth).finish_non_exhaustive()
    }
}

pub(super) struct Transport {
    client: Client,
    bandwidth: Bandwidth,
}

impl From<Transport> for HttpTransporter {
    fn from(transport: Transport) -> Self {
        HttpTransporter::new(transport)
    }
}

impl Transport {
    pub(super) fn new(options: TransportOptions, location: &str) -> Result<Self> {
        let tls = match options.tls {
            Some(tls) => tls,
            None if location.contains("http://") => trust::nobody(location)?,
            None => trust::machine_roots(location)?,
        };
        let mut tls = rustls::ClientConfig::clone(&tls);
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let client = Client::builder()
            .use_preconfigured_tls(tls)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::limited(REDIRECTS_MAX))
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .tcp_keepalive(SILENCE_MAX / 2)
            .tcp_user_timeout(SILENCE_MAX)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .user_agent(concat!("levee/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Error::Unauthorized { location: location.into(), reason: error.to_string() })?;
        Ok(Self { client, bandwidth: options.bandwidth })
    }

    fn request(&self, request: http::Request<Buffer>) -> opendal::Result<reqwest::Request> {
        let (mut parts, body) = request.into_parts();
        let invalid = |_| opendal::Error::new(ErrorKind::ConfigInvalid, "the service's address is no URL");
        let url = Url::parse(&parts.uri.to_string()).map_err(invalid)?;
        // opendal's WebDAV lets a move replace what stands at its end. Nothing here may.
        if parts.method.as_str() == "MOVE" {
            parts.headers.insert("overwrite", HeaderValue::from_static("F"));
        }
        let length = body.len() as u64;
        let time_max = match parts.method.as_str() {
            "GET" => time_for(FILE_BYTES_MAX),
            _ => time_for(length),
        };
        let mut sent = reqwest::Request::new(parts.method, url);
        *sent.headers_mut() = parts.headers;
        *sent.timeout_mut() = Some(time_max);
        if matches!(sent.method().as_str(), "PUT" | "POST") {
            // Said also of an empty file: S3 refuses an upload that doesn't say it.
            sent.headers_mut().insert(CONTENT_LENGTH, length.into());
        }
        match self.bandwidth.upload() {
            Some(throttle) if length > 0 => {
                *sent.body_mut() = Some(limited(body.to_bytes(), throttle.clone()));
            }
            _ => *sent.body_mut() = Some(Body::from(body.to_bytes())),
        }
        Ok(sent)
    }
}

/// A body that leaves in pieces, no faster than it may.
fn limited(content: Bytes, throttle: Throttle) -> Body {
    Body::wrap_stream(stream::unfold((content, throttle), |(mut rest, throttle)| async move {
        if rest.is_empty() {
            return None;
        }
        let piece = rest.split_to(rest.len().min(PIECE_BYTES));
        throttle.wait_async(piece.len()).await;
        Some((Ok::<_, std::io::Error>(piece), (rest, throttle)))
    }))
}

/// The connection broke, or could not be made; trying again may help.
fn broken(error: reqwest::Error) -> opendal::Error {
    // The URL may hold a signature.
    opendal::Error::new(ErrorKind::Unexpected, "the connection failed").set_source(error.without_url()).set_temporary()
}

/// The answer is not what was asked for; the next one may be.
fn wrong_extent(reason: String) -> opendal::Error {
    opendal::Error::new(ErrorKind::Unexpected, reason).set_temporary()
}

fn too_long() -> opendal::Error {
    opendal::Error::new(ErrorKind::Unexpected, format!("the answer is longer than {FILE_BYTES_MAX} bytes"))
}

impl HttpTransport for Transport {
    async fn fetch(&self, request: http::Request<Buffer>) -> opendal::Result<http::Response<HttpBody>> {
        // Uploads and removals are answered with nothing that could be short.
        let is_read = matches!(request.method().as_str(), "GET" | "PROPFIND");
        let is_head = request.method() == http::Method::HEAD;
        let asked = extent::asked(request.headers());
        let response = self.client.execute(self.request(request)?).await.map_err(broken)?;
        match response.status() {
            StatusCode::UNAUTHORIZED => return Err(opendal::Error::new(ErrorKind::PermissionDenied, UNAUTHORIZED)),
            // WebDAV servers say it in words of their own, which nobody could tell from a refusal.
            StatusCode::RANGE_NOT_SATISFIABLE => {
                return Err(opendal::Error::new(ErrorKind::RangeNotSatisfied, "there are no such bytes"));
            }
            StatusCode::INSUFFICIENT_STORAGE => return Err(opendal::Error::new(ErrorKind::Unexpected, FULL)),
            _ => {}
        }
        if is_read && response.status().is_success() {
            extent::check(asked.as_ref(), response.status(), response.headers()).map_err(wrong_extent)?;
        }
        let mut answer = http::Response::builder().status(response.status());
        if let Some(headers) = answer.headers_mut() {
            *headers = response.headers().clone();
        }
        let expected = if is_head { None } else { response.content_length() };
        if expected.is_some_and(|expected| expected > FILE_BYTES_MAX) {
            return Err(too_long());
        }
        let throttle = self.bandwidth.download().cloned();
        let pieces = response.bytes_stream().map_err(broken).scan(0u64, |taken, piece| {
            let piece = piece.and_then(|piece| {
                *taken += piece.len() as u64;
                if *taken > FILE_BYTES_MAX { Err(too_long()) } else { Ok(Buffer::from(piece)) }
            });
            std::future::ready(Some(piece))
        });
        let body = match throttle {
            None => HttpBody::new(Box::pin(pieces), expected),
            Some(throttle) => {
                let slowed = pieces.then(move |piece| {
                    let throttle = throttle.clone();
                    async move {
                        if let Ok(piece) = &piece {
                            throttle.wait_async(piece.len()).await;
                        }
                        piece
                    }
                });
                HttpBody::new(Box::pin(slowed), expected)
            }
        };
        answer.body(body).map_err(|_| opendal::Error::new(ErrorKind::Unexpected, "the answer's headers are not valid"))
    }
}
