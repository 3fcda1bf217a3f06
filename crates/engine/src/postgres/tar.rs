//! Reading a tar stream as PostgreSQL writes it: ustar, with the extensions for long names and large sizes.

use std::io::{self, Read};

const BLOCK: usize = 512;
/// A long name or a pax header is never longer in a data directory.
const EXTENSION_SIZE_MAX: u64 = 64 << 10;

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink { target: String },
}

/// An entry's heading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative, without `.`, `..` or a final slash; empty for the archive's root.
    pub path: String,
    pub kind: Kind,
    pub size: u64,
    /// Permission bits only.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970.
    pub modified_s: i64,
}

/// A tar stream that can't be understood.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    #[error("reading an archive failed")]
    Read(#[from] io::Error),
    #[error("an archive is damaged: {0}")]
    Damaged(&'static str),
    #[error(
        "an archive has {path:?}, which is of type {kind:?}; a data directory has only files, directories and links"
    )]
    Unsupported { path: String, kind: char },
    #[error("an archive has the path {0:?}, which would lie outside")]
    Outside(String),
}

/// Reads entry after entry; the bytes of the current one through `Read`.
pub struct TarReader<R> {
    input: R,
    /// Of the current entry.
    left: u64,
    padding: usize,
}

impl<R: Read> TarReader<R> {
    pub fn new(input: R) -> Self {
        Self { input, left: 0, padding: 0 }
    }

    /// The next entry; what is left of the one before is skipped. `None` at the end.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_rest()?;
            let mut block = [0; BLOCK];
            if !self.read_block(&mut block)? {
                return Ok(None);
            }
            if block.iter().all(|byte| *byte == 0) {
                // Two blocks of zeros end an archive; nothing that matters comes after the first.
                io::copy(&mut self.input, &mut io::sink())?;
                return Ok(None);
            }
            check_sum(&block)?;
            let size = extensions.size.take().map_or_else(|| number(&block[124..136]), Ok)?;
            self.left = size;
            self.padding = (BLOCK - (size % BLOCK as u64) as usize) % BLOCK;
            match block[156] {
                b'L' => extensions.path = Some(terminated(&self.read_extension(size)?)?),
                b'K' => extensions.target = Some(terminated(&self.read_extension(size)?)?),
                b'x' => extensions.read_pax(&self.read_extension(size)?)?,
                b'g' => {}
                kind => return self.entry(&block, kind, size, extensions).map(Some),
            }
        }
    }

    fn entry(&mut self, block: &[u8; BLOCK], kind: u8, size: u64, extensions: Extensions) -> Result<Entry, TarError> {
        let path = match extensions.path {
            Some(path) => path,
            None => header_path(block)?,
        };
        let kind = match kind {
            b'0' | 0 => Kind::File,
            b'5' => Kind::Directory,
            b'2' => Kind::Symlink { target: extensions.target.map_or_else(|| terminated(&block[157..257]), Ok)? },
            other => return Err(TarError::Unsupported { path, kind: other.into() }),
        };
        if kind != Kind::File && size != 0 {
            return Err(TarError::Damaged("a directory or link with content"));
        }
        Ok(Entry {
            path: inside(&path)?,
            kind,
            size,
            mode: (number(&block[100..108])? & 0o7777) as u32,
            uid: number(&block[108..116])?.try_into().map_err(|_| TarError::Damaged("an owner out of range"))?,
            gid: number(&block[116..124])?.try_into().map_err(|_| TarError::Damaged("a group out of range"))?,
            modified_s: number(&block[136..148])?.try_into().map_err(|_| TarError::Damaged("a time out of range"))?,
        })
    }

    fn skip_rest(&mut self) -> Result<(), TarError> {
        let rest = self.left + self.padding as u64;
        let skipped = io::copy(&mut (&mut self.input).take(rest), &mut io::sink())?;
        // The padding of the very last entry may be missing.
        if skipped < self.left {
            return Err(TarError::Damaged("it ends inside a file"));
        }
        (self.left, self.padding) = (0, 0);
        Ok(())
    }

    /// False at a clean end.
    fn read_block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, TarError> {
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(TarError::Damaged("it ends inside a heading")),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    fn read_extension(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > EXTENSION_SIZE_MAX {
            return Err(TarError::Damaged("a name that is too long"));
        }
        let mut content = Vec::new();
        self.read_to_end(&mut content)?;
        Ok(content)
    }
}

impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let read = self.input.read(&mut buffer[..want])?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, TarError::Damaged("it ends inside a file")));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// What headers before an entry say about it.
#[derive(Default)]
struct Extensions {
    path: Option<String>,
    target: Option<String>,
    size: Option<u64>,
}

impl Extensions {
    /// Records of the form `LENGTH KEY=VALUE\n`, where the length counts itself.
    fn read_pax(&mut self, mut content: &[u8]) -> Result<(), TarError> {
        let damaged = || TarError::Damaged("a pax header");
        while !content.is_empty() {
            let space = content.iter().position(|byte| *byte == b' ').ok_or_else(damaged)?;
            let length: usize = text(&content[..space])?.parse().map_err(|_| damaged())?;
            let record =
                content.get(space + 1..length).and_then(|record| record.strip_suffix(b"\n")).ok_or_else(damaged)?;
            let (key, value) = text(record)?.split_once('=').ok_or_else(damaged)?;
            match key {
                "path" => self.path = Some(value.to_owned()),
                "linkpath" => self.target = Some(value.to_owned()),
                "size" => self.size = Some(value.parse().map_err(|_| damaged())?),
                _ => {}
            }
            content = &content[length..];
        }
        Ok(())
    }
}

fn text(bytes: &[u8]) -> Result<&str, TarError> {
    std::str::from_utf8(bytes).map_err(|_| TarError::Damaged("a name that is not UTF-8"))
}

fn terminated(bytes: &[u8]) -> Result<String, TarError> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    text(&bytes[..end]).map(str::to_owned)
}

fn header_path(block: &[u8; BLOCK]) -> Result<String, TarError> {
    let name = terminated(&block[..100])?;
    // Only ustar has a prefix; the older form has other things there.
    let prefix = if block[257..262] == *b"ustar" { terminated(&block[345..500])? } else { String::new() };
    Ok(if prefix.is_empty() { name } else { format!("{prefix}/{name}") })
}

/// Octal digits, or a big-endian number after a byte 0x80.
fn number(field: &[u8]) -> Result<u64, TarError> {
    let damaged = || TarError::Damaged("a number in a heading");
    if let [0x80, rest @ ..] = field {
        let fold = |value: u64, byte: &u8| value.checked_mul(256)?.checked_add((*byte).into());
        return rest.iter().try_fold(0u64, fold).ok_or_else(damaged);
    }
    let digits = terminated(field)?;
    let digits = digits.trim();
    if digits.is_empty() {
        return Ok(0);
    }
    if !digits.bytes().all(|byte| (b'0'..=b'7').contains(&byte)) {
        return Err(damaged());
    }
    u64::from_str_radix(digits, 8).map_err(|_| damaged())
}

/// The sum of all bytes, with the sum's own field as spaces.
fn check_sum(block: &[u8; BLOCK]) -> Result<(), TarError> {
    let sum: u64 =
        block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) }).sum();
    if number(&block[148..156])? == sum { Ok(()) } else { Err(TarError::Damaged("a heading's sum is wrong")) }
}

fn inside(path: &str) -> Result<String, TarError> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" if parts.is_empty() && path.starts_with('/') => return Err(TarError::Outside(path.into())),
            ".." => return Err(TarError::Outside(path.into())),
            "" | "." => {}
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;

    fn read_all(archive: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
        let mut reader = TarReader::new(archive);
        let mut entries = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            let mut content = Vec::new();
            reader.read_to_end(&mut content)?;
            entries.push((entry, content));
        }
        Ok(entries)
    }

    fn archive_of_a_folder(format: &str) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let long = "a-rather-long-name/".repeat(8);
        std::fs::create_dir_all(folder.path().join(&long)).unwrap();
        std::fs::write(folder.path().join(&long).join("file"), b"hello").unwrap();
        std::fs::write(folder.path().join("empty"), b"").unwrap();
        std::os::unix::fs::symlink("/srv/space", folder.path().join("link")).unwrap();
        let output = Command::new("tar")
            .args(["--sort=name", &format!("--format={format}"), "-C"])
            .arg(folder.path())
            .args(["-cf", "-", "."])
            .stdout(Stdio::piped())
            .output()
            .unwrap();
        assert!(output.status.success());
        output.stdout
    }

    #[test]
    fn every_form_of_long_names_is_read() {
        for format in ["gnu", "posix", "ustar"] {
            let entries = read_all(&archive_of_a_folder(format)).unwrap();
            assert_eq!(entries[0].0.path, "", "{format}");
            let file = entries.iter().find(|(entry, _)| entry.path.ends_with("/file")).unwrap();
            assert_eq!(file.0.path, format!("{}file", "a-rather-long-name/".repeat(8)));
            assert_eq!(file.1, b"hello");
            let link = entries.iter().find(|(entry, _)| entry.path == "link").unwrap();
            assert_eq!(link.0.kind, Kind::Symlink { target: "/srv/space".into() });
            assert_eq!(entries.len(), 12, "{format}");
        }
    }

    #[test]
    fn a_cut_archive_is_an_error_wherever_it_is_cut_inside_an_entry() {
        let archive = archive_of_a_folder("ustar");
        let file_at = archive.windows(5).position(|window| window == b"hello").unwrap();
        assert!(read_all(&archive[..file_at + 2]).is_err());
        assert!(read_all(&archive[..100]).is_err());
    }

    #[test]
    fn paths_that_leave_the_folder_are_refused() {
        for bad in ["/etc/passwd", "a/../../b", ".."] {
            assert!(inside(bad).is_err(), "{bad}");
        }
        assert_eq!(inside("./base//1/").unwrap(), "base/1");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(archive in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let _ = read_all(&archive);
        }

        #[test]
        fn no_damage_makes_it_panic(changes in proptest::collection::vec((0usize..4096, any::<u8>()), 1..20)) {
            let mut archive = archive_with_fixed_content();
            for (at, byte) in changes {
                archive[at] = byte;
            }
            // With the sums put right, damage reaches the parts behind the check.
            for block in archive.chunks_mut(BLOCK) {
                block[148..156].fill(b' ');
                let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
            let _ = read_all(&archive);
        }
    }

    fn archive_with_fixed_content() -> Vec<u8> {
        let mut archive = vec![0; 4096];
        for block in archive.chunks_mut(BLOCK) {
            block[..4].copy_from_slice(b"file");
            block[124..136].copy_from_slice(b"00000000000\0");
            block[156] = b'x';
            block[257..262].copy_from_slice(b"ustar");
        }
        archive
    }
}
