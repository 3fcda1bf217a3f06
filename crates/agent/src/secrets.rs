//! Passwords that stand in the protection file by name only. Each is a file of mode 0600 on the agent's host.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use levee_model::AssetName;
use zeroize::Zeroizing;

use crate::durable;
use crate::error::{Error, Result};
use crate::folder::AgentFolder;

const SECRET_BYTES_MAX: u64 = 64 << 10;

/// The secrets of one agent. Read anew at each use, so that a changed one counts at once.
#[derive(Clone, Debug)]
pub struct Secrets {
    folder: PathBuf,
}

impl Secrets {
    pub fn new(folder: &AgentFolder) -> Secrets {
        Secrets { folder: folder.secrets() }
    }

    /// Sets a secret to the text that `value` yields; one final line break is not part of it.
    pub fn set(&self, name: &str, value: impl Read) -> Result<()> {
        let path = self.path(name)?;
        let mut text = Zeroizing::new(String::new());
        let bad = || Error::SecretContent { name: name.into() };
        let read = value.take(SECRET_BYTES_MAX + 1).read_to_string(&mut text).map_err(|_| bad())?;
        let secret = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
        if read as u64 > SECRET_BYTES_MAX || secret.is_empty() || secret.contains(['\n', '\0']) {
            return Err(bad());
        }
        let failed = |source| Error::File { doing: "write", path: path.clone(), source };
        AgentFolder::create_private(&self.folder).map_err(failed)?;
        durable::write(&path, secret.as_bytes()).map_err(failed)
    }

    /// Reads a secret.
    pub fn get(&self, name: &str) -> Result<Zeroizing<String>> {
        let path = self.path(name)?;
        match fs::read_to_string(&path) {
            Ok(secret) => Ok(Zeroizing::new(secret)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::NoSecret { name: name.into() }),
            Err(source) => Err(Error::File { doing: "read", path, source }),
        }
    }

    /// The names of all secrets.
    pub fn names(&self) -> Result<Vec<String>> {
        let failed = |source| Error::File { doing: "list", path: self.folder.clone(), source };
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            if check(&name).is_ok() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Removes a secret.
    pub fn remove(&self, name: &str) -> Result<()> {
        let path = self.path(name)?;
        match fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::NoSecret { name: name.into() }),
            Err(source) => Err(Error::File { doing: "remove", path, source }),
        }
    }

    fn path(&self, name: &str) -> Result<PathBuf> {
        check(name)?;
        Ok(Path::new(&self.folder).join(name))
    }
}

// Secrets are named as assets are, which keeps the name inside its folder.
fn check(name: &str) -> Result<()> {
    AssetName::new(name).map(|_| ()).map_err(|_| Error::SecretName { name: name.chars().take(80).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_secret_is_kept_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let secrets = Secrets::new(&AgentFolder::new(folder.path()));
        secrets.set("orders", "s3cret word\n".as_bytes()).unwrap();
        assert_eq!(secrets.get("orders").unwrap().as_str(), "s3cret word");
        assert_eq!(fs::metadata(folder.path().join("secrets/orders")).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(folder.path().join("secrets")).unwrap().mode() & 0o777, 0o700);
        assert_eq!(secrets.names().unwrap(), ["orders"]);
        secrets.remove("orders").unwrap();
        assert!(matches!(secrets.get("orders"), Err(Error::NoSecret { .. })));
    }

    #[test]
    fn what_is_no_secret_or_no_name_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let secrets = Secrets::new(&AgentFolder::new(folder.path()));
        for name in ["", "../key", "A", ".hidden"] {
            assert!(matches!(secrets.set(name, "x".as_bytes()), Err(Error::SecretName { .. })), "{name:?}");
        }
        for value in ["", "\n", "a\nb", "a\0b"] {
            assert!(matches!(secrets.set("a", value.as_bytes()), Err(Error::SecretContent { .. })), "{value:?}");
        }
        assert!(matches!(secrets.set("a", io::repeat(b'a')), Err(Error::SecretContent { .. })));
    }
}
