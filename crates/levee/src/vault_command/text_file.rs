//! Text that editors of every system write: lists of patterns and paths, passwords.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, bail};
use zeroize::Zeroizing;

/// A list longer than this is a mistake.
const TEXT_BYTES_MAX: u64 = 1 << 30;

/// Reads a file, or standard input for `-`.
pub fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut content = Vec::new();
    let unreadable = || format!("cannot read {}", path.display());
    if path.as_os_str() == "-" {
        io::stdin().lock().take(TEXT_BYTES_MAX + 1).read_to_end(&mut content).with_context(unreadable)?;
    } else {
        let file = File::open(path).with_context(unreadable)?;
        file.take(TEXT_BYTES_MAX + 1).read_to_end(&mut content).with_context(unreadable)?;
    }
    if content.len() as u64 > TEXT_BYTES_MAX {
        bail!("{} is larger than a list of paths can be", path.display());
    }
    Ok(content)
}

/// Takes away a byte order mark; with one of UTF-16, gives the text in UTF-8. `None` when that is not sound.
pub fn decoded(content: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let (pairs, rest) = bytes.as_chunks::<2>();
        let units: Zeroizing<Vec<u16>> = Zeroizing::new(pairs.iter().map(|pair| unit(*pair)).collect());
        let text = String::from_utf16(&units).ok().filter(|_| rest.is_empty())?;
        Some(Zeroizing::new(text.into_bytes()))
    };
    match content {
        [0xef, 0xbb, 0xbf, rest @ ..] => Some(Zeroizing::new(rest.to_vec())),
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        _ => Some(Zeroizing::new(content.to_vec())),
    }
}

/// The lines of a list, without comments, blank lines and the space around each.
pub fn lines(path: &Path) -> anyhow::Result<Vec<String>> {
    let content = read(path)?;
    let text = decoded(&content).and_then(|text| String::from_utf8(text.to_vec()).ok());
    let Some(text) = text.filter(|text| !text.contains('\0')) else {
        bail!("{} is not a text file", path.display());
    };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines.map(String::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_order_marks_are_taken_away() {
        let check = |content: &[u8], expected: Option<&[u8]>| {
            assert_eq!(decoded(content).as_ref().map(|text| text.as_slice()), expected, "{content:?}");
        };
        check(b"plain", Some(b"plain"));
        check(b"gr\xfc\xdfe", Some(b"gr\xfc\xdfe"));
        check(b"\xef\xbb\xbfx", Some(b"x"));
        check(b"\xff\xfex\0\xe4\0", Some("xä".as_bytes()));
        check(b"\xfe\xff\0x\0\xe4", Some("xä".as_bytes()));
        check(b"\xff\xfex", None);
        check(b"\xff\xfe\x00\xd8", None);
    }
}
