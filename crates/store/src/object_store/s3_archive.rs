//! S3's archive classes: which files lie in one, how far each is from being read, and asking for it.
//!
//! Source: Amazon S3 API Reference, `ListObjectsV2`, `HeadObject` (`x-amz-restore`, `x-amz-archive-status`) and
//! `RestoreObject`.

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use serde::Deserialize;

use super::s3::S3;
use super::s3_request::encoded;
use crate::thaw::{Temperature, ThawRequest, ThawSpeed};

/// Classes whose objects are in an archive until they are asked for.
const ARCHIVE_CLASSES: [&str; 2] = ["GLACIER", "DEEP_ARCHIVE"];
/// A class that moves objects into an archive by itself, if its bucket says so.
const TIERING_CLASS: &str = "INTELLIGENT_TIERING";
/// A page of a listing is a few hundred kilobytes of XML. A bucket with more pages is not a repository's.
const PAGES_MAX: usize = 1_000_000;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    #[serde(default)]
    is_truncated: bool,
    next_continuation_token: Option<String>,
    #[serde(default)]
    contents: Vec<Listed>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    key: String,
    size: u64,
    #[serde(default)]
    storage_class: String,
}

/// A file in a class that may need thawing.
pub(super) struct ArchivedFile {
    /// From the repository's beginning.
    pub path: String,
    pub size_bytes: u64,
}

impl S3 {
    /// The files below a folder that lie in a class from which they may have to be brought back.
    pub(super) async fn archived(&self, folder: &str) -> opendal::Result<Vec<ArchivedFile>> {
        let prefix = format!("{}{folder}", self.requests.prefix());
        let mut token: Option<String> = None;
        let mut found = Vec::new();
        for _ in 0..PAGES_MAX {
            let mut query = format!("?list-type=2&prefix={}", encoded_value(&prefix));
            if let Some(token) = &token {
                query.push_str(&format!("&continuation-token={}", encoded_value(token)));
            }
            let answer = self.requests.on_bucket(Method::GET, &query, &[], Bytes::new()).await?.succeeded()?;
            let page = page(&answer.body)?;
            for Listed { key, size, storage_class } in page.contents {
                let is_archive = ARCHIVE_CLASSES.contains(&storage_class.as_str()) || storage_class == TIERING_CLASS;
                if let Some(path) = key.strip_prefix(self.requests.prefix()).filter(|_| is_archive) {
                    found.push(ArchivedFile { path: path.into(), size_bytes: size });
                }
            }
            match page.next_continuation_token.filter(|_| page.is_truncated) {
                None => return Ok(found),
                next => token = next,
            }
        }
        Err(opendal::Error::new(opendal::ErrorKind::Unexpected, "the listing of the bucket does not end"))
    }

    pub(super) async fn temperature(&self, path: &str) -> opendal::Result<Temperature> {
        let answer = self.requests.on_file(Method::HEAD, path, "", &[], Bytes::new()).await?.succeeded()?;
        Ok(temperature(&answer.headers))
    }

    /// Asks for a file, and says how far it is then. Asking again for one that is there keeps it for longer.
    pub(super) async fn thaw(&self, path: &str, request: &ThawRequest) -> opendal::Result<Temperature> {
        let head = self.requests.on_file(Method::HEAD, path, "", &[], Bytes::new()).await?.succeeded()?;
        let class = header(&head.headers, "x-amz-storage-class").to_string();
        let is_archive = ARCHIVE_CLASSES.contains(&class.as_str());
        match temperature(&head.headers) {
            Temperature::Frozen => {}
            Temperature::Readable if is_archive => {}
            as_it_is => return Ok(as_it_is),
        }
        let body = restore_request(request, is_archive);
        let headers = [("content-type", "application/xml".to_string())];
        let answer = self.requests.on_file(Method::POST, path, "?restore", &headers, body.into()).await?;
        match answer.status {
            StatusCode::OK => Ok(Temperature::Readable),
            StatusCode::ACCEPTED => Ok(Temperature::Thawing),
            // RestoreAlreadyInProgress: an answer was lost, or another one has asked.
            StatusCode::CONFLICT => Ok(Temperature::Thawing),
            _ => answer.succeeded().map(|_| Temperature::Thawing),
        }
    }
}

fn restore_request(request: &ThawRequest, is_archive: bool) -> String {
    let tier = match request.speed {
        ThawSpeed::Expedited => "Expedited",
        ThawSpeed::Standard => "Standard",
        ThawSpeed::Bulk => "Bulk",
    };
    // What lies in an archive tier of intelligent tiering comes back for good: a number of days is refused there.
    let days = if is_archive { format!("<Days>{}</Days>", request.days) } else { String::new() };
    format!(
        "<RestoreRequest xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{days}\
         <GlacierJobParameters><Tier>{tier}</Tier></GlacierJobParameters></RestoreRequest>"
    )
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn temperature(headers: &HeaderMap) -> Temperature {
    let restore = header(headers, "x-amz-restore");
    let is_archived = ARCHIVE_CLASSES.contains(&header(headers, "x-amz-storage-class"));
    let is_tiered_away = !header(headers, "x-amz-archive-status").is_empty();
    if !is_archived && !is_tiered_away {
        Temperature::Readable
    } else if restore.contains("ongoing-request=\"true\"") {
        Temperature::Thawing
    } else if is_archived && restore.contains("ongoing-request=\"false\"") {
        // There is a copy of it, for a while.
        Temperature::Readable
    } else {
        Temperature::Frozen
    }
}

fn page(xml: &[u8]) -> opendal::Result<Page> {
    let malformed = |_| opendal::Error::new(opendal::ErrorKind::Unexpected, "the listing is not the XML of S3");
    quick_xml::de::from_reader(xml).map_err(malformed)
}

/// As a value stands in a query: a slash is no part of it.
pub(super) fn encoded_value(value: &str) -> String {
    encoded(value).replace('/', "%2F")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_say_how_far_a_file_is() {
        let check = |class: &str, restore: &str, archive: &str, expected: Temperature| {
            let mut headers = HeaderMap::new();
            let named = [("x-amz-storage-class", class), ("x-amz-restore", restore), ("x-amz-archive-status", archive)];
            for (name, value) in named.into_iter().filter(|(_, value)| !value.is_empty()) {
                headers.insert(name, value.parse().unwrap());
            }
            assert_eq!(temperature(&headers), expected, "{class} {restore} {archive}");
        };
        let (ongoing, there) =
            ("ongoing-request=\"true\"", "ongoing-request=\"false\", expiry-date=\"Fri, 21 Dec 2012 00:00:00 GMT\"");
        check("", "", "", Temperature::Readable);
        check("STANDARD_IA", "", "", Temperature::Readable);
        check("GLACIER_IR", "", "", Temperature::Readable);
        check("GLACIER", "", "", Temperature::Frozen);
        check("GLACIER", ongoing, "", Temperature::Thawing);
        check("DEEP_ARCHIVE", there, "", Temperature::Readable);
        check("INTELLIGENT_TIERING", "", "", Temperature::Readable);
        check("INTELLIGENT_TIERING", "", "DEEP_ARCHIVE_ACCESS", Temperature::Frozen);
        check("INTELLIGENT_TIERING", ongoing, "ARCHIVE_ACCESS", Temperature::Thawing);
    }

    #[test]
    fn a_listing_is_read() {
        let xml = b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
            <ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>b</Name><Prefix>data/</Prefix>\
            <KeyCount>2</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>true</IsTruncated>\
            <NextContinuationToken>a/b=</NextContinuationToken><Contents><Key>data/00/x</Key>\
            <LastModified>2026-11-26T00:00:00.000Z</LastModified><ETag>&quot;e&quot;</ETag><Size>7</Size>\
            <StorageClass>GLACIER</StorageClass></Contents><Contents><Key>data/01/y</Key><Size>8</Size></Contents>\
            </ListBucketResult>";
        let page = page(xml).unwrap();
        assert_eq!((page.is_truncated, page.next_continuation_token.as_deref()), (true, Some("a/b=")));
        let listed: Vec<_> =
            page.contents.iter().map(|file| (file.key.as_str(), file.size, file.storage_class.as_str())).collect();
        assert_eq!(listed, [("data/00/x", 7, "GLACIER"), ("data/01/y", 8, "")]);
        assert!(super::page(b"<html>").is_err());
        assert_eq!(encoded_value("a/b="), "a%2Fb%3D");
    }
}
