//! Users and their passwords, from a file as `htpasswd -B` writes it.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

const FILE_BYTES_MAX: u64 = 1 << 20;
/// Passwords that were found right lately; all of them are forgotten when there are more.
const REMEMBERED_MAX: usize = 1000;

/// A user name and a password from a request.
pub(super) struct Presented {
    pub user: String,
    password: Zeroizing<String>,
}

impl Presented {
    /// Reads an `Authorization` header (RFC 7617).
    pub(super) fn parse(header: &str) -> Option<Self> {
        let (scheme, encoded) = header.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let text = Zeroizing::new(String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?);
        let (user, password) = text.split_once(':')?;
        Some(Self { user: user.into(), password: Zeroizing::new(password.into()) })
    }
}

/// The users of a file. The file is read again when it has changed.
pub(super) struct Users {
    file: PathBuf,
    known: Mutex<Known>,
    /// So that a stranger learns nothing from how long an answer takes.
    nobody: String,
}

struct Known {
    changed_at: SystemTime,
    hashes: HashMap<String, String>,
    /// Fingerprints of what bcrypt has found right: it is slow on purpose, and a backup sends thousands of requests.
    right: HashMap<String, [u8; 32]>,
}

impl fmt::Debug for Users {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Users").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Users {
    pub(super) fn open(file: PathBuf) -> anyhow::Result<Self> {
        let known = Known::read(&file)?;
        // The strength that `htpasswd` and rest-server's documentation use.
        let nobody = bcrypt::hash(hex::encode(random()?), 5).context("cannot compute with bcrypt")?;
        Ok(Self { file, known: Mutex::new(known), nobody })
    }

    pub(super) fn admits(&self, presented: &Presented) -> bool {
        let fingerprint = fingerprint(presented);
        let hash = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.refresh(&self.file);
            if known.right.get(&presented.user) == Some(&fingerprint) {
                return true;
            }
            known.hashes.get(&presented.user).cloned()
        };
        let is_right = bcrypt::verify(presented.password.as_bytes(), hash.as_deref().unwrap_or(&self.nobody));
        let is_right = is_right.unwrap_or_default() && hash.is_some();
        if is_right {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.right.len() >= REMEMBERED_MAX {
                known.right.clear();
            }
            // Unless the password was changed meanwhile.
            if known.hashes.get(&presented.user) == hash.as_ref() {
                known.right.insert(presented.user.clone(), fingerprint);
            }
        }
        is_right
    }
}

impl Known {
    fn read(file: &PathBuf) -> anyhow::Result<Self> {
        let unreadable = || format!("cannot read the users in {}", file.display());
        let metadata = fs::metadata(file).with_context(unreadable)?;
        if metadata.len() > FILE_BYTES_MAX {
            bail!("{} has more than {FILE_BYTES_MAX} bytes", file.display());
        }
        let text = fs::read_to_string(file).with_context(unreadable)?;
        let mut hashes = HashMap::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            match line.trim().split_once(':') {
                Some((user, hash)) if hash.starts_with("$2") && !user.is_empty() => {
                    hashes.insert(user.to_string(), hash.to_string());
                }
                _ => bail!(
                    "line {} of {} is no user with a bcrypt password: write it with `htpasswd -B`",
                    number + 1,
                    file.display()
                ),
            }
        }
        Ok(Self { changed_at: metadata.modified().with_context(unreadable)?, hashes, right: HashMap::new() })
    }

    fn refresh(&mut self, file: &PathBuf) {
        if fs::metadata(file).and_then(|metadata| metadata.modified()).is_ok_and(|time| time == self.changed_at) {
            return;
        }
        match Known::read(file) {
            Ok(known) => *self = known,
            // An editor may be writing it. Who was let in before still is.
            Err(error) => tracing::warn!("{error:#}; the users stay as they were"),
        }
    }
}

/// Held in memory alone, instead of the password.
fn fingerprint(presented: &Presented) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    Sha256::new()
        .chain_update(presented.user.as_bytes())
        .chain_update([0])
        .chain_update(presented.password.as_bytes())
        .finalize()
        .into()
}

fn random() -> anyhow::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).context("the system gives no random numbers")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presented(user: &str, password: &str) -> Presented {
        Presented::parse(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))).unwrap()
    }

    #[test]
    fn only_users_with_their_passwords_come_in() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("users");
        let line = |user: &str, password: &str| format!("{user}:{}\n", bcrypt::hash(password, 4).unwrap());
        fs::write(&file, line("mia", "se:same") + "\n" + &line("ben", "x")).unwrap();
        let users = Users::open(file.clone()).unwrap();
        for _ in 0..2 {
            assert!(users.admits(&presented("mia", "se:same")));
            assert!(!users.admits(&presented("mia", "x")));
            assert!(!users.admits(&presented("ben", "se:same")));
            assert!(!users.admits(&presented("", "")) && !users.admits(&presented("eve", "x")));
        }
        // A changed file counts at once, and a broken one not at all.
        let later = SystemTime::now() + std::time::Duration::from_secs(5);
        let change = |content: String| {
            fs::write(&file, content).unwrap();
            fs::File::options().write(true).open(&file).unwrap().set_modified(later).unwrap();
        };
        change(line("mia", "new"));
        assert!(!users.admits(&presented("mia", "se:same")) && users.admits(&presented("mia", "new")));
        fs::write(&file, "mia:plain\n").unwrap();
        assert!(users.admits(&presented("mia", "new")));
        assert!(Users::open(file).is_err());
        assert!(Presented::parse("Bearer x").is_none() && Presented::parse("Basic !").is_none());
    }
}
