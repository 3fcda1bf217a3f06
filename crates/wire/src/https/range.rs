//! One range of a file, as a request asks for it and as an answer tells it (RFC 9110, 14).

/// What a `Range` header asks for. Several ranges at once are none: whoever answers may send the whole file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// From the first byte through the last; without one, to the end.
    From { first: u64, last: Option<u64> },
    /// The last so many bytes.
    Last(u64),
}

impl Wanted {
    pub(super) fn parse(header: &str) -> Option<Self> {
        let (first, last) = header.trim().strip_prefix("bytes=")?.split_once('-')?;
        match (first, last) {
            ("", length) => Some(Self::Last(number(length)?)),
            (first, "") => Some(Self::From { first: number(first)?, last: None }),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::From { first, last: Some(last) })
            }
        }
    }
}

/// The first byte and the size of the file of a `Content-Range` header.
pub(super) fn first_and_size(header: &str) -> Option<(u64, u64)> {
    let (range, size) = header.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, size) = (number(first)?, number(last)?, number(size)?);
    (first <= last && last < size).then_some((first, size))
}

/// Without the sign that `parse` takes.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        let from = |first, last| Some(Wanted::From { first, last });
        assert_eq!(Wanted::parse("bytes=2-9"), from(2, Some(9)));
        assert_eq!(Wanted::parse("bytes=0-"), from(0, None));
        assert_eq!(Wanted::parse("bytes=-7"), Some(Wanted::Last(7)));
        for header in ["", "bytes=", "bytes=-", "bytes=2-1", "bytes=0-1,4-5", "lines=0-1", "bytes=+1-2", "bytes=a-b"] {
            assert_eq!(Wanted::parse(header), None, "{header}");
        }
    }

    #[test]
    fn content_ranges_are_read() {
        assert_eq!(first_and_size("bytes 2-9/10"), Some((2, 10)));
        for header in ["", "bytes */10", "bytes 2-10/10", "bytes 9-2/10", "bytes 2-9/*", "2-9/10"] {
            assert_eq!(first_and_size(header), None, "{header}");
        }
    }
}
