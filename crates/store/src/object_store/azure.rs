//! What Azure can do for a repository beyond holding its files: access tiers by kind of file.

use bytes::Bytes;
use http::{Method, StatusCode};
use opendal::{ErrorKind, HttpTransporter};

use super::azure_request::{AzureRequests, error_code};
use super::service::AzureOptions;

/// How an upload is refused where a blob stands: also one in the archive, which may not be written over at all.
const STANDING_CODES: [&str; 2] = ["BlobAlreadyExists", "BlobArchived"];

pub(super) struct Azure {
    pub(super) requests: AzureRequests,
    data_class: Option<String>,
}

impl Azure {
    pub(super) fn new(options: &AzureOptions, transport: HttpTransporter) -> Self {
        Self { requests: AzureRequests::new(options, transport), data_class: options.data_class.clone() }
    }

    /// The tier of packs of file contents; without one they lie in the account's own, as everything else does.
    pub(super) fn data_tier(&self) -> Option<&str> {
        self.data_class.as_deref()
    }

    /// Uploads a file whole; with `only_new` the service refuses it where something stands. The tier is said in the upload
    /// itself: what is there never lies in another one.
    pub(super) async fn put(&self, path: &str, tier: &str, content: Bytes, only_new: bool) -> opendal::Result<()> {
        let mut headers = vec![("x-ms-blob-type", "BlockBlob".to_string()), ("x-ms-access-tier", tier.to_string())];
        if only_new {
            headers.push(("if-none-match", "*".into()));
        }
        let answer = self.requests.on_blob(Method::PUT, path, &[], &headers, content).await?;
        let stands = answer.status == StatusCode::CONFLICT && STANDING_CODES.contains(&error_code(&answer));
        if only_new && stands {
            return Err(opendal::Error::new(ErrorKind::ConditionNotMatch, "a blob of this name is there"));
        }
        answer.succeeded().map(drop)
    }
}
