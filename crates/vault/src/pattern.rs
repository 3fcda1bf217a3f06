//! Patterns of paths, as restic's `--exclude` and `--include` have them.
//!
//! A pattern is cut at its slashes, and each part matches one name as Go's `filepath.Match` does; `**`
//! stands for any number of names. A pattern that begins with a slash is anchored; any other may match
//! anywhere in a path. What lies below a match matches as well. `!` takes earlier matches back.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use crate::{Error, Result};

/// A list of patterns, of which the later ones decide, and a second one that takes capitals and small
/// letters for the same. What either matches is matched.
#[derive(Clone, Debug, Default)]
pub(crate) struct Patterns {
    exact: Vec<Pattern>,
    folded: Vec<Pattern>,
}

#[derive(Clone, Debug)]
struct Pattern {
    parts: Vec<Vec<u8>>,
    anchored: bool,
    negated: bool,
}

impl Patterns {
    pub fn parse(patterns: &[String]) -> Result<Self> {
        Ok(Self { exact: parse_list(patterns)?, folded: Vec::new() })
    }

    /// Adds patterns that ignore case, as restic's `--iexclude` and `--iinclude` have them.
    pub fn and_ignoring_case(self, patterns: &[String]) -> Result<Self> {
        let lower: Vec<String> = patterns.iter().map(|pattern| pattern.to_lowercase()).collect();
        Ok(Self { folded: parse_list(&lower)?, ..self })
    }

    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.folded.is_empty()
    }

    pub fn matches(&self, path: &Path) -> bool {
        let is_name = |component| match component {
            Component::Normal(name) => Some(name.as_bytes()),
            _ => None,
        };
        let names: Vec<&[u8]> = path.components().filter_map(is_name).collect();
        if decide(&self.exact, &names) {
            return true;
        }
        if self.folded.is_empty() {
            return false;
        }
        let lower: Vec<Vec<u8>> = names.iter().map(|name| in_lower_case(name)).collect();
        decide(&self.folded, &lower.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }
}

fn parse_list(patterns: &[String]) -> Result<Vec<Pattern>> {
    patterns.iter().map(|pattern| Pattern::parse(pattern)).collect()
}

fn decide(patterns: &[Pattern], names: &[&[u8]]) -> bool {
    patterns.iter().fold(false, |matched, pattern| match (matched, pattern.negated) {
        (false, false) => pattern.matches(names),
        (true, true) => !pattern.matches(names),
        _ => matched,
    })
}

fn in_lower_case(name: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(name) {
        Ok(name) => name.to_lowercase().into_bytes(),
        Err(_) => name.to_ascii_lowercase(),
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Self> {
        let bad = |reason| Err(Error::Pattern { pattern: text.into(), reason });
        let (negated, body) = match text.strip_prefix('!') {
            Some(body) => (true, body),
            None => (false, text),
        };
        let parts: Vec<Vec<u8>> =
            body.split('/').filter(|part| !part.is_empty() && *part != ".").map(|part| part.into()).collect();
        if parts.is_empty() {
            return bad("it is empty");
        }
        if !parts.iter().all(|part| is_well_formed(part)) {
            return bad("a '[' is not closed, or it ends in a backslash");
        }
        Ok(Self { parts, anchored: body.starts_with('/'), negated })
    }

    fn matches(&self, names: &[&[u8]]) -> bool {
        let last_start = if self.anchored { 0 } else { names.len() };
        (0..=last_start).any(|start| starts_with(&self.parts, &names[start..]))
    }
}

/// Whether the first names match the parts.
fn starts_with(parts: &[Vec<u8>], names: &[&[u8]]) -> bool {
    match parts.split_first() {
        None => true,
        Some((part, rest)) if part == b"**" => (0..=names.len()).any(|skipped| starts_with(rest, &names[skipped..])),
        Some((part, rest)) => match names.split_first() {
            Some((name, names)) => name_matches(part, name) && starts_with(rest, names),
            None => false,
        },
    }
}

fn is_well_formed(part: &[u8]) -> bool {
    let mut rest = part;
    while let Some((&byte, after)) = rest.split_first() {
        rest = match byte {
            b'\\' if after.is_empty() => return false,
            b'\\' => &after[1..],
            b'[' => match parse_class(after, 0) {
                Some((_, after)) => after,
                None => return false,
            },
            _ => after,
        };
    }
    true
}

/// Whether a byte is in a class like `[a-z]` or `[^abc]`, and what follows the class. `None` when it is
/// malformed. `class` begins behind the bracket.
fn parse_class(class: &[u8], byte: u8) -> Option<(bool, &[u8])> {
    let (negated, mut rest) = match class.strip_prefix(b"^") {
        Some(rest) => (true, rest),
        None => (false, class),
    };
    let member = |rest: &mut &[u8]| -> Option<u8> {
        let (&first, after) = rest.split_first()?;
        *rest = after;
        if first != b'\\' {
            return Some(first);
        }
        let (&escaped, after) = rest.split_first()?;
        *rest = after;
        Some(escaped)
    };
    let (mut found, mut is_first) = (false, true);
    loop {
        if let (Some(after), false) = (rest.strip_prefix(b"]"), is_first) {
            return Some((found != negated, after));
        }
        is_first = false;
        let low = member(&mut rest)?;
        let high = match rest.strip_prefix(b"-") {
            Some(after) => {
                rest = after;
                member(&mut rest)?
            }
            None => low,
        };
        found |= (low..=high).contains(&byte);
    }
}

fn name_matches(part: &[u8], name: &[u8]) -> bool {
    let Some((&byte, after)) = part.split_first() else { return name.is_empty() };
    if byte == b'*' {
        return (0..=name.len()).any(|skipped| name_matches(after, &name[skipped..]));
    }
    let Some((&first, rest)) = name.split_first() else { return false };
    match byte {
        b'?' => {
            // One character, which may be several bytes.
            let width =
                name.utf8_chunks().next().and_then(|chunk| chunk.valid().chars().next()).map_or(1, char::len_utf8);
            name_matches(after, &name[width..])
        }
        b'[' => parse_class(after, first).is_some_and(|(found, after)| found && name_matches(after, rest)),
        b'\\' => after.split_first().is_some_and(|(&byte, after)| byte == first && name_matches(after, rest)),
        _ => byte == first && name_matches(after, rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_restic_s_do() {
        let check = |patterns: &[&str], path: &str, expected: bool| {
            let patterns: Vec<String> = patterns.iter().map(|pattern| pattern.to_string()).collect();
            assert_eq!(Patterns::parse(&patterns).unwrap().matches(Path::new(path)), expected, "{patterns:?} {path}");
        };
        check(&["*.go"], "/home/user/foo/test.go", true);
        check(&["*.go"], "/home/user/foo/test.c", false);
        check(&["foo.go"], "/home/user/foo.go/below", true);
        check(&["/foo"], "/foo/bar", true);
        check(&["/foo"], "/home/foo", false);
        check(&["foo/bar"], "/a/foo/bar/b", true);
        check(&["foo/bar"], "/a/foo/x/bar", false);
        check(&["foo/**/bar"], "/a/foo/x/y/bar", true);
        check(&["foo/**/bar"], "/a/foo/bar", true);
        check(&["/**/test.*"], "/a/b/test.c", true);
        check(&["te?t"], "test", true);
        check(&["te?t"], "teßt", true);
        check(&["[a-c]x"], "/bx", true);
        check(&["[^a-c]x"], "/bx", false);
        check(&["a\\*b"], "a*b", true);
        check(&["a\\*b"], "axb", false);
        check(&["*.log", "!keep.log"], "/var/x.log", true);
        check(&["*.log", "!keep.log"], "/var/keep.log", false);
        check(&[], "/anything", false);
    }

    #[test]
    fn case_is_ignored_where_it_is_asked_for() {
        let patterns = Patterns::parse(&["*.TMP".into()]).unwrap().and_ignoring_case(&["*.Jpg".into()]).unwrap();
        let matches = |path: &str| patterns.matches(Path::new(path));
        assert!(matches("/a/X.jPG") && matches("/a/x.TMP") && !matches("/a/x.tmp") && !matches("/a/x.png"));
        let umlauts = Patterns::default().and_ignoring_case(&["ÄÖ*".into()]).unwrap();
        assert!(umlauts.matches(Path::new("äöü")) && !umlauts.matches(Path::new("aou")));
    }

    #[test]
    fn malformed_patterns_are_refused() {
        for bad in ["", "!", "/", "[a", "a\\", "[]", "[a-"] {
            assert!(matches!(Patterns::parse(&[bad.into()]), Err(Error::Pattern { .. })), "{bad}");
        }
    }
}
