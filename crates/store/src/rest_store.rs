//! A repository behind a server that speaks the restic REST protocol.

mod answer;

use std::fmt;
use std::io::{self, Cursor, Read};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::blocking::{Body, Client, RequestBuilder, Response};
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, RANGE};
use reqwest::{Method, Url};
use serde::Deserialize;

use crate::extent;
use crate::limit::{Bandwidth, Limited};
use crate::link::{
    ANSWER_SILENCE_MAX, ANSWER_TIMEOUT, CONNECT_TIMEOUT, FILE_BYTES_MAX, IDLE_CONNECTIONS_MAX, SILENCE_MAX, time_for,
};
use crate::operation::{Operation, listed_config};
use crate::pause::Pause;
use crate::rest_server::LISTING_V2;
use crate::{Entry, Error, FileType, Proxies, Result, Store, name, trust};

/// The largest listing: some five million files.
const LISTING_BYTES_MAX: u64 = 512 << 20;
/// How much of a refusal's text is kept for the message.
const REASON_BYTES_MAX: u64 = 500;

/// Where the server is and how it is spoken to.
#[derive(Clone)]
pub struct RestOptions {
    /// `http://` or `https://`, with the path of the repository. May hold a user and a password.
    pub base_url: String,
    /// Who is trusted, and which certificate is shown. Without it `https` trusts the machine's own roots.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// The address of a host name that no resolver knows. Its port is used when the URL has none.
    pub resolve: Option<(String, SocketAddr)>,
}

impl fmt::Debug for RestOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may hold a password.
        formatter.debug_struct("RestOptions").field("resolve", &self.resolve).finish_non_exhaustive()
    }
}

/// A repository behind a restic REST server.
///
/// It keeps connections open between requests and may be used by many threads at once. It runs a
/// thread of its own, and must be neither made, used nor dropped on a thread of an asynchronous runtime.
pub struct RestStore {
    client: Client,
    base: Url,
    location: String,
    proxies: Proxies,
    bandwidth: Bandwidth,
    pause: Pause,
}

impl RestStore {
    /// Checks the options; nothing is sent yet. The server is reached directly.
    pub fn new(options: RestOptions) -> Result<Self> {
        Self::through(&Proxies::default(), options)
    }

    /// The same for a server that may be behind a proxy.
    pub fn through(proxies: &Proxies, options: RestOptions) -> Result<Self> {
        Self::with_patience(ANSWER_SILENCE_MAX, proxies, options)
    }

    fn with_patience(silence_max: Duration, proxies: &Proxies, options: RestOptions) -> Result<Self> {
        let invalid = |reason: String| Error::Unauthorized { location: "the REST repository's URL".into(), reason };
        let mut base = Url::parse(&options.base_url).map_err(|error| invalid(error.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
            return Err(invalid("it must look like https://host:port/path/".into()));
        }
        base.set_query(None);
        base.set_fragment(None);
        if let (None, Some((_, address))) = (base.port(), &options.resolve) {
            base.set_port(Some(address.port())).map_err(|()| invalid("it cannot have a port".into()))?;
        }
        let path = format!("{}/", base.path().trim_end_matches('/'));
        base.set_path(&path);
        let location = location_of(&base);

        let tls = match (options.tls, base.scheme()) {
            (Some(tls), _) => tls,
            (None, "https") => trust::machine_roots(&location)?,
            (None, _) => trust::nobody(&location)?,
        };
        let mut tls = rustls::ClientConfig::clone(&tls);
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut builder = Client::builder()
            .use_preconfigured_tls(tls)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            // For the beginning of an answer and for each piece of it, where a request has no time of its own.
            .timeout(silence_max)
            .tcp_nodelay(true)
            .tcp_keepalive(SILENCE_MAX / 2)
            .tcp_user_timeout(SILENCE_MAX)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .user_agent(concat!("levee/", env!("CARGO_PKG_VERSION")));
        if let Some((host, address)) = &options.resolve {
            builder = builder.resolve(host, *address);
        }
        if let Some(proxy) = proxies.for_client() {
            builder = builder.proxy(proxy);
        }
        let client = builder
            .build()
            .map_err(|error| Error::Unauthorized { location: location.clone(), reason: answer::chain(&error) })?;
        let (proxies, bandwidth, pause) = (proxies.clone(), Bandwidth::default(), Pause::default());
        Ok(Self { client, base, location, proxies, bandwidth, pause })
    }

    /// The same store with limits on what it moves.
    pub fn with_bandwidth(self, bandwidth: Bandwidth) -> Self {
        Self { bandwidth, ..self }
    }

    fn url(&self, file_type: FileType, name: &str) -> Url {
        let mut url = self.base.clone();
        let path = match file_type {
            FileType::Config => format!("{}config", url.path()),
            _ => format!("{}{}/{name}", url.path(), file_type.folder()),
        };
        url.set_path(&path);
        url
    }

    fn operation<'a>(&'a self, action: &'static str, file_type: FileType, name: &'a str) -> Result<Operation<'a>> {
        name::check(&self.location, action, file_type, name)?;
        Ok(Operation { location: &self.location, action, file_type, name })
    }

    fn time_to_send(&self, bytes: u64) -> Duration {
        time_for(bytes) + self.bandwidth.upload_time_for(bytes)
    }

    fn time_to_receive(&self, bytes: u64) -> Duration {
        time_for(bytes) + self.bandwidth.download_time_for(bytes)
    }

    fn body(&self, content: &[u8]) -> Body {
        match self.bandwidth.upload() {
            None => Body::from(content.to_vec()),
            Some(_) => {
                let reader = Limited::new(Cursor::new(content.to_vec()), self.bandwidth.upload().cloned());
                Body::sized(reader, content.len() as u64)
            }
        }
    }

    /// The body of an answer to a request for a part of a file, or for all there is.
    fn read_body(
        &self,
        operation: &Operation<'_>,
        response: Response,
        asked: Option<Range<u64>>,
        bytes_max: u64,
    ) -> Result<Vec<u8>> {
        extent::check(asked.as_ref(), response.status(), response.headers())
            .map_err(|reason| operation.unreachable(reason))?;
        let expected = response.content_length();
        let too_long = || operation.unreachable(format!("the answer is longer than {bytes_max} bytes"));
        if expected.is_some_and(|expected| expected > bytes_max) {
            return Err(too_long());
        }
        let mut body = Vec::with_capacity(expected.unwrap_or_default() as usize);
        let response = Ending { response, at: Instant::now() + self.time_to_receive(bytes_max) };
        Limited::new(response, self.bandwidth.download().cloned())
            .take(bytes_max + 1)
            .read_to_end(&mut body)
            .map_err(|error| operation.unreachable(format!("the answer broke off: {}", answer::chain(&error))))?;
        if body.len() as u64 > bytes_max {
            return Err(too_long());
        }
        Ok(body)
    }

    fn request(&self, method: Method, operation: &Operation<'_>) -> RequestBuilder {
        self.client.request(method, self.url(operation.file_type, operation.name))
    }
}

impl Store for RestStore {
    fn create(&self) -> Result<()> {
        let operation = Operation { location: &self.location, action: "create", file_type: FileType::Config, name: "" };
        let mut url = self.base.clone();
        url.set_query(Some("create=true"));
        operation.send(self, self.client.post(url).timeout(ANSWER_TIMEOUT).body(Vec::new())).map(drop)
    }

    fn write(&self, file_type: FileType, name: &str, content: &[u8]) -> Result<()> {
        let operation = self.operation("write", file_type, name)?;
        let request = self
            .request(Method::POST, &operation)
            .header(CONTENT_TYPE, "application/octet-stream")
            .timeout(self.time_to_send(content.len() as u64))
            .body(self.body(content));
        match operation.send(self, request).map(drop) {
            // The stock server refuses a name that is there: an attempt whose answer was lost has made it.
            Err(refused @ Error::Denied { .. }) => match self.read(file_type, name) {
                Ok(there) if there == content => Ok(()),
                Err(error @ Error::Unreachable { .. }) => Err(error),
                _ => Err(refused),
            },
            written => written,
        }
    }

    fn read(&self, file_type: FileType, name: &str) -> Result<Vec<u8>> {
        let operation = self.operation("read", file_type, name)?;
        let response = operation.send(self, self.request(Method::GET, &operation))?;
        let content = self.read_body(&operation, response, None, FILE_BYTES_MAX)?;
        operation.whole(content, || self.size_bytes(file_type, name))
    }

    fn read_range(&self, file_type: FileType, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        let operation = self.operation("read", file_type, name)?;
        let damaged = |reason: String| operation.damaged(reason);
        let end = offset
            .checked_add(length as u64)
            .ok_or_else(|| damaged(format!("{length} bytes from {offset} are beyond any file")))?;
        if length == 0 {
            // HTTP has no way to ask for nothing.
            let size = self.size_bytes(file_type, name)?;
            return if offset <= size { Ok(Vec::new()) } else { Err(damaged(format!("it has {size} bytes"))) };
        }
        let request = self
            .request(Method::GET, &operation)
            .header(RANGE, format!("bytes={offset}-{}", end - 1))
            .timeout(self.time_to_receive(length as u64));
        let response = operation.send(self, request)?;
        let content = self.read_body(&operation, response, Some(offset..end), length as u64)?;
        if content.len() != length {
            return Err(damaged(format!("{} bytes came instead of {length} from {offset}", content.len())));
        }
        Ok(content)
    }

    fn size_bytes(&self, file_type: FileType, name: &str) -> Result<u64> {
        let operation = self.operation("look up", file_type, name)?;
        let request = self.request(Method::HEAD, &operation).timeout(ANSWER_TIMEOUT);
        let response = operation.send(self, request)?;
        // Not `content_length()`: that is the length of the body, and HEAD has none.
        let length = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        length.ok_or_else(|| operation.unreachable("the server doesn't say how long the file is".into()))
    }

    fn list(&self, file_type: FileType) -> Result<Vec<Entry>> {
        if file_type == FileType::Config {
            return listed_config(self);
        }
        let operation = Operation { location: &self.location, action: "list", file_type, name: "" };
        let request = self.request(Method::GET, &operation).header(ACCEPT, LISTING_V2);
        let response = operation.send(self, request)?;
        let has_sizes = response.headers().get(CONTENT_TYPE).is_some_and(|value| value == LISTING_V2);
        let body = self.read_body(&operation, response, None, LISTING_BYTES_MAX)?;
        let unreadable = |error: serde_json::Error| operation.unreachable(format!("the listing is not valid: {error}"));
        let mut entries = if has_sizes {
            let listed: Option<Vec<ListedFile>> = serde_json::from_slice(&body).map_err(unreadable)?;
            let listed = listed.unwrap_or_default().into_iter();
            listed.map(|file| Entry { name: file.name, size_bytes: file.size }).collect()
        } else {
            // Version 1 lists names alone: the sizes have to be asked for.
            let names: Option<Vec<String>> = serde_json::from_slice(&body).map_err(unreadable)?;
            let names = names.unwrap_or_default().into_iter().filter(|name| name::is_valid(file_type, name));
            let sized = names.filter_map(|name| match self.size_bytes(file_type, &name) {
                Ok(size_bytes) => Some(Ok(Entry { name, size_bytes })),
                // Removed since, or the listing is late.
                Err(Error::NotFound { .. }) => None,
                Err(error) => Some(Err(error)),
            });
            sized.collect::<Result<Vec<_>>>()?
        };
        entries.retain(|entry| name::is_valid(file_type, &entry.name));
        Ok(entries)
    }

    fn remove(&self, file_type: FileType, name: &str) -> Result<()> {
        let operation = self.operation("remove", file_type, name)?;
        let request = self.request(Method::DELETE, &operation).timeout(ANSWER_TIMEOUT);
        operation.send(self, request).map(drop)
    }

    fn location(&self) -> String {
        self.location.clone()
    }
}

/// An answer that comes byte by byte ends at some time, too.
struct Ending {
    response: Response,
    at: Instant,
}

impl Read for Ending {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if Instant::now() > self.at {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it takes longer than the slowest link would"));
        }
        self.response.read(buffer)
    }
}

#[derive(Deserialize)]
struct ListedFile {
    name: String,
    size: u64,
}

/// The URL without its user and password.
fn location_of(base: &Url) -> String {
    let mut shown = base.clone();
    // Both fail only for URLs that have no host, and those were refused.
    let _ = shown.set_password(None);
    let _ = shown.set_username("");
    format!("rest:{shown}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::silent;

    #[test]
    fn a_server_that_says_nothing_is_given_up() {
        for (said, begins) in [("", false), ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", true)] {
            let base_url = format!("http://{}/", silent::server(said));
            let options = RestOptions { base_url, tls: None, resolve: None };
            let store = RestStore::with_patience(silent::PATIENCE, &Proxies::default(), options).unwrap();
            let read = store.read(FileType::Data, &crate::content_name(b"pack"));
            assert!(matches!(read, Err(Error::Unreachable { .. })), "{begins}: {read:?}");
            let listed = store.list(FileType::Data);
            assert!(matches!(listed, Err(Error::Unreachable { .. })), "{begins}: {listed:?}");
        }
    }
}
