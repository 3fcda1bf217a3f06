//! Azure's own calls, for what opendal has none for: access tiers of single blobs.
//!
//! Source: Azure Storage REST API, "Authorize with Shared Key"; a shared access signature goes along as it was given.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderValue};
use http::{Method, Uri};
use jiff::Timestamp;
use opendal::{Buffer, ErrorKind, HttpTransporter};
use reqsign_core::hash::{base64_decode, base64_hmac_sha256};

use super::s3_archive::encoded_value;
use super::s3_request::{Answer, Headers, encoded};
use super::service::AzureOptions;

/// The same as in opendal's requests; later than the one with the tier `Cold` (2021-12-02).
const API_VERSION: &str = "2022-11-02";
/// Headers that are signed without their names, in this order. One that is not sent is an empty line.
const SIGNED_HEADERS: [&str; 11] = [
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
];
/// In an answer to HEAD the only place that says what is wrong.
const ERROR_CODE: &str = "x-ms-error-code";

/// Names and values of a query, not encoded, in the order of their names.
pub(super) type Parameters<'a> = [(&'static str, &'a str)];

/// A container, with what opens it.
pub(super) struct AzureRequests {
    transport: HttpTransporter,
    options: AzureOptions,
    /// The URL of the container, without a slash at its end.
    container_url: String,
    /// Where the repository begins in the container, with a slash at its end unless it is empty.
    prefix: String,
}

impl AzureRequests {
    pub(super) fn new(options: &AzureOptions, transport: HttpTransporter) -> Self {
        let endpoint = options.endpoint();
        let container_url = format!("{}/{}", endpoint.trim_end_matches('/'), options.address.container);
        let path = &options.address.path;
        let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        Self { transport, options: options.clone(), container_url, prefix }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Sends a question about the container.
    pub(super) async fn on_container(&self, method: Method, parameters: &Parameters<'_>) -> opendal::Result<Answer> {
        self.send(method, self.container_url.clone(), parameters, &[], Bytes::new()).await
    }

    /// Sends a request on a file of the repository.
    pub(super) async fn on_blob(
        &self,
        method: Method,
        path: &str,
        parameters: &Parameters<'_>,
        headers: &Headers,
        body: Bytes,
    ) -> opendal::Result<Answer> {
        let name = encoded(&format!("{}{path}", self.prefix));
        self.send(method, format!("{}/{name}", self.container_url), parameters, headers, body).await
    }

    async fn send(
        &self,
        method: Method,
        url: String,
        parameters: &Parameters<'_>,
        headers: &Headers,
        body: Bytes,
    ) -> opendal::Result<Answer> {
        let mut query: Vec<String> =
            parameters.iter().map(|(name, value)| format!("{name}={}", encoded_value(value))).collect();
        let lent = self.options.sas_token.as_deref().map(|signature| signature.trim_start_matches('?'));
        query.extend(lent.map(str::to_string));
        let url = if query.is_empty() { url } else { format!("{url}?{}", query.join("&")) };
        // What is wrong about it is not repeated: it may hold a signature.
        let uri: Uri = url.parse().map_err(|_| invalid("the service's address is no URL"))?;
        let mut named = HeaderMap::new();
        for (name, value) in headers {
            named.insert(*name, header_value(value)?);
        }
        named.insert("x-ms-date", header_value(&Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string())?);
        named.insert("x-ms-version", HeaderValue::from_static(API_VERSION));
        if !body.is_empty() {
            named.insert(CONTENT_LENGTH, body.len().into());
        }
        // As in opendal, a signature that was lent goes before the account's key.
        if let (Some(key), None) = (&self.options.key, lent) {
            let text = text_to_sign(&self.options.account, &method, uri.path(), parameters, &named);
            let key = base64_decode(key).map_err(|_| invalid("the account's key is not in base64"))?;
            let signature = base64_hmac_sha256(&key, text.as_bytes());
            named.insert(AUTHORIZATION, header_value(&format!("SharedKey {}:{signature}", self.options.account))?);
        }
        let mut request = http::Request::new(Buffer::from(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = named;
        let (head, body) = self.transport.send(request).await?.into_parts();
        let mut body = body.to_bytes();
        if let Some(code) = head.headers.get(ERROR_CODE).filter(|_| body.is_empty()) {
            body = Bytes::copy_from_slice(code.as_bytes());
        }
        Ok(Answer { status: head.status, headers: head.headers, body })
    }
}

/// What went wrong, in Azure's word for it; empty where nothing did.
pub(super) fn error_code(answer: &Answer) -> &str {
    header(&answer.headers, ERROR_CODE)
}

pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn header_value(text: &str) -> opendal::Result<HeaderValue> {
    HeaderValue::from_str(text).map_err(|_| invalid("a header of the request has no valid value"))
}

fn invalid(reason: &str) -> opendal::Error {
    opendal::Error::new(ErrorKind::ConfigInvalid, reason)
}

/// What the account's key signs. The path is as it is sent: at an emulator it begins with the account once more.
fn text_to_sign(
    account: &str,
    method: &Method,
    path: &str,
    parameters: &Parameters<'_>,
    headers: &HeaderMap,
) -> String {
    let mut text = format!("{method}\n");
    for name in SIGNED_HEADERS {
        text.push_str(&format!("{}\n", header(headers, name)));
    }
    let mut own: Vec<&str> =
        headers.keys().map(|name| name.as_str()).filter(|name| name.starts_with("x-ms-")).collect();
    own.sort_unstable();
    for name in own {
        text.push_str(&format!("{name}:{}\n", header(headers, name)));
    }
    text.push_str(&format!("/{account}{path}"));
    for (name, value) in parameters {
        text.push_str(&format!("\n{name}:{value}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    /// The examples of Azure's documentation, the second one with another version and a tier.
    #[test]
    fn what_is_signed_is_as_azure_documents_it() {
        let headers = |named: &[(&'static str, &'static str)]| -> HeaderMap {
            let pair = |&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
            named.iter().map(pair).collect()
        };
        let date = ("x-ms-date", "Fri, 26 Jun 2015 23:39:12 GMT");
        let parameters = [("comp", "metadata"), ("restype", "container"), ("timeout", "20")];
        let asked = headers(&[("x-ms-version", "2015-02-21"), date]);
        assert_eq!(
            text_to_sign("myaccount", &Method::GET, "/mycontainer", &parameters, &asked),
            "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n\
             /myaccount/mycontainer\ncomp:metadata\nrestype:container\ntimeout:20"
        );
        let written = headers(&[
            ("x-ms-version", API_VERSION),
            ("x-ms-blob-type", "BlockBlob"),
            ("x-ms-access-tier", "Cool"),
            ("content-length", "11"),
            ("if-none-match", "*"),
            date,
        ]);
        assert_eq!(
            text_to_sign("myaccount", &Method::PUT, "/mycontainer/hello%20world", &[], &written),
            "PUT\n\n\n11\n\n\n\n\n\n*\n\n\nx-ms-access-tier:Cool\nx-ms-blob-type:BlockBlob\n\
             x-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2022-11-02\n/myaccount/mycontainer/hello%20world"
        );
    }
}
