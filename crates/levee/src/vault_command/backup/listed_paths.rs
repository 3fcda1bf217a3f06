//! Paths from files, in the three forms that restic has.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::super::text_file;
use crate::output::Output;

/// The files that paths are read from.
pub struct ListedPaths<'a> {
    /// With patterns, comments and blank lines.
    pub patterns: &'a [PathBuf],
    /// A path a line, as it is.
    pub verbatim: &'a [PathBuf],
    /// A zero byte behind each path.
    pub raw: &'a [PathBuf],
}

impl ListedPaths<'_> {
    pub fn read(&self, output: Output) -> anyhow::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for file in self.patterns {
            for line in text_file::lines(file)? {
                paths.extend(expanded(&line, file, output)?);
            }
        }
        for file in self.verbatim {
            paths.extend(verbatim(&text_file::read(file)?));
        }
        for file in self.raw {
            let Some(listed) = raw(&text_file::read(file)?) else {
                bail!("{}: a path in it is empty, or the last one is not ended by a zero byte", file.display());
            };
            paths.extend(listed);
        }
        if paths.is_empty() && !(self.patterns.is_empty() && self.verbatim.is_empty() && self.raw.is_empty()) {
            bail!("the lists of files name nothing that is there");
        }
        Ok(paths)
    }
}

fn expanded(pattern: &str, file: &Path, output: Output) -> anyhow::Result<Vec<PathBuf>> {
    let matching = glob::glob(pattern).with_context(|| format!("{}: {pattern:?} is malformed", file.display()))?;
    let mut paths = Vec::new();
    for path in matching {
        paths.push(path.with_context(|| format!("{}: cannot look for {pattern:?}", file.display()))?);
    }
    if paths.is_empty() {
        output.note(&format!("{}: nothing matches {pattern:?}", file.display()));
    }
    Ok(paths)
}

fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.to_vec()))
}

fn verbatim(content: &[u8]) -> Vec<PathBuf> {
    let lines = content.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines.filter(|line| !line.is_empty()).map(path_of).collect()
}

fn raw(content: &[u8]) -> Option<Vec<PathBuf>> {
    if content.is_empty() {
        return Some(Vec::new());
    }
    let paths: Vec<_> = content.strip_suffix(b"\0")?.split(|byte| *byte == 0).collect();
    paths.iter().all(|path| !path.is_empty()).then(|| paths.into_iter().map(path_of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_they_are() {
        let paths = |names: &[&[u8]]| names.iter().map(|name| path_of(name)).collect::<Vec<_>>();
        assert_eq!(verbatim(b" a\n\n#b\r\n\xff*"), paths(&[b" a", b"#b", b"\xff*"]));
        assert_eq!(raw(b"a\nb\0\xff\0"), Some(paths(&[b"a\nb", b"\xff"])));
        assert_eq!(raw(b""), Some(vec![]));
        assert_eq!(raw(b"a\0b"), None);
        assert_eq!(raw(b"a\0\0"), None);
    }
}
