//! S3's own calls, for what opendal has none for: making a bucket, object lock, classes of single objects.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use opendal::HttpTransporter;
use reqsign_aws_v4::{Credential, DefaultCredentialProvider, RequestSigner, StaticCredentialProvider};
use reqsign_core::{Context, OsEnv, Signer};
use reqsign_file_read_tokio::TokioFileRead;

use super::service::S3Options;
use crate::content_name;

/// Names and values of headers.
pub(super) type Headers = [(&'static str, String)];

/// An answer of the service, whatever its status.
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// A bucket, with what signs requests to it.
pub(super) struct S3Requests {
    transport: HttpTransporter,
    signer: Signer<Credential>,
    /// The URL of the bucket, without a slash at its end.
    bucket_url: String,
    /// Where the repository begins in the bucket, with a slash at its end unless it is empty.
    prefix: String,
    region: String,
}

impl S3Requests {
    pub(super) fn new(options: &S3Options, transport: HttpTransporter) -> Self {
        let context = Context::new().with_file_read(TokioFileRead).with_http_send(transport.clone()).with_env(OsEnv);
        let region = options.region();
        let signing = RequestSigner::new("s3", region);
        let signer = match &options.keys {
            Some(keys) => {
                let provider = match &keys.session_token {
                    Some(token) => StaticCredentialProvider::new(&keys.id, &keys.secret).with_session_token(token),
                    None => StaticCredentialProvider::new(&keys.id, &keys.secret),
                };
                Signer::new(context, provider, signing)
            }
            None => Signer::new(context, DefaultCredentialProvider::new(), signing),
        };
        let path = &options.address.path;
        let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        Self { transport, signer, bucket_url: options.bucket_url(), prefix, region: region.to_string() }
    }

    pub(super) fn region(&self) -> &str {
        &self.region
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Signs and sends a request on the bucket; `query` begins with a question mark or is empty.
    pub(super) async fn on_bucket(
        &self,
        method: Method,
        query: &str,
        headers: &Headers,
        body: Bytes,
    ) -> opendal::Result<Answer> {
        // A query without a path before it is no URL to some.
        let slash = if query.is_empty() { "" } else { "/" };
        self.send(method, format!("{}{slash}{query}", self.bucket_url), headers, body).await
    }

    /// Signs and sends a request on a file of the repository; `query` begins with a question mark or is empty.
    pub(super) async fn on_file(
        &self,
        method: Method,
        path: &str,
        query: &str,
        headers: &Headers,
        body: Bytes,
    ) -> opendal::Result<Answer> {
        let key = encoded(&format!("{}{path}", self.prefix));
        self.send(method, format!("{}/{key}{query}", self.bucket_url), headers, body).await
    }

    async fn send(&self, method: Method, url: String, headers: &Headers, body: Bytes) -> opendal::Result<Answer> {
        let invalid = |reason: String| opendal::Error::new(opendal::ErrorKind::ConfigInvalid, reason);
        let mut request = http::Request::builder()
            .method(method)
            .uri(url)
            .body(())
            .map_err(|error| invalid(error.to_string()))?
            .into_parts()
            .0;
        let mut named = HeaderMap::new();
        for (name, value) in headers {
            named.insert(*name, HeaderValue::from_str(value).map_err(|error| invalid(error.to_string()))?);
        }
        // The service compares it with what has arrived.
        let hash = HeaderValue::from_str(&content_name(&body)).map_err(|error| invalid(error.to_string()))?;
        named.insert("x-amz-content-sha256", hash);
        request.headers = named;
        self.signer.sign(&mut request, None).await.map_err(|error| {
            let message = format!("no credential can be used: {error}");
            opendal::Error::new(opendal::ErrorKind::PermissionDenied, message).with_temporary(error.is_retryable())
        })?;
        let response = self.transport.send(http::Request::from_parts(request, body.into())).await?;
        let (head, body) = response.into_parts();
        Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() })
    }
}

/// As a key stands in a URL.
pub(super) fn encoded(key: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    key.bytes().map(byte).collect()
}

impl Answer {
    /// The answer, when it is a success.
    pub(super) fn succeeded(self) -> opendal::Result<Self> {
        if self.status.is_success() { Ok(self) } else { Err(self.into_error()) }
    }

    /// A refusal as opendal's own calls would report it.
    fn into_error(self) -> opendal::Error {
        let text = String::from_utf8_lossy(&self.body).into_owned();
        let kind = match self.status {
            StatusCode::NOT_FOUND if text.contains("NoSuchBucket") => opendal::ErrorKind::ConfigInvalid,
            StatusCode::NOT_FOUND => opendal::ErrorKind::NotFound,
            StatusCode::FORBIDDEN => opendal::ErrorKind::PermissionDenied,
            StatusCode::PRECONDITION_FAILED => opendal::ErrorKind::ConditionNotMatch,
            StatusCode::TOO_MANY_REQUESTS => opendal::ErrorKind::RateLimited,
            StatusCode::CONFLICT => opendal::ErrorKind::Conflict,
            _ => opendal::ErrorKind::Unexpected,
        };
        let message = if text.is_empty() { self.status.to_string() } else { text };
        opendal::Error::new(kind, message).with_temporary(self.status.is_server_error())
    }
}
