//! What S3 can do for a repository beyond holding its files: storage classes by kind of file, and object lock.

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use jiff::{SignedDuration, Timestamp};
use opendal::HttpTransporter;
use sha2::{Digest, Sha256};

use super::s3_request::S3Requests;
use super::service::S3Options;
use crate::FileType;

/// The years that a mistyped retention cannot go beyond: nobody could take it back.
pub const LOCKED_DAYS_MAX: u16 = 3660;

/// Packs are told apart at writing: what they hold cannot be seen from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A pack of file contents: read only when something is restored.
    Contents,
    /// Everything that a listing or the next backup reads.
    Hot,
}

pub(super) struct S3 {
    pub(super) requests: S3Requests,
    data_class: Option<String>,
    locked_for_days: Option<u16>,
}

impl S3 {
    pub(super) fn new(options: &S3Options, transport: HttpTransporter) -> Self {
        Self {
            requests: S3Requests::new(options, transport),
            data_class: options.data_class.clone(),
            locked_for_days: options.locked_for_days,
        }
    }

    /// Uploads a file whole; with `only_new` the service refuses it where something stands.
    pub(super) async fn put(
        &self,
        path: &str,
        file_type: FileType,
        kind: Kind,
        content: Bytes,
        only_new: bool,
    ) -> opendal::Result<()> {
        // Object lock asks for a checksum that the service compares. Services that don't know this one compare
        // the signed hash.
        let mut headers = vec![("x-amz-checksum-sha256", base64(&Sha256::digest(&content)))];
        if only_new {
            headers.push(("if-none-match", "*".into()));
        }
        if let (Some(class), Kind::Contents) = (&self.data_class, kind) {
            headers.push(("x-amz-storage-class", class.clone()));
        }
        // Lock files must stay removable, or the next writer waits for as long as the retention.
        if let Some(days) = self.locked_for_days.filter(|_| file_type != FileType::Lock) {
            headers.push(("x-amz-object-lock-mode", "COMPLIANCE".into()));
            headers.push(("x-amz-object-lock-retain-until-date", date(until(days))));
        }
        self.requests.on_file(Method::PUT, path, "", &headers, content).await?.succeeded().map(drop)
    }

    /// As restic does: makes the bucket unless it is there.
    pub(super) async fn create_bucket(&self) -> opendal::Result<()> {
        let found = self.requests.on_bucket(Method::HEAD, "", &[], Bytes::new()).await?;
        if found.status != StatusCode::NOT_FOUND {
            // It is there, or this user may not ask: the first file says what is wrong.
            return Ok(());
        }
        // Where the region is the default, naming it is refused.
        let body = match self.requests.region() {
            "us-east-1" => String::new(),
            region => format!(
                "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                 <LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
            ),
        };
        // It can be had at a bucket's making alone. No default retention: lock files must stay removable.
        let locked = self.locked_for_days.map(|_| ("x-amz-bucket-object-lock-enabled", "true".to_string()));
        let headers: Vec<_> = locked.into_iter().collect();
        self.requests.on_bucket(Method::PUT, "", &headers, body.into()).await?.succeeded().map(drop)
    }

    /// What S3 tells of a file.
    async fn headers(&self, path: &str) -> opendal::Result<HeaderMap> {
        Ok(self.requests.on_file(Method::HEAD, path, "", &[], Bytes::new()).await?.succeeded()?.headers)
    }

    /// The storage class of a file, and until when it is locked. A lock in governance mode is none: who may write may be
    /// allowed to lift it.
    pub(super) async fn state(&self, path: &str) -> opendal::Result<FileState> {
        let headers = self.headers(path).await?;
        let class = headers.get("x-amz-storage-class").and_then(|value| value.to_str().ok());
        Ok(FileState {
            class: class.unwrap_or("STANDARD").to_string(),
            locked_until: lock_of(&headers).filter(|lock| lock.is_compliance).map(|lock| lock.until),
        })
    }
}

impl S3 {
    /// Whether what stands at a path and cannot be read is what was to be written there. Uploads appear whole, and the
    /// service has compared their hash: it is the same unless the length or the checksum it kept is another.
    pub(super) async fn is_same_unread(&self, path: &str, content: &[u8]) -> opendal::Result<bool> {
        let headers = [("x-amz-checksum-mode", "ENABLED".to_string())];
        let answer = self.requests.on_file(Method::HEAD, path, "", &headers, Bytes::new()).await?.succeeded()?;
        let header = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok());
        let length = header("content-length").and_then(|length| length.parse::<usize>().ok());
        let checksum = header("x-amz-checksum-sha256");
        let has_other = checksum.is_some_and(|checksum| checksum != base64(&Sha256::digest(content)));
        Ok(length == Some(content.len()) && !has_other)
    }
}

/// What S3 says about a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileState {
    pub class: String,
    /// Until when nobody can remove it. Readable only to who may ask for retentions.
    pub locked_until: Option<Timestamp>,
}

/// Until when a lock of so many days holds. It goes by this host's clock: services refuse a request that was signed by one that
/// is a quarter of an hour off, so a clock that is years ahead locks nothing.
pub(super) fn until(days: u16) -> Timestamp {
    let length = SignedDuration::from_hours(24 * i64::from(days.min(LOCKED_DAYS_MAX)));
    Timestamp::now().checked_add(length).unwrap_or(Timestamp::MAX)
}

/// As S3 writes dates: to the second, in UTC.
pub(super) fn date(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// How a file is locked.
pub(super) struct Lock {
    pub(super) until: Timestamp,
    /// Nobody can lift it.
    pub(super) is_compliance: bool,
}

pub(super) fn lock_of(headers: &HeaderMap) -> Option<Lock> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let until = header("x-amz-object-lock-retain-until-date")?.parse().ok()?;
    Some(Lock { until, is_compliance: header("x-amz-object-lock-mode") == Some("COMPLIANCE") })
}
