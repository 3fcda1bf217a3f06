//! The HTTP below all services: Levee's own TLS, bounds and limits instead of opendal's defaults.

use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use opendal::{Buffer, ErrorKind, HttpBody, HttpTransport, HttpTransporter};
use reqwest::header::{CONTENT_LENGTH, HeaderValue};
use reqwest::{Body, Client, StatusCode, Url};

use tokio::time::{Instant, timeout, timeout_at};

use super::oss_signing::OssSigning;
use crate::extent;
use crate::limit::{Bandwidth, Throttle};
use crate::link::{ANSWER_SILENCE_MAX, CONNECT_TIMEOUT, FILE_BYTES_MAX, IDLE_CONNECTIONS_MAX, SILENCE_MAX, time_for};
use crate::pause::Pause;
use crate::proxies::Hindrance;
use crate::{Error, Proxies, Result, trust};

/// What an error says whose answer had status 401; `failure` knows it by this.
pub(super) const UNAUTHORIZED: &str = "status 401";
/// The same for status 507.
pub(super) const FULL: &str = "the service has no space left";
/// What an error says whose answer had status 429.
pub(super) const TOO_MUCH: &str = "the service says that it gets too many requests (status 429)";
/// Services redirect to the region of a bucket; more than a few is a loop.
const REDIRECTS_MAX: usize = 3;

/// How a service is spoken to.
#[derive(Clone, Default)]
pub struct TransportOptions {
    /// Who is trusted, and which certificate is shown. Without it the machine's own roots are.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    pub proxies: Proxies,
    pub bandwidth: Bandwidth,
}

impl fmt::Debug for TransportOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TransportOptions").field("bandwidth", &self.bandwidth).finish_non_exhaustive()
    }
}

pub(super) struct Transport {
    client: Client,
    /// Where opendal doesn't sign.
    signing: Option<OssSigning>,
    proxies: Proxies,
    bandwidth: Bandwidth,
    pause: Pause,
    silence_max: Duration,
}

impl From<Transport> for HttpTransporter {
    fn from(transport: Transport) -> Self {
        HttpTransporter::new(transport)
    }
}

impl Transport {
    pub(super) fn new(options: TransportOptions, signing: Option<OssSigning>, location: &str) -> Result<Self> {
        let tls = match options.tls {
            Some(tls) => tls,
            None if location.contains("http://") => trust::nobody(location)?,
            None => trust::machine_roots(location)?,
        };
        let mut tls = rustls::ClientConfig::clone(&tls);
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut builder = Client::builder()
            .use_preconfigured_tls(tls)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::limited(REDIRECTS_MAX))
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .tcp_keepalive(SILENCE_MAX / 2)
            .tcp_user_timeout(SILENCE_MAX)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .user_agent(concat!("levee/", env!("CARGO_PKG_VERSION")));
        if let Some(proxy) = options.proxies.for_client() {
            builder = builder.proxy(proxy);
        }
        let client = builder
            .build()
            .map_err(|error| Error::Unauthorized { location: location.into(), reason: error.to_string() })?;
        Ok(Self {
            client,
            signing,
            proxies: options.proxies,
            bandwidth: options.bandwidth,
            pause: Pause::default(),
            silence_max: ANSWER_SILENCE_MAX,
        })
    }

    fn request(&self, request: http::Request<Buffer>, step: &LastStep) -> opendal::Result<reqwest::Request> {
        let (mut parts, body) = request.into_parts();
        let invalid = |_| opendal::Error::new(ErrorKind::ConfigInvalid, "the service's address is no URL");
        let url = Url::parse(&parts.uri.to_string()).map_err(invalid)?;
        // opendal's WebDAV lets a move replace what stands at its end. Nothing here may.
        if parts.method.as_str() == "MOVE" {
            parts.headers.insert("overwrite", HeaderValue::from_static("F"));
        }
        let length = body.len() as u64;
        let time_max = match parts.method.as_str() {
            "GET" | "PROPFIND" => time_for(FILE_BYTES_MAX) + self.bandwidth.download_time_for(FILE_BYTES_MAX),
            _ => time_for(length) + self.bandwidth.upload_time_for(length),
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
                *sent.body_mut() = Some(limited(body.to_bytes(), throttle.clone(), step.clone()));
            }
            _ => *sent.body_mut() = Some(Body::from(body.to_bytes())),
        }
        Ok(sent)
    }

    /// Asks; and once more where the connection breaks before the answer to what changes nothing. A service may close a
    /// connection while the next request is on its way: so does one that has refused an upload without having read it,
    /// and whoever then asks what stands there meets that end.
    async fn ask(&self, request: reqwest::Request) -> reqwest::Result<reqwest::Response> {
        let again = match request.method().as_str() {
            "GET" | "HEAD" | "PROPFIND" => request.try_clone(),
            _ => None,
        };
        match self.client.execute(request).await {
            Err(error) if is_cut_off(&error) => match again {
                Some(again) => self.client.execute(again).await,
                None => Err(error),
            },
            answered => answered,
        }
    }

    /// The connection broke, or there was none, which may be a proxy's doing.
    fn unanswered(&self, error: reqwest::Error) -> opendal::Error {
        match self.proxies.hindrance(&error) {
            None => broken(error),
            Some(Hindrance::Unauthorized(reason)) => opendal::Error::new(ErrorKind::ConfigInvalid, reason),
            Some(Hindrance::Refused(reason)) => opendal::Error::new(ErrorKind::Unexpected, reason).set_temporary(),
            Some(Hindrance::Broken(what)) => {
                let failed = opendal::Error::new(ErrorKind::Unexpected, what);
                failed.set_source(error.without_url()).set_temporary()
            }
        }
    }
}

/// A body that leaves in pieces, no faster than it may.
fn limited(content: Bytes, throttle: Throttle, step: LastStep) -> Body {
    Body::wrap_stream(stream::unfold((content, throttle, step), |(mut rest, throttle, step)| async move {
        if rest.is_empty() {
            return None;
        }
        let piece = rest.split_to(rest.len().min(throttle.piece_bytes()));
        throttle.wait_async(piece.len()).await;
        step.take();
        Some((Ok::<_, std::io::Error>(piece), (rest, throttle, step)))
    }))
}

/// When a request went on last: at its beginning, and with each piece of a slow upload.
#[derive(Clone)]
struct LastStep(Arc<Mutex<Instant>>);

impl LastStep {
    fn begin() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    fn at(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Waits for an answer until nothing has gone on for so long; then there is none.
    async fn or_silence<T>(&self, silence_max: Duration, answer: impl Future<Output = T>) -> Option<T> {
        let mut answer = pin!(answer);
        loop {
            let until = self.at() + silence_max;
            match timeout_at(until, &mut answer).await {
                Ok(answer) => return Some(answer),
                Err(_) if self.at() + silence_max <= until => return None,
                Err(_) => {}
            }
        }
    }
}

/// The connection stood, and broke before the answer began.
fn is_cut_off(error: &reqwest::Error) -> bool {
    error.is_request() && !error.is_connect() && !error.is_timeout()
}

/// The connection broke, or could not be made; trying again may help.
fn broken(error: reqwest::Error) -> opendal::Error {
    // The URL may hold a signature.
    opendal::Error::new(ErrorKind::Unexpected, "the connection failed").set_source(error.without_url()).set_temporary()
}

/// The peer holds the connection and says nothing.
fn silent(silence_max: Duration) -> opendal::Error {
    let reason = format!("it has said nothing for {} s", silence_max.as_secs());
    opendal::Error::new(ErrorKind::Unexpected, reason).set_temporary()
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
        // A whole upload has its own time, by its length; one that is slowed down has none that would be short.
        let is_whole_upload = !request.body().is_empty() && self.bandwidth.upload().is_none();
        let asked = extent::asked(request.headers());
        let request = match &self.signing {
            Some(signing) => signing.sign(request).await?,
            None => request,
        };
        let step = LastStep::begin();
        let request = self.request(request, &step)?;
        self.pause.wait_async().await;
        step.take();
        let answer = self.ask(request);
        let answer = match is_whole_upload {
            true => Some(answer.await),
            false => step.or_silence(self.silence_max, answer).await,
        };
        let response = answer.ok_or_else(|| silent(self.silence_max))?.map_err(|error| self.unanswered(error))?;
        self.pause.note(response.status(), response.headers());
        match response.status() {
            StatusCode::UNAUTHORIZED => return Err(opendal::Error::new(ErrorKind::PermissionDenied, UNAUTHORIZED)),
            // Without TLS a proxy's own answer comes in the place of the service's.
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                let reason = self.proxies.unauthorized(response.url());
                return Err(opendal::Error::new(ErrorKind::ConfigInvalid, reason));
            }
            // WebDAV servers say it in words of their own, which nobody could tell from a refusal.
            StatusCode::RANGE_NOT_SATISFIABLE => {
                return Err(opendal::Error::new(ErrorKind::RangeNotSatisfied, "there are no such bytes"));
            }
            // opendal takes it for a refusal over WebDAV, of COS and of OBS.
            StatusCode::TOO_MANY_REQUESTS => {
                return Err(opendal::Error::new(ErrorKind::RateLimited, TOO_MUCH).set_temporary());
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
        let silence_max = self.silence_max;
        let pieces = stream::unfold(Some(response), move |response| async move {
            let mut response = response?;
            match timeout(silence_max, response.chunk()).await {
                Ok(Ok(piece)) => piece.map(|piece| (Ok(piece), Some(response))),
                Ok(Err(error)) => Some((Err(broken(error)), None)),
                Err(_) => Some((Err(silent(silence_max)), None)),
            }
        });
        let pieces = pieces.scan(0u64, |taken, piece| {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::silent;

    #[tokio::test]
    async fn a_slow_upload_is_not_taken_for_silence_and_what_comes_after_it_is() {
        let url = format!("http://{}/", silent::server(""));
        let bandwidth = Bandwidth::new(Some("64k".parse().unwrap()), None);
        let options = TransportOptions { bandwidth, ..TransportOptions::default() };
        let made = Transport::new(options, None, &url).unwrap();
        let transport = Transport { silence_max: silent::PATIENCE, ..made };
        let begun = Instant::now();
        // A second at this rate.
        let request = http::Request::put(&url).body(Buffer::from(vec![0; 64 << 10])).unwrap();
        let failed = transport.fetch(request).await.map(drop).unwrap_err();
        assert!(failed.to_string().contains("has said nothing"), "{failed}");
        assert!(begun.elapsed() >= Duration::from_millis(900), "given up after {:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn a_service_that_says_nothing_is_given_up() {
        for said in ["", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"] {
            let url = format!("http://{}/", silent::server(said));
            let made = Transport::new(TransportOptions::default(), None, &url).unwrap();
            let transport = Transport { silence_max: silent::PATIENCE, ..made };
            let request = http::Request::get(&url).body(Buffer::new()).unwrap();
            let failed = match transport.fetch(request).await {
                Ok(answer) => answer.into_body().to_buffer().await.map(drop).unwrap_err(),
                Err(error) => error,
            };
            assert!(failed.is_temporary() && failed.to_string().contains("has said nothing"), "{failed}");
        }
    }
}
