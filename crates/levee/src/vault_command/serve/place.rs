//! Which repository a path means.

use std::path::{Path, PathBuf};

/// Folders below each other, a user's own included.
const DEPTH_MAX: usize = 5;
const NAME_BYTES_MAX: usize = 128;
/// What the protocol itself puts behind the repository's place; no folder may be called so.
const RESERVED: [&str; 6] = ["config", "data", "index", "keys", "locks", "snapshots"];

/// A request's path, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked<'a> {
    /// The folders that lead to the repository: none is the served folder itself.
    folders: Vec<&'a str>,
    /// What follows, with a slash at its front.
    pub inside: &'a str,
}

impl<'a> Asked<'a> {
    /// `None` for what can be no repository's path.
    pub(super) fn parse(path: &'a str) -> Option<Self> {
        let mut folders = Vec::new();
        let mut inside = path;
        while let Some(rest) = inside.strip_prefix('/') {
            let (name, _) = rest.split_once('/').unwrap_or((rest, ""));
            if name.is_empty() || RESERVED.contains(&name) {
                break;
            }
            if !is_folder_name(name) || folders.len() == DEPTH_MAX {
                return None;
            }
            folders.push(name);
            inside = &rest[name.len()..];
        }
        let inside = if inside.is_empty() { "/" } else { inside };
        inside.starts_with('/').then_some(Self { folders, inside })
    }

    pub(super) fn first_folder(&self) -> Option<&str> {
        self.folders.first().copied()
    }

    pub(super) fn below(&self, served: &Path) -> PathBuf {
        self.folders.iter().fold(served.to_path_buf(), |path, folder| path.join(folder))
    }
}

/// Nothing that leaves the folder or is hidden in it: those belong to the server.
fn is_folder_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'@');
    !name.starts_with('.') && name.len() <= NAME_BYTES_MAX && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart_and_lead_nowhere_else() {
        let check = |path: &str, expected: Option<(&[&str], &str)>| {
            let expected = expected.map(|(folders, inside)| Asked { folders: folders.to_vec(), inside });
            assert_eq!(Asked::parse(path), expected, "{path}");
        };
        check("/", Some((&[], "/")));
        check("/config", Some((&[], "/config")));
        check("/mia/", Some((&["mia"], "/")));
        check("/mia", Some((&["mia"], "/")));
        check("/mia/laptop/data/0123", Some((&["mia", "laptop"], "/data/0123")));
        check("/mia/keys/", Some((&["mia"], "/keys/")));
        for outside in
            ["/../x", "/a/../b/config", "/.tls/key.pem", "/.htpasswd", "/a%2f..", "/a/b/c/d/e/f/", "no", "/a\0"]
        {
            check(outside, None);
        }
        assert_eq!(Asked::parse("/mia/laptop/").unwrap().below(Path::new("/srv")), Path::new("/srv/mia/laptop"));
    }
}
