//! Renewing object lock on the content that a file's name stands for, and not on whatever lies there now.
//!
//! Who has a bucket's keys can write something else above a locked file. A renewal must not take that for the file: the lock on
//! the true version would run out meanwhile, and from then on it can be removed for good.
//!
//! Source: Amazon S3 API Reference, `HeadObject` (`x-amz-checksum-mode`, `versionId`) and `PutObjectRetention`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Method};
use sha2::{Digest, Sha256};

use super::s3::{Lock, S3, date, lock_of, until};
use super::s3_archive::encoded_value;
use super::s3_versions::VERSIONS_PER_PAGE;
use super::undoing::FileVersion;
use crate::content_name;

/// What a lock was renewed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retained {
    /// What is current, and nothing says that it is not the file.
    Current,
    /// Something else is current. The version below it that is the file is locked anew.
    Covered,
    /// Something else is current, and no version that is the file was found.
    Lost,
}

/// What is known of a version's content without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Named,
    Other,
    /// Whoever wrote it gave no such checksum, or the service keeps none.
    Unknown,
}

impl S3 {
    /// Keeps a file that is there until so many days from now. Retention can only grow, so one that is longer stays. `name`
    /// is the hash of its content; the configuration has none.
    pub(super) async fn retain(&self, path: &str, name: Option<&str>, days: u16) -> opendal::Result<Retained> {
        let current = self.headers_of(path, None).await?;
        let is_current = match name.map(|name| content_told_by(&current, name)) {
            None | Some(Content::Named) => true,
            Some(Content::Other) => false,
            // Files are written once, so a second version needs an explanation. Keys that may list no versions leave it at
            // what is current.
            Some(Content::Unknown) => self.contents(path).await?.is_none_or(|contents| contents.len() <= 1),
        };
        match (name, is_current) {
            (Some(name), false) => self.retain_below(path, name, days).await,
            _ => self.lock(path, None, &current, days).await.map(|()| Retained::Current),
        }
    }

    /// Keeps the newest version that is the file, and whatever above it cannot be told from it.
    async fn retain_below(&self, path: &str, name: &str, days: u16) -> opendal::Result<Retained> {
        let mut retained = Retained::Lost;
        for (position, version) in self.contents(path).await?.unwrap_or_default().iter().enumerate() {
            let headers = self.headers_of(path, Some(&version.id)).await?;
            let content = match content_told_by(&headers, name) {
                Content::Unknown => self.content_read(path, name, version).await?,
                told => told,
            };
            if content == Content::Other {
                continue;
            }
            self.lock(path, Some(&version.id), &headers, days).await?;
            if position == 0 {
                retained = Retained::Current;
            } else if retained == Retained::Lost {
                retained = Retained::Covered;
            }
            if content == Content::Named {
                break;
            }
        }
        Ok(retained)
    }

    /// The versions of a file that have a content, the newest first; `None` where they are not told.
    async fn contents(&self, path: &str) -> opendal::Result<Option<Vec<FileVersion>>> {
        let listed = match self.versions(path, VERSIONS_PER_PAGE).await {
            Ok(listed) => listed,
            Err(error) if error.is_temporary() || error.kind() == opendal::ErrorKind::RateLimited => return Err(error),
            Err(_) => return Ok(None),
        };
        let of_file = listed.into_iter().filter(|listed| listed.path == path && !listed.version.is_marker);
        Ok(Some(of_file.map(|listed| listed.version).collect()))
    }

    async fn content_read(&self, path: &str, name: &str, version: &FileVersion) -> opendal::Result<Content> {
        match self.read_version(path, &version.id).await {
            Ok(content) if content.len() as u64 != version.size_bytes => {
                let message = format!("{} bytes came of a version of {}", content.len(), version.size_bytes);
                Err(opendal::Error::new(opendal::ErrorKind::Unexpected, message).set_temporary())
            }
            Ok(content) if content_name(&content) == name => Ok(Content::Named),
            Ok(_) => Ok(Content::Other),
            // It lies in an archive class, or these keys may not read it.
            Err(error) if error.kind() == opendal::ErrorKind::PermissionDenied => Ok(Content::Unknown),
            Err(error) => Err(error),
        }
    }

    async fn headers_of(&self, path: &str, version: Option<&str>) -> opendal::Result<HeaderMap> {
        let query = version.map_or_else(String::new, |id| format!("?versionId={}", encoded_value(id)));
        let headers = [("x-amz-checksum-mode", "ENABLED".to_string())];
        let answer = self.requests.on_file(Method::HEAD, path, &query, &headers, Bytes::new()).await?;
        Ok(answer.succeeded()?.headers)
    }

    /// Locks a version, the current one unless another is named, that has told these headers of itself.
    async fn lock(&self, path: &str, version: Option<&str>, told: &HeaderMap, days: u16) -> opendal::Result<()> {
        let wanted = match lock_of(told) {
            Some(Lock { until: locked_until, is_compliance: true }) if locked_until >= until(days) => return Ok(()),
            // One that can be lifted is made one that can't, for no shorter time.
            Some(lock) => lock.until.max(until(days)),
            None => until(days),
        };
        let body = format!(
            "<Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Mode>COMPLIANCE</Mode>\
             <RetainUntilDate>{}</RetainUntilDate></Retention>",
            date(wanted)
        );
        let checksum = STANDARD.encode(Sha256::digest(&body));
        let headers = [("x-amz-checksum-sha256", checksum), ("content-type", "application/xml".into())];
        let which = version.map_or_else(String::new, |id| format!("&versionId={}", encoded_value(id)));
        let query = format!("?retention{which}");
        let answer = self.requests.on_file(Method::PUT, path, &query, &headers, body.into()).await?;
        answer.succeeded().map(drop)
    }
}

/// What a version's own checksum says of a name that is the hash of a file's content.
fn content_told_by(headers: &HeaderMap, name: &str) -> Content {
    let checksum = headers.get("x-amz-checksum-sha256").and_then(|value| value.to_str().ok());
    // After an upload in parts it is of the hashes of those, with their number at its end: no base64, and it says nothing.
    let hash = checksum.and_then(|checksum| STANDARD.decode(checksum).ok()).filter(|hash| hash.len() == 32);
    match hash.map(|hash| hex::encode(hash) == name) {
        Some(true) => Content::Named,
        Some(false) => Content::Other,
        None => Content::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_says_whether_it_is_the_file() {
        let name = content_name(b"pack");
        let check = |checksum: Option<String>, expected: Content| {
            let mut headers = HeaderMap::new();
            if let Some(checksum) = &checksum {
                headers.insert("x-amz-checksum-sha256", checksum.parse().unwrap());
            }
            assert_eq!(content_told_by(&headers, &name), expected, "{checksum:?}");
        };
        let of = |content: &[u8]| STANDARD.encode(Sha256::digest(content));
        check(Some(of(b"pack")), Content::Named);
        check(Some(of(b"junk")), Content::Other);
        check(None, Content::Unknown);
        check(Some(format!("{}-3", of(b"pack"))), Content::Unknown);
        check(Some("junk".into()), Content::Unknown);
    }
}
