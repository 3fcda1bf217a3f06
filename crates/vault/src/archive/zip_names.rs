use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::NodeKind;

/// What stands in a text for bytes that are not UTF-8.
const REPLACED: char = char::REPLACEMENT_CHARACTER;

/// The names of entries in UTF-8, as the zip format wants them. Those that would turn alike are told apart by a number:
/// no archive may have one twice.
#[derive(Default)]
pub(super) struct ZipNames {
    /// The given names that could be another's, too, with the last number behind each. Names without the sign for what is
    /// not UTF-8 are as they were, and not counted here: there may be millions.
    given: HashMap<String, u64>,
    /// What became of directories whose path is not UTF-8.
    directories: HashMap<PathBuf, String>,
}

impl ZipNames {
    /// Paths come with directories before what they hold, each once.
    pub fn name(&mut self, path: &Path, kind: NodeKind) -> String {
        if let Some(name) = path.to_str()
            && !name.contains(REPLACED)
        {
            return name.to_string();
        }
        let own = path.file_name().unwrap_or_default().to_string_lossy();
        let above = path.parent().unwrap_or(Path::new(""));
        let plain = match self.directories.get(above) {
            Some(above) => format!("{above}/{own}"),
            None => above.join(&*own).to_string_lossy().into_owned(),
        };
        let mut name = plain.clone();
        while self.given.contains_key(&name) {
            let last = self.given.entry(plain.clone()).or_default();
            *last += 1;
            name = format!("{plain}-{last}");
        }
        self.given.insert(name.clone(), 0);
        if kind == NodeKind::Dir && Some(name.as_str()) != path.to_str() {
            self.directories.insert(path.to_path_buf(), name.clone());
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn no_name_is_given_twice() {
        let mut names = ZipNames::default();
        let mut check = |path: &[u8], expected: &str| {
            assert_eq!(names.name(Path::new(OsStr::from_bytes(path)), NodeKind::Dir), expected);
        };
        check(b"top/plain", "top/plain");
        check(b"top/\xfe", "top/\u{fffd}");
        check(b"top/\xfe/file", "top/\u{fffd}/file");
        check(b"top/\xff", "top/\u{fffd}-1");
        check(b"top/\xff/file", "top/\u{fffd}-1/file");
        check(b"top/\xff/\xe4", "top/\u{fffd}-1/\u{fffd}");
        check(b"top/\xff/\xe4/deep", "top/\u{fffd}-1/\u{fffd}/deep");
        check("top/\u{fffd}".as_bytes(), "top/\u{fffd}-2");
        check("top/\u{fffd}/file".as_bytes(), "top/\u{fffd}-2/file");
        check("top/\u{fffd}-1".as_bytes(), "top/\u{fffd}-1-1");
        // A folder that was chosen is no entry itself.
        check(b"\xff/a", "\u{fffd}/a");
    }
}
