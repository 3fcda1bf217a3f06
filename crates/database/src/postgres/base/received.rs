use std::collections::BTreeMap;
use std::io::{self, Read};

use levee_engine::postgres::manifest::{Algorithm, Hasher, Manifest};
use levee_engine::postgres::page::{PAGE_SIZE, PageState, check};
use levee_model::postgres::Lsn;

use crate::{Error, Result};

/// What was received, to be compared with the backup's manifest.
#[derive(Default)]
pub(super) struct Received {
    files: BTreeMap<String, (u64, Vec<u8>)>,
}

impl Received {
    pub(super) fn add(&mut self, path: String, bytes: u64, checksum: Vec<u8>) {
        self.files.insert(path, (bytes, checksum));
    }

    /// Every file of the manifest must be here, with its size and checksum, and no other.
    pub(super) fn compare(mut self, manifest: &Manifest) -> Result<()> {
        let mut problems = Vec::new();
        for (path, expected) in &manifest.files {
            match self.files.remove(path) {
                None => problems.push(format!("{path} is missing")),
                Some((bytes, _)) if bytes != expected.size => {
                    problems.push(format!("{path} has {bytes} bytes instead of {}", expected.size));
                }
                Some((_, sum)) => match &expected.checksum {
                    Some(checksum) if checksum.algorithm == Algorithm::Crc32c && checksum.value == sum => {}
                    Some(checksum) if checksum.algorithm == Algorithm::Crc32c => {
                        problems.push(format!("{path} has another checksum"));
                    }
                    _ => problems.push(format!("{path} has no CRC32C in the manifest, although it was asked for")),
                },
            }
        }
        // The log's folder is not covered by manifests.
        let extra = self.files.keys().filter(|path| !path.starts_with("pg_wal/"));
        problems.extend(extra.map(|path| format!("{path} is not in the manifest")));
        match problems.first() {
            None => Ok(()),
            Some(first) => Err(Error::BaseDiffers { problems: problems.len(), first: first.clone() }),
        }
    }
}

/// Counts and hashes what is read through it, and checks the pages where asked to.
pub(super) struct Checked<'a, R> {
    input: R,
    bytes: u64,
    hasher: Hasher,
    pages: Option<Pages>,
    is_stopped: &'a dyn Fn() -> bool,
    on_bytes: &'a dyn Fn(u64),
}

/// The pages of one relation file.
pub(super) struct Pages {
    next_block: u32,
    since: Lsn,
    partial: Vec<u8>,
    damaged: u64,
}

impl Pages {
    /// `first_block` is the number of the file's first page in its relation. Pages that were changed after `since`
    /// are not judged, since replay writes them again.
    pub(super) fn new(first_block: u32, since: Lsn) -> Self {
        Self { next_block: first_block, since, partial: Vec::with_capacity(PAGE_SIZE), damaged: 0 }
    }

    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (part, rest) = bytes.split_at(bytes.len().min(PAGE_SIZE - self.partial.len()));
            self.partial.extend_from_slice(part);
            bytes = rest;
            if let Ok(page) = <&[u8; PAGE_SIZE]>::try_from(self.partial.as_slice()) {
                self.damaged +=
                    u64::from(matches!(check(page, self.next_block, self.since), PageState::Damaged { .. }));
                self.next_block = self.next_block.wrapping_add(1);
                self.partial.clear();
            }
        }
    }
}

/// What reading a file to its end has found.
pub(super) struct Finished {
    pub(super) bytes: u64,
    pub(super) checksum: Vec<u8>,
    pub(super) damaged_pages: u64,
}

impl<'a, R> Checked<'a, R> {
    pub(super) fn new(
        input: R,
        pages: Option<Pages>,
        is_stopped: &'a dyn Fn() -> bool,
        on_bytes: &'a dyn Fn(u64),
    ) -> Self {
        Self { input, bytes: 0, hasher: Algorithm::Crc32c.hasher(), pages, is_stopped, on_bytes }
    }

    pub(super) fn finish(self) -> Finished {
        let damaged_pages = self.pages.map_or(0, |pages| pages.damaged);
        Finished { bytes: self.bytes, checksum: self.hasher.finish(), damaged_pages }
    }
}

impl<R: Read> Read for Checked<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if (self.is_stopped)() {
            let interrupted = levee_engine::postgres::Error::Interrupted { doing: "receiving a base backup" };
            return Err(io::Error::other(interrupted));
        }
        let read = self.input.read(buffer)?;
        self.bytes += read as u64;
        self.hasher.update(&buffer[..read]);
        if let Some(pages) = &mut self.pages {
            pages.take(&buffer[..read]);
        }
        (self.on_bytes)(read as u64);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(files: &[(&str, &[u8])]) -> Manifest {
        use levee_engine::postgres::manifest::{Checksum, ManifestFile};
        let file = |content: &[u8]| {
            let mut hasher = Algorithm::Crc32c.hasher();
            hasher.update(content);
            let checksum = Some(Checksum { algorithm: Algorithm::Crc32c, value: hasher.finish() });
            ManifestFile { size: content.len() as u64, checksum }
        };
        let files = files.iter().map(|(path, content)| (path.to_string(), file(content))).collect();
        Manifest { version: 1, system_identifier: None, files, wal_ranges: Vec::new() }
    }

    #[test]
    fn every_difference_to_the_manifest_is_found() {
        let check = |received: &[(&str, &[u8])], expected: Option<&str>| {
            let mut all = Received::default();
            for (path, content) in received {
                let mut checked = Checked::new(*content, None, &|| false, &|_| {});
                io::copy(&mut checked, &mut io::sink()).unwrap();
                let Finished { bytes, checksum, .. } = checked.finish();
                all.add(path.to_string(), bytes, checksum);
            }
            let result = all.compare(&manifest(&[("a", b"one"), ("b", b"two")]));
            match expected {
                None => result.unwrap(),
                Some(text) => assert!(result.unwrap_err().to_string().contains(text), "{text}"),
            }
        };
        check(&[("a", b"one"), ("b", b"two")], None);
        check(&[("a", b"one"), ("b", b"two"), ("pg_wal/x", b"")], None);
        check(&[("a", b"one")], Some("b is missing"));
        check(&[("a", b"one"), ("b", b"tw")], Some("b has 2 bytes instead of 3"));
        check(&[("a", b"one"), ("b", b"owt")], Some("b has another checksum"));
        check(&[("a", b"one"), ("b", b"two"), ("c", b"")], Some("c is not in the manifest"));
    }
}
