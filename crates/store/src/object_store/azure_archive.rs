//! Azure's archive tier: which files lie in it, how far each is from being read, and asking for it.
//!
//! Source: Azure Storage REST API, `List Blobs` (`AccessTier`), `Get Blob Properties` (`x-ms-access-tier`,
//! `x-ms-archive-status`) and `Set Blob Tier`.

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use opendal::ErrorKind;
use serde::Deserialize;

use super::azure::Azure;
use super::azure_request::{error_code, header};
use super::s3_archive::ArchivedFile;
use crate::thaw::{Temperature, ThawRequest, ThawSpeed};

const ARCHIVE_TIER: &str = "Archive";
/// Where a file comes back to, in place and for good. From here it may be set back at any time; one in `Cool` is paid for
/// 30 days, however soon it leaves.
const THAWED_TIER: &str = "Hot";
/// A page of a listing has 5,000 blobs. A container with more pages is not a repository's.
const PAGES_MAX: usize = 1_000_000;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    #[serde(default)]
    blobs: Blobs,
    /// Empty in the last one.
    #[serde(default)]
    next_marker: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Blobs {
    #[serde(default)]
    blob: Vec<Listed>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    name: String,
    properties: Properties,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Properties {
    #[serde(rename = "Content-Length")]
    content_length: u64,
    /// Left out in accounts that have no tiers.
    #[serde(default)]
    access_tier: String,
}

impl Azure {
    /// The files below a folder that lie in the archive, those on their way back among them.
    pub(super) async fn archived(&self, folder: &str) -> opendal::Result<Vec<ArchivedFile>> {
        let prefix = format!("{}{folder}", self.requests.prefix());
        let mut marker = String::new();
        let mut found = Vec::new();
        for _ in 0..PAGES_MAX {
            let all = [("comp", "list"), ("marker", &*marker), ("prefix", &*prefix), ("restype", "container")];
            let parameters: Vec<_> = all.into_iter().filter(|(_, value)| !value.is_empty()).collect();
            let answer = self.requests.on_container(Method::GET, &parameters).await?.succeeded()?;
            let page = page(&answer.body)?;
            for Listed { name, properties } in page.blobs.blob {
                let is_archived = properties.access_tier == ARCHIVE_TIER;
                if let Some(path) = name.strip_prefix(self.requests.prefix()).filter(|_| is_archived) {
                    found.push(ArchivedFile { path: path.into(), size_bytes: properties.content_length });
                }
            }
            if page.next_marker.is_empty() {
                return Ok(found);
            }
            marker = page.next_marker;
        }
        Err(opendal::Error::new(ErrorKind::Unexpected, "the listing of the container does not end"))
    }

    pub(super) async fn temperature(&self, path: &str) -> opendal::Result<Temperature> {
        let answer = self.requests.on_blob(Method::HEAD, path, &[], &[], Bytes::new()).await?.succeeded()?;
        Ok(temperature(&answer.headers))
    }

    /// Asks for a file, and says how far it is then. It leaves the archive: there are no days after which it goes back.
    pub(super) async fn thaw(&self, path: &str, request: &ThawRequest) -> opendal::Result<Temperature> {
        let as_it_is = self.temperature(path).await?;
        if as_it_is != Temperature::Frozen {
            return Ok(as_it_is);
        }
        let headers = [
            ("x-ms-access-tier", THAWED_TIER.to_string()),
            ("x-ms-rehydrate-priority", priority(request.speed).to_string()),
        ];
        let answer = self.requests.on_blob(Method::PUT, path, &[("comp", "tier")], &headers, Bytes::new()).await?;
        match answer.status {
            StatusCode::OK => Ok(Temperature::Readable),
            StatusCode::ACCEPTED => Ok(Temperature::Thawing),
            // An answer was lost, or another one has asked.
            StatusCode::CONFLICT if error_code(&answer) == "BlobBeingRehydrated" => Ok(Temperature::Thawing),
            _ => answer.succeeded().map(|_| Temperature::Thawing),
        }
    }
}

/// Azure has two; nothing is cheaper than `Standard`.
fn priority(speed: ThawSpeed) -> &'static str {
    match speed {
        ThawSpeed::Expedited => "High",
        ThawSpeed::Standard | ThawSpeed::Bulk => "Standard",
    }
}

fn temperature(headers: &HeaderMap) -> Temperature {
    let is_archived = header(headers, "x-ms-access-tier") == ARCHIVE_TIER;
    let is_on_its_way = header(headers, "x-ms-archive-status").starts_with("rehydrate-pending-to-");
    match (is_archived, is_on_its_way) {
        (false, _) => Temperature::Readable,
        (true, true) => Temperature::Thawing,
        (true, false) => Temperature::Frozen,
    }
}

fn page(xml: &[u8]) -> opendal::Result<Page> {
    let malformed = |_| opendal::Error::new(ErrorKind::Unexpected, "the listing is not the XML of Azure");
    quick_xml::de::from_reader(xml).map_err(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_say_how_far_a_file_is() {
        let check = |tier: &str, status: &str, expected: Temperature| {
            let mut headers = HeaderMap::new();
            let named = [("x-ms-access-tier", tier), ("x-ms-archive-status", status)];
            for (name, value) in named.into_iter().filter(|(_, value)| !value.is_empty()) {
                headers.insert(name, value.parse().unwrap());
            }
            assert_eq!(temperature(&headers), expected, "{tier} {status}");
        };
        check("", "", Temperature::Readable);
        check("Hot", "", Temperature::Readable);
        check("Cold", "", Temperature::Readable);
        check("Archive", "", Temperature::Frozen);
        check("Archive", "rehydrate-pending-to-hot", Temperature::Thawing);
        check("Archive", "rehydrate-pending-to-cool", Temperature::Thawing);
    }

    #[test]
    fn each_speed_has_a_priority() {
        for (speed, expected) in
            [(ThawSpeed::Expedited, "High"), (ThawSpeed::Standard, "Standard"), (ThawSpeed::Bulk, "Standard")]
        {
            assert_eq!(priority(speed), expected);
        }
    }

    #[test]
    fn a_listing_is_read() {
        let xml = b"<?xml version=\"1.0\" encoding=\"utf-8\"?>\
            <EnumerationResults ServiceEndpoint=\"https://mine.blob.core.windows.net/\" ContainerName=\"box\">\
            <Prefix>data/</Prefix><Blobs><Blob><Name>data/00/x</Name><Properties>\
            <Last-Modified>Fri, 26 Jun 2015 23:39:12 GMT</Last-Modified><Etag>0x8CBFF45D8A29A19</Etag>\
            <Content-Length>7</Content-Length><Content-Type>application/octet-stream</Content-Type>\
            <AccessTier>Archive</AccessTier><ArchiveStatus>rehydrate-pending-to-hot</ArchiveStatus></Properties></Blob>\
            <Blob><Name>data/01/y</Name><Properties><Content-Length>8</Content-Length></Properties></Blob></Blobs>\
            <NextMarker>a/b=</NextMarker></EnumerationResults>";
        let page = page(xml).unwrap();
        assert_eq!(page.next_marker, "a/b=");
        let listed: Vec<_> = page
            .blobs
            .blob
            .iter()
            .map(|Listed { name, properties }| (name.as_str(), properties.content_length, &*properties.access_tier))
            .collect();
        assert_eq!(listed, [("data/00/x", 7, "Archive"), ("data/01/y", 8, "")]);
        let last = super::page(b"<EnumerationResults><Blobs /><NextMarker /></EnumerationResults>").unwrap();
        assert!(last.blobs.blob.is_empty() && last.next_marker.is_empty());
        assert!(super::page(b"<html>").is_err());
    }
}
