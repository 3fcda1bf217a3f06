//! Listings, in small pages: `ListObjectsV2` of OSS, `GET Bucket` of COS, `ListObjects` of OBS.

use std::collections::BTreeMap;
use std::ops::Bound;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::messages::{Answer, Request, encoded, escaped};
use super::{Cloud, Refusal};

/// Small, so that every listing of a vault has several pages. The services give up to 1000.
const PAGE_KEYS_MAX: usize = 7;
/// What may be asked for at most.
const ASKED_KEYS_MAX: usize = 1000;

#[derive(Default)]
struct Page {
    contents: Vec<(String, Vec<u8>)>,
    prefixes: Vec<String>,
    /// The last one of either kind.
    last: String,
    is_truncated: bool,
}

/// The page, and whether it is one after the first.
pub(super) fn list(
    cloud: Cloud,
    request: &Request,
    objects: &BTreeMap<String, Vec<u8>>,
) -> Result<(Answer, bool), Refusal> {
    let invalid = |message: String| Refusal::new(400, "InvalidArgument", message);
    let own: &[&str] = match cloud {
        Cloud::Oss => &["list-type", "continuation-token", "start-after"],
        Cloud::Cos | Cloud::Obs => &["marker"],
    };
    let known = ["prefix", "delimiter", "max-keys", "encoding-type"];
    if let Some((name, _)) = request.query.iter().find(|(name, _)| {
        let name = name.as_str();
        !own.contains(&name) && !known.contains(&name)
    }) {
        return Err(invalid(format!("there is no parameter {name}")));
    }
    if cloud == Cloud::Oss && request.parameter("list-type") != Some("2") {
        return Err(invalid("only version 2 of listings is known here".into()));
    }
    let asked = request.parameter("max-keys").map_or(Ok(ASKED_KEYS_MAX), str::parse::<usize>);
    let asked = asked.ok().filter(|asked| (1..=ASKED_KEYS_MAX).contains(asked));
    let asked = asked.ok_or_else(|| invalid("max-keys is a number up to 1000".into()))?;
    let name_of_after = if cloud == Cloud::Oss { "continuation-token" } else { "marker" };
    let further = request.parameter(name_of_after);
    let after = match (cloud, further) {
        (Cloud::Oss, Some(token)) => {
            let bytes = BASE64_STANDARD.decode(token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            bytes.ok_or_else(|| invalid("there is no such continuation-token".into()))?
        }
        (Cloud::Oss, None) => request.parameter("start-after").unwrap_or_default().to_string(),
        (_, marker) => marker.unwrap_or_default().to_string(),
    };
    let (prefix, delimiter) =
        (request.parameter("prefix").unwrap_or_default(), request.parameter("delimiter").unwrap_or_default());
    let page = page(objects, prefix, delimiter, &after, asked.min(PAGE_KEYS_MAX));
    Ok((Answer::xml(200, text(cloud, request, &page, asked)), further.is_some()))
}

fn page(objects: &BTreeMap<String, Vec<u8>>, prefix: &str, delimiter: &str, after: &str, keys_max: usize) -> Page {
    let mut page = Page::default();
    for (key, content) in objects.range::<str, _>((Bound::Excluded(after), Bound::Unbounded)) {
        let Some(rest) = key.strip_prefix(prefix) else { continue };
        let first = if delimiter.is_empty() { None } else { rest.split_once(delimiter).map(|(first, _)| first) };
        let group = first.map(|first| format!("{prefix}{first}{delimiter}"));
        if let Some(group) = &group
            && (page.prefixes.last() == Some(group) || after.starts_with(group.as_str()))
        {
            continue;
        }
        if page.contents.len() + page.prefixes.len() == keys_max {
            page.is_truncated = true;
            break;
        }
        page.last = group.clone().unwrap_or_else(|| key.clone());
        match group {
            Some(group) => page.prefixes.push(group),
            None => page.contents.push((key.clone(), content.clone())),
        }
    }
    page
}

fn text(cloud: Cloud, request: &Request, page: &Page, asked: usize) -> String {
    let is_encoded = request.parameter("encoding-type") == Some("url");
    let shown = |text: &str| if is_encoded { encoded(text, "/") } else { escaped(text) };
    let parameter = |name: &str| shown(request.parameter(name).unwrap_or_default());
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult><Name>{}</Name><Prefix>{}</Prefix>\
         <MaxKeys>{asked}</MaxKeys><Delimiter>{}</Delimiter><IsTruncated>{}</IsTruncated>",
        cloud.bucket(),
        parameter("prefix"),
        parameter("delimiter"),
        page.is_truncated,
    );
    if is_encoded {
        text.push_str("<EncodingType>url</EncodingType>");
    }
    match cloud {
        Cloud::Oss => {
            text.push_str(&format!("<KeyCount>{}</KeyCount>", page.contents.len() + page.prefixes.len()));
            if page.is_truncated {
                let token = BASE64_STANDARD.encode(&page.last);
                text.push_str(&format!("<NextContinuationToken>{token}</NextContinuationToken>"));
            }
        }
        Cloud::Cos | Cloud::Obs => {
            text.push_str(&format!("<Marker>{}</Marker>", parameter("marker")));
            if page.is_truncated {
                text.push_str(&format!("<NextMarker>{}</NextMarker>", shown(&page.last)));
            }
        }
    }
    for (key, content) in &page.contents {
        text.push_str(&format!(
            "<Contents><Key>{}</Key><LastModified>2026-11-28T06:00:00.000Z</LastModified><ETag>{}</ETag>\
             <Size>{}</Size><StorageClass>STANDARD</StorageClass></Contents>",
            shown(key),
            super::etag(content),
            content.len(),
        ));
    }
    for prefix in &page.prefixes {
        text.push_str(&format!("<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", shown(prefix)));
    }
    text + "</ListBucketResult>"
}
