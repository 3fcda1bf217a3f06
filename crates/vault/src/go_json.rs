//! Strings as Go writes them: `strconv.Quote` for names, `encoding/json` around everything.
//!
//! Two programs share a directory's blob only when they write it byte for byte alike.

/// Writes a JSON string as Go's `encoding/json` does: also `<`, `>`, `&`, U+2028 and U+2029 are
/// escaped, and every byte that isn't UTF-8 becomes `\ufffd`.
pub(crate) fn write_string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    // Nearly all of what stands in a directory needs nothing.
    let plain = text.iter().position(|byte| !is_plain(*byte)).unwrap_or(text.len());
    out.extend_from_slice(&text[..plain]);
    for chunk in text[plain..].utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' | '\\' => out.extend([b'\\', character as u8]),
                '\n' => out.extend(b"\\n"),
                '\r' => out.extend(b"\\r"),
                '\t' => out.extend(b"\\t"),
                '\0'..='\x1f' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                    out.extend(format!("\\u{:04x}", u32::from(character)).bytes());
                }
                _ => out.extend(character.encode_utf8(&mut [0; 4]).bytes()),
            }
        }
        for _ in chunk.invalid() {
            out.extend(b"\\ufffd");
        }
    }
    out.push(b'"');
}

/// Whether a byte stands for itself, both in Go's JSON and between its quotes.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\' | b'<' | b'>' | b'&')
}

/// Writes a name as a JSON string that holds what stands between the quotes of Go's `strconv.Quote`.
pub(crate) fn write_quoted(out: &mut Vec<u8>, name: &[u8]) {
    if name.iter().all(|byte| is_plain(*byte)) {
        write_string(out, name);
    } else {
        write_string(out, quote(name).as_bytes());
    }
}

/// What stands between the quotes of Go's `strconv.Quote`.
pub(crate) fn quote(name: &[u8]) -> String {
    let mut out = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                ' '..='~' => out.push(character),
                '\x07' => out.push_str("\\a"),
                '\x08' => out.push_str("\\b"),
                '\x0c' => out.push_str("\\f"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\x0b' => out.push_str("\\v"),
                '\0'..='\x1f' | '\x7f' => out.push_str(&format!("\\x{:02x}", u32::from(character))),
                _ if is_printable(character) => out.push(character),
                '\0'..='\u{ffff}' => out.push_str(&format!("\\u{:04x}", u32::from(character))),
                _ => out.push_str(&format!("\\U{:08x}", u32::from(character))),
            }
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

/// Whether Go's `strconv.IsPrint` holds: letters, marks, numbers, punctuation and symbols.
///
/// Rust's `Debug` for strings draws the same line, but for characters that one of the two Unicode
/// versions doesn't know yet. Such a name reads back the same; only its blob isn't shared.
fn is_printable(character: char) -> bool {
    // Behind a letter, so that a combining mark isn't escaped for standing at the start.
    let mut text = String::from("a");
    text.push(character);
    text.escape_debug().nth(1) == Some(character)
}

/// Undoes `quote`; `None` when it isn't what Go's `strconv.Unquote` accepts between double quotes.
pub(crate) fn unquote(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(position) = rest.find(['\\', '"', '\n']) {
        out.extend(&rest.as_bytes()[..position]);
        let escape = rest[position..].strip_prefix('\\')?;
        let kind = escape.chars().next()?;
        let after = &escape[kind.len_utf8()..];
        let digits = |count: usize, radix: u32| -> Option<u32> {
            let digits = after.get(..count)?;
            digits.chars().all(|c| c.is_digit(radix)).then(|| u32::from_str_radix(digits, radix).ok())?
        };
        let mut used = 0;
        match kind {
            'a' => out.push(0x07),
            'b' => out.push(0x08),
            'f' => out.push(0x0c),
            'n' => out.push(b'\n'),
            'r' => out.push(b'\r'),
            't' => out.push(b'\t'),
            'v' => out.push(0x0b),
            '\\' | '"' => out.push(kind as u8),
            'x' => {
                used = 2;
                out.push(digits(2, 16)? as u8);
            }
            'u' | 'U' => {
                used = if kind == 'u' { 4 } else { 8 };
                let character = char::from_u32(digits(used, 16)?)?;
                out.extend(character.encode_utf8(&mut [0; 4]).bytes());
            }
            '0'..='7' => {
                let octal = escape.get(..3).filter(|digits| digits.chars().all(|c| c.is_digit(8)))?;
                out.push(u8::try_from(u32::from_str_radix(octal, 8).ok()?).ok()?);
                used = 2;
            }
            _ => return None,
        }
        rest = after.get(used..)?;
    }
    out.extend(rest.as_bytes());
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn json_strings_are_go_s() {
        let check = |text: &[u8], expected: &str| {
            let mut out = Vec::new();
            write_string(&mut out, text);
            assert_eq!(String::from_utf8(out).unwrap(), format!("\"{expected}\""));
        };
        check(b"plain", "plain");
        check("ä€😀".as_bytes(), "ä€😀");
        check(b"<a>&\"\\", "\\u003ca\\u003e\\u0026\\\"\\\\");
        check(b"\n\r\t\x01\x08\x7f", "\\n\\r\\t\\u0001\\u0008\x7f");
        check("\u{2028}\u{2029}".as_bytes(), "\\u2028\\u2029");
        check(b"a\xff\xe2\x82z", "a\\ufffd\\ufffd\\ufffdz");
    }

    /// The expected texts are those of Go's strconv.Quote.
    #[test]
    fn names_are_quoted_as_go_does() {
        let check = |name: &[u8], expected: &str| {
            assert_eq!(quote(name), expected);
            assert_eq!(unquote(expected).as_deref(), Some(name));
        };
        check(b"plain.txt", "plain.txt");
        check(b"a\"b\\c", "a\\\"b\\\\c");
        check(b"\x07\x08\x0c\n\r\t\x0b\x00\x1f\x7f", "\\a\\b\\f\\n\\r\\t\\v\\x00\\x1f\\x7f");
        check("ü☺日本".as_bytes(), "ü☺日本");
        check("e\u{301}".as_bytes(), "e\u{301}");
        check("\u{a0}\u{ad}\u{200b}\u{feff}\u{3000}".as_bytes(), "\\u00a0\\u00ad\\u200b\\ufeff\\u3000");
        check("\u{e0001}\u{10ffff}".as_bytes(), "\\U000e0001\\U0010ffff");
        check(b"\xff\xed\xa0\x80", "\\xff\\xed\\xa0\\x80");
        check(b"'", "'");
    }

    #[test]
    fn malformed_quotes_are_refused() {
        for bad in
            ["\\", "\\q", "\\x1", "\\xzz", "\\u12", "\\ud800", "\\U00110000", "a\"b", "a\nb", "\\'", "\\400", "\\x+1"]
        {
            assert_eq!(unquote(bad), None, "{bad}");
        }
        assert_eq!(unquote("\\101").as_deref(), Some(&b"A"[..]));
    }

    proptest! {
        #[test]
        fn any_name_comes_back(name in prop::collection::vec(any::<u8>(), 0..40)) {
            let quoted = quote(&name);
            prop_assert_eq!(unquote(&quoted), Some(name));
            let mut json = Vec::new();
            write_string(&mut json, quoted.as_bytes());
            let parsed: String = serde_json::from_slice(&json).unwrap();
            prop_assert_eq!(parsed, quoted);
        }

        #[test]
        fn no_text_makes_unquoting_panic(text in "(\\\\|[a-z0-9\"ü]){0,12}") {
            let _ = unquote(&text);
        }
    }
}
