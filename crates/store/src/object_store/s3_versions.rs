//! The versions that a bucket of S3 keeps of its objects.
//!
//! Source: Amazon S3 API Reference, `ListObjectVersions`, `GetBucketVersioning`, and `versionId` of `GetObject` and
//! `DeleteObject`.

use bytes::Bytes;
use http::Method;
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::s3::S3;
use super::s3_archive::encoded_value;
use super::undoing::FileVersion;

/// What S3 gives at once at most, and by itself.
pub(super) const VERSIONS_PER_PAGE: u16 = 1000;
/// A bucket with more pages is not a repository's.
const PAGES_MAX: usize = 1_000_000;

/// Versions and markers stand in one order, mixed: each element is taken as it comes.
#[derive(Deserialize)]
struct Page {
    #[serde(rename = "$value", default)]
    elements: Vec<Element>,
}

#[derive(Deserialize)]
enum Element {
    IsTruncated(bool),
    NextKeyMarker(String),
    NextVersionIdMarker(String),
    Version(Listed),
    DeleteMarker(Listed),
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    key: String,
    version_id: String,
    last_modified: Timestamp,
    /// A marker has none.
    #[serde(default)]
    size: u64,
    #[serde(default)]
    storage_class: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Versioning {
    status: Option<String>,
}

/// A version in a listing.
pub(super) struct ListedVersion {
    /// From the repository's beginning.
    pub path: String,
    pub version: FileVersion,
}

/// Where the next page begins.
#[derive(PartialEq, Eq)]
struct Next {
    key: String,
    version_id: String,
}

impl S3 {
    /// Whether the bucket keeps what is overwritten and removed.
    pub(super) async fn keeps_versions(&self) -> opendal::Result<bool> {
        let answer = self.requests.on_bucket(Method::GET, "?versioning", &[], Bytes::new()).await?.succeeded()?;
        let versioning: Versioning = from_xml(&answer.body)?;
        Ok(versioning.status.as_deref() == Some("Enabled"))
    }

    /// The versions whose paths begin like this, asked for so many at a time. Those of a path stand together, the newest
    /// first, also where a page ends among them.
    pub(super) async fn versions(&self, beginning: &str, per_page: u16) -> opendal::Result<Vec<ListedVersion>> {
        let prefix = format!("{}{beginning}", self.requests.prefix());
        let mut next: Option<Next> = None;
        let mut found = Vec::new();
        for _ in 0..PAGES_MAX {
            let mut query = format!("?versions&max-keys={per_page}&prefix={}", encoded_value(&prefix));
            if let Some(Next { key, version_id }) = &next {
                query.push_str(&format!("&key-marker={}", encoded_value(key)));
                if !version_id.is_empty() {
                    query.push_str(&format!("&version-id-marker={}", encoded_value(version_id)));
                }
            }
            let answer = self.requests.on_bucket(Method::GET, &query, &[], Bytes::new()).await?.succeeded()?;
            let (listed, following) = page(&answer.body)?;
            found.extend(listed.into_iter().filter_map(|ListedVersion { path: key, version }| {
                let path = key.strip_prefix(self.requests.prefix())?.to_string();
                Some(ListedVersion { path, version })
            }));
            match following {
                None => return Ok(found),
                // A service that begins again where it has begun would be listed for ever.
                following if following == next => break,
                following => next = following,
            }
        }
        Err(opendal::Error::new(opendal::ErrorKind::Unexpected, "the listing of the bucket's versions does not end"))
    }

    pub(super) async fn read_version(&self, path: &str, id: &str) -> opendal::Result<Bytes> {
        let query = format!("?versionId={}", encoded_value(id));
        Ok(self.requests.on_file(Method::GET, path, &query, &[], Bytes::new()).await?.succeeded()?.body)
    }

    /// Removes one version for good, or one marker. What is locked is refused.
    pub(super) async fn remove_version(&self, path: &str, id: &str) -> opendal::Result<()> {
        let query = format!("?versionId={}", encoded_value(id));
        self.requests.on_file(Method::DELETE, path, &query, &[], Bytes::new()).await?.succeeded().map(drop)
    }
}

/// The versions of a page with their keys for paths, and where the next page begins.
fn page(xml: &[u8]) -> opendal::Result<(Vec<ListedVersion>, Option<Next>)> {
    let page: Page = from_xml(xml)?;
    let mut listed = Vec::new();
    let (mut is_truncated, mut next_key, mut next_version_id) = (false, None, String::new());
    for element in page.elements {
        match element {
            Element::IsTruncated(truncated) => is_truncated = truncated,
            Element::NextKeyMarker(key) => next_key = Some(key),
            Element::NextVersionIdMarker(id) => next_version_id = id,
            Element::Version(version) => listed.push(version.into_version(false)),
            Element::DeleteMarker(marker) => listed.push(marker.into_version(true)),
            Element::Other => {}
        }
    }
    match (is_truncated, next_key) {
        (false, _) => Ok((listed, None)),
        (true, Some(key)) => Ok((listed, Some(Next { key, version_id: next_version_id }))),
        // Taken for the end, it would leave versions out.
        (true, None) => Err(malformed()),
    }
}

impl Listed {
    fn into_version(self, is_marker: bool) -> ListedVersion {
        let Listed { key, version_id, last_modified, size, storage_class } = self;
        let version = FileVersion {
            id: version_id,
            is_marker,
            modified_at: last_modified,
            size_bytes: size,
            class: storage_class,
        };
        ListedVersion { path: key, version }
    }
}

fn from_xml<T: DeserializeOwned>(xml: &[u8]) -> opendal::Result<T> {
    quick_xml::de::from_reader(xml).map_err(|_| malformed())
}

fn malformed() -> opendal::Error {
    opendal::Error::new(opendal::ErrorKind::Unexpected, "the listing of versions is not the XML of S3")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_read_in_its_order() {
        let xml = b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
            <ListVersionsResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>b</Name><Prefix>v/data/</Prefix>\
            <KeyMarker></KeyMarker><VersionIdMarker/><NextKeyMarker>v/data/01/y</NextKeyMarker>\
            <NextVersionIdMarker>3+4</NextVersionIdMarker><MaxKeys>3</MaxKeys><IsTruncated>true</IsTruncated>\
            <Version><Key>v/data/00/x</Key><VersionId>1</VersionId><IsLatest>true</IsLatest>\
            <LastModified>2026-11-26T00:00:03.000Z</LastModified><ETag>&quot;e&quot;</ETag><Size>7</Size>\
            <StorageClass>STANDARD</StorageClass><Owner><ID>me</ID></Owner></Version>\
            <DeleteMarker><Key>v/data/01/y</Key><VersionId>2</VersionId><IsLatest>true</IsLatest>\
            <LastModified>2026-11-26T00:00:02.000Z</LastModified><Owner><ID>me</ID></Owner></DeleteMarker>\
            <Version><Key>v/data/01/y</Key><VersionId>3+4</VersionId><IsLatest>false</IsLatest>\
            <LastModified>2026-11-26T00:00:01.000Z</LastModified><Size>8</Size></Version></ListVersionsResult>";
        let (listed, next) = page(xml).unwrap();
        let told: Vec<_> = listed
            .iter()
            .map(|ListedVersion { path, version }| {
                (path.as_str(), version.id.as_str(), version.is_marker, version.size_bytes)
            })
            .collect();
        let expected =
            [("v/data/00/x", "1", false, 7), ("v/data/01/y", "2", true, 0), ("v/data/01/y", "3+4", false, 8)];
        assert_eq!(told, expected);
        assert_eq!(listed[1].version.modified_at, "2026-11-26T00:00:02Z".parse::<Timestamp>().unwrap());
        let next = next.unwrap();
        assert_eq!((next.key.as_str(), next.version_id.as_str()), ("v/data/01/y", "3+4"));
    }

    #[test]
    fn a_listing_without_its_end_is_refused() {
        let listing = |inside: &str| format!("<ListVersionsResult>{inside}</ListVersionsResult>");
        assert!(page(listing("<IsTruncated>true</IsTruncated>").as_bytes()).is_err());
        assert!(page(listing("<Version><Key>x</Key></Version>").as_bytes()).is_err());
        assert!(page(b"<html>").is_err());
        let (listed, next) = page(listing("<IsTruncated>false</IsTruncated>").as_bytes()).unwrap();
        assert!(listed.is_empty() && next.is_none());
    }

    #[test]
    fn buckets_say_whether_they_keep_versions() {
        let status = |xml: &str| from_xml::<Versioning>(xml.as_bytes()).unwrap().status;
        assert_eq!(status("<VersioningConfiguration/>"), None);
        let enabled = "<VersioningConfiguration xmlns=\"x\"><Status>Enabled</Status></VersioningConfiguration>";
        assert_eq!(status(enabled).as_deref(), Some("Enabled"));
    }
}
