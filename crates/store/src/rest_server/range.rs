/// One range of the `Range` header (RFC 9110, 14.1.2). Several ranges at once are not served; such a
/// header is ignored and the whole file is answered, as the RFC allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Range {
    /// From the first byte, through the last when it is given.
    From { first: u64, last: Option<u64> },
    /// The last so many bytes.
    Suffix { length: u64 },
}

impl Range {
    pub(super) fn parse(header: &str) -> Option<Self> {
        let (first, last) = header.trim().strip_prefix("bytes=")?.split_once('-')?;
        let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
            true => text.parse::<u64>().ok(),
            false => None,
        };
        match (first, last) {
            ("", length) => Some(Range::Suffix { length: number(length)? }),
            (first, "") => Some(Range::From { first: number(first)?, last: None }),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Range::From { first, last: Some(last) })
            }
        }
    }

    /// Start and length in a file of `size` bytes; `None` when nothing of it is there.
    pub(super) fn within(self, size: u64) -> Option<(u64, usize)> {
        let (start, end) = match self {
            Range::From { first, last } => (first, last.map_or(size, |last| last.saturating_add(1).min(size))),
            Range::Suffix { length } => (size.saturating_sub(length), size),
        };
        let length = end.checked_sub(start).filter(|length| *length > 0)?;
        Some((start, usize::try_from(length).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_to_the_file() {
        let check = |header: &str, size: u64, expected: Option<(u64, usize)>| {
            assert_eq!(Range::parse(header).and_then(|range| range.within(size)), expected, "{header} of {size}");
        };
        check("bytes=0-9", 100, Some((0, 10)));
        check("bytes=90-200", 100, Some((90, 10)));
        check("bytes=5-", 6, Some((5, 1)));
        check("bytes=-4", 6, Some((2, 4)));
        check("bytes=-40", 6, Some((0, 6)));
        check("bytes=6-", 6, None);
        check("bytes=-0", 6, None);
        check("bytes=0-0", 0, None);
        check(&format!("bytes=1-{}", u64::MAX), 4, Some((1, 3)));
    }

    #[test]
    fn other_headers_are_no_range() {
        for header in ["", "bytes=", "bytes=-", "bytes=2-1", "bytes=0-1,4-5", "lines=0-1", "bytes=+1-2", "bytes=a-b"] {
            assert_eq!(Range::parse(header), None, "{header}");
        }
    }
}
