//! The server that commands talk to when nothing else is said: `~/.config/levee/context.toml`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// Where the server is, and what to show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// `https://HOST:PORT`.
    pub server: String,
    pub token_file: PathBuf,
    pub ca_file: PathBuf,
}

/// What became of a context that was offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    Written(PathBuf),
    Unchanged(PathBuf),
    /// The file names another server, and was left as it is.
    OtherServer(PathBuf),
    /// There is no home to keep it in.
    Nowhere,
}

impl Context {
    /// The context file of this user; `None` when there is none.
    pub fn load() -> anyhow::Result<Option<Context>> {
        match context_path() {
            Some(path) => Context::read(&path),
            None => Ok(None),
        }
    }

    /// Keeps the context for later commands, unless another server stands there.
    pub fn keep(&self) -> anyhow::Result<Kept> {
        let Some(path) = context_path() else { return Ok(Kept::Nowhere) };
        match Context::read(&path)? {
            Some(known) if known == *self => Ok(Kept::Unchanged(path)),
            // A server whose folder is gone is no longer anybody's.
            Some(known) if known.ca_file != self.ca_file && known.ca_file.exists() => Ok(Kept::OtherServer(path)),
            _ => {
                self.write(&path).with_context(|| format!("cannot write the context file {}", path.display()))?;
                Ok(Kept::Written(path))
            }
        }
    }

    fn read(path: &Path) -> anyhow::Result<Option<Context>> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read the context file {}", path.display()));
            }
        };
        let context = toml::from_str(&text)
            .with_context(|| format!("the context file {} is damaged; correct or remove it", path.display()))?;
        Ok(Some(context))
    }

    fn write(&self, path: &Path) -> anyhow::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let text = toml::to_string(self)?;
        let temporary = path.with_extension("new");
        std::fs::write(&temporary, text)?;
        Ok(std::fs::rename(&temporary, path)?)
    }
}

fn context_path() -> Option<PathBuf> {
    path_from(std::env::var_os("XDG_CONFIG_HOME"), std::env::var_os("HOME"))
}

fn path_from(config_home: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let absolute = |path: OsString| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
    let folder = config_home.and_then(absolute).or_else(|| Some(home.and_then(absolute)?.join(".config")))?;
    Some(folder.join("levee").join("context.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_where_others_keep_theirs() {
        let check = |config_home: Option<&str>, home: Option<&str>, expected: Option<&str>| {
            let found = path_from(config_home.map(Into::into), home.map(Into::into));
            assert_eq!(found, expected.map(PathBuf::from), "{config_home:?} {home:?}");
        };
        check(Some("/c"), Some("/h"), Some("/c/levee/context.toml"));
        check(None, Some("/h"), Some("/h/.config/levee/context.toml"));
        check(Some("relative"), Some("/h"), Some("/h/.config/levee/context.toml"));
        check(None, None, None);
    }

    #[test]
    fn a_context_reads_back_as_written_and_typos_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("levee").join("context.toml");
        assert_eq!(Context::read(&path).unwrap(), None);
        let context = Context {
            server: "https://127.0.0.1:7600".into(),
            token_file: "/srv/levee/admin-token".into(),
            ca_file: "/srv/levee/ca/ca.pem".into(),
        };
        context.write(&path).unwrap();
        assert_eq!(Context::read(&path).unwrap(), Some(context));
        std::fs::write(&path, "sever = 1").unwrap();
        let error = Context::read(&path).unwrap_err();
        assert!(error.to_string().contains("context.toml is damaged"), "{error}");
    }
}
