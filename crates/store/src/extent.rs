//! Whether an HTTP answer is the whole file, or the part of it, that was asked for, as far as its head tells.
//!
//! Services, and what stands before them, cut answers, ignore ranges and mix them up. Whatever passes here is noticed
//! at the latest when it does not open; but then it is taken for damage of what is stored, and nobody asks again.

use std::ops::Range;

use http::header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, StatusCode};

/// The part of a file that a request asks for; `None` where it asks for all of it.
pub(crate) fn asked(request: &HeaderMap) -> Option<Range<u64>> {
    let (first, last) = text(request, RANGE)?.strip_prefix("bytes=")?.split_once('-')?;
    let end = if last.is_empty() { u64::MAX } else { last.parse::<u64>().ok()?.checked_add(1)? };
    Some(first.parse().ok()?..end)
}

/// Looks at the head of a successful answer that has a body.
///
/// # Errors
/// What is wrong with it, in words; the next answer may be right.
pub(crate) fn check(asked: Option<&Range<u64>>, status: StatusCode, headers: &HeaderMap) -> Result<(), String> {
    let length: Option<u64> = text(headers, CONTENT_LENGTH).and_then(|length| length.parse().ok());
    let is_chunked =
        text(headers, TRANSFER_ENCODING).is_some_and(|coding| coding.to_ascii_lowercase().ends_with("chunked"));
    if length.is_none() && !is_chunked {
        // It would end with the connection, and nobody could tell a broken one from the end.
        return Err("the answer doesn't say how long it is".into());
    }
    match (asked, status) {
        (None, StatusCode::PARTIAL_CONTENT) => Err("a part of the file came instead of all of it".into()),
        (None, _) => Ok(()),
        (Some(asked), StatusCode::PARTIAL_CONTENT) => {
            let Some(part) = Part::parse(headers) else {
                return Err("the answer doesn't say which part of the file it is".into());
            };
            let Range { start, end } = part.range;
            // A file that ends before is no fault of the answer.
            let is_right =
                start == asked.start && (end == asked.end || end < asked.end && part.file_bytes == Some(end));
            match length {
                _ if !is_right => Err(format!("the bytes from {start} to {end} came instead of {asked:?}")),
                Some(length) if length != end - start => {
                    Err(format!("{length} bytes came for those from {start} to {end}"))
                }
                _ => Ok(()),
            }
        }
        // All of a file may be answered as such.
        (Some(asked), _) if asked.start == 0 && length == Some(asked.end) => Ok(()),
        (Some(_), _) => Err("the server doesn't answer with the part of the file that was asked for".into()),
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim)
}

/// What `Content-Range` says (RFC 9110, 14.4).
struct Part {
    range: Range<u64>,
    /// `None` where the server doesn't say it.
    file_bytes: Option<u64>,
}

impl Part {
    fn parse(headers: &HeaderMap) -> Option<Self> {
        let (range, file_bytes) = text(headers, CONTENT_RANGE)?.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let range = first.parse().ok()?..last.parse::<u64>().ok()?.checked_add(1)?;
        let file_bytes = if file_bytes == "*" { None } else { Some(file_bytes.parse().ok()?) };
        // Some answer with an empty part where the file ends before what was asked for.
        (range.start <= range.end).then_some(Self { range, file_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        pairs.collect()
    }

    #[test]
    fn what_requests_ask_for() {
        let check = |range: &str, expected: Option<Range<u64>>| {
            assert_eq!(asked(&headers(&[("range", range)])), expected, "{range}");
        };
        check("bytes=0-9", Some(0..10));
        check("bytes=5-", Some(5..u64::MAX));
        check(&format!("bytes=0-{}", u64::MAX), None);
        check("bytes=-5", None);
        assert_eq!(asked(&HeaderMap::new()), None);
    }

    #[test]
    fn wrong_answers_are_noticed_at_their_heads() {
        const PART: &str = "content-range";
        const LENGTH: &str = "content-length";
        let right = |asked: Option<Range<u64>>, status: u16, pairs: &[(&'static str, &str)]| {
            check(asked.as_ref(), StatusCode::from_u16(status).unwrap(), &headers(pairs)).is_ok()
        };
        assert!(right(None, 200, &[(LENGTH, "7")]));
        assert!(right(None, 200, &[("transfer-encoding", "chunked")]));
        assert!(!right(None, 200, &[]));
        assert!(!right(None, 200, &[(LENGTH, "seven")]));
        assert!(!right(None, 206, &[(LENGTH, "7"), (PART, "bytes 0-6/9")]));

        assert!(right(Some(2..6), 206, &[(LENGTH, "4"), (PART, "bytes 2-5/9")]));
        assert!(right(Some(2..6), 206, &[(LENGTH, "4"), (PART, "bytes 2-5/*")]));
        assert!(right(Some(2..6), 206, &[("transfer-encoding", "Chunked"), (PART, "bytes 2-5/9")]));
        // The file is shorter than was thought.
        assert!(right(Some(2..6), 206, &[(LENGTH, "2"), (PART, "bytes 2-3/4")]));
        assert!(!right(Some(2..6), 206, &[(LENGTH, "2"), (PART, "bytes 2-3/9")]));
        assert!(!right(Some(2..6), 206, &[(LENGTH, "2"), (PART, "bytes 2-3/*")]));
        assert!(!right(Some(2..6), 206, &[(LENGTH, "3"), (PART, "bytes 2-5/9")]));
        assert!(!right(Some(2..6), 206, &[(LENGTH, "4"), (PART, "bytes 3-6/9")]));
        assert!(!right(Some(2..6), 206, &[(LENGTH, "5"), (PART, "bytes 2-6/9")]));
        assert!(!right(Some(2..6), 206, &[(LENGTH, "4")]));
        assert!(!right(Some(2..6), 206, &[(LENGTH, "4"), (PART, "bytes 6-5/9")]));
        assert!(!right(Some(2..6), 206, &[(LENGTH, "4"), (PART, &format!("bytes 2-{}/9", u64::MAX))]));

        assert!(right(Some(0..9), 200, &[(LENGTH, "9")]));
        assert!(!right(Some(0..8), 200, &[(LENGTH, "9")]));
        assert!(!right(Some(1..9), 200, &[(LENGTH, "9")]));
    }
}
