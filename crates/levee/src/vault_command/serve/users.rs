//! Users and their passwords, from a file as `htpasswd -B` writes it.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

const FILE_BYTES_MAX: u64 = 1 << 20;
/// What bcrypt can be told to do.
const COST_MIN: u32 = 4;
const COST_MAX: u32 = 31;
/// Writes that are nearer to each other may have the same time.
const SETTLING: Duration = Duration::from_secs(2);
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
}

struct Known {
    changed_at: SystemTime,
    /// When the file changed to what could not be read, and whether that was all that was written to it then: if so, it
    /// is not tried again before the next change.
    failed: Option<(SystemTime, bool)>,
    hashes: HashMap<String, String>,
    /// The password of whoever is not there, as slow to compute as the slowest of the others: a stranger must not learn
    /// from the time that an answer takes who is.
    nobody: String,
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
        Ok(Self { file, known: Mutex::new(known) })
    }

    /// Whether this was found right lately. Takes no time worth mentioning; no is no answer.
    pub(super) fn remembers(&self, presented: &Presented) -> bool {
        self.refreshed().right.get(&presented.user) == Some(&fingerprint(presented))
    }

    /// Computes with bcrypt.
    pub(super) fn admits(&self, presented: &Presented) -> bool {
        let fingerprint = fingerprint(presented);
        let (hash, nobody) = {
            let known = self.refreshed();
            // It may have been found right while this waited for its turn.
            if known.right.get(&presented.user) == Some(&fingerprint) {
                return true;
            }
            (known.hashes.get(&presented.user).cloned(), known.nobody.clone())
        };
        let is_right = bcrypt::verify(presented.password.as_bytes(), hash.as_deref().unwrap_or(&nobody));
        let is_right = is_right.unwrap_or_default() && hash.is_some();
        if is_right {
            let mut known = self.known();
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

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As the file says now.
    fn refreshed(&self) -> MutexGuard<'_, Known> {
        let mut known = self.known();
        known.refresh(&self.file);
        known
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
        let mut cost_max = COST_MIN;
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            match line.trim().split_once(':') {
                Some((user, hash)) if hash.starts_with("$2") && !user.is_empty() => {
                    cost_max = cost_max.max(cost_of(hash).unwrap_or(COST_MIN));
                    hashes.insert(user.to_string(), hash.to_string());
                }
                _ => bail!(
                    "line {} of {} is no user with a bcrypt password: write it with `htpasswd -B`",
                    number + 1,
                    file.display()
                ),
            }
        }
        let changed_at = metadata.modified().with_context(unreadable)?;
        Ok(Self { changed_at, failed: None, hashes, nobody: nobody(cost_max)?, right: HashMap::new() })
    }

    fn refresh(&mut self, file: &PathBuf) {
        // A file that is not there has no time, and stays the same one for as long.
        let changed_at = fs::metadata(file).and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        if changed_at == self.changed_at || self.failed == Some((changed_at, true)) {
            return;
        }
        let has_settled = changed_at.elapsed().map_or(true, |age| age > SETTLING);
        match Known::read(file) {
            Ok(known) => *self = known,
            // An editor may be writing it. Who was let in before still is.
            Err(error) => {
                if self.failed.is_none_or(|(told_at, _)| told_at != changed_at) {
                    tracing::warn!(
                        "{error:#}; the users and passwords stay as they were, also those that the file has no more"
                    );
                }
                self.failed = Some((changed_at, has_settled));
            }
        }
    }
}

/// How much work a password by bcrypt is, as a power of two.
fn cost_of(hash: &str) -> Option<u32> {
    let cost = hash.parse::<bcrypt::HashParts>().ok()?.get_cost();
    (COST_MIN..=COST_MAX).contains(&cost).then_some(cost)
}

/// A password that nobody has.
fn nobody(cost: u32) -> anyhow::Result<String> {
    let hash = bcrypt::hash(hex::encode(random()?), COST_MIN).context("cannot compute with bcrypt")?;
    // With another cost it is still some hash, which is all that it has to be, and need not be waited for.
    Ok(match hash.strip_prefix("$2b$04$") {
        Some(salt_and_sum) => format!("$2b${cost:02}${salt_and_sum}"),
        None => hash,
    })
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
            assert!(users.admits(&presented("mia", "se:same")) && users.remembers(&presented("mia", "se:same")));
            assert!(!users.remembers(&presented("mia", "x")) && !users.remembers(&presented("ben", "se:same")));
            assert!(!users.admits(&presented("mia", "x")));
            assert!(!users.admits(&presented("ben", "se:same")));
            assert!(!users.admits(&presented("", "")) && !users.admits(&presented("eve", "x")));
        }
        // A changed file counts at once, and a broken one not at all.
        let later = SystemTime::now() + Duration::from_secs(5);
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

    #[test]
    fn whoever_is_not_there_takes_as_long_as_the_slowest() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("users");
        let slow = bcrypt::hash("x", 7).unwrap();
        fs::write(&file, format!("mia:{}\nben:{slow}\n", bcrypt::hash("x", 5).unwrap())).unwrap();
        let known = Known::read(&file).unwrap();
        assert_eq!((cost_of(&slow), cost_of(&known.nobody)), (Some(7), Some(7)));
        // It is computed as any other, and not refused at sight.
        assert!(!bcrypt::verify("x", &known.nobody).unwrap());
        // As `htpasswd` writes them.
        assert_eq!(cost_of(&slow.replacen("$2b$", "$2y$", 1)), Some(7));
    }

    /// What is logged on this thread.
    #[derive(Clone, Default)]
    struct Log(std::sync::Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_broken_file_is_told_once_until_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("users");
        fs::write(&file, format!("mia:{}\n", bcrypt::hash("x", 4).unwrap())).unwrap();
        let users = Users::open(file.clone()).unwrap();
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            for (content, seconds) in [(Some("mia:plain\n"), 5), (Some("eve:plain\n"), 10), (None, 0)] {
                match content {
                    Some(content) => {
                        fs::write(&file, content).unwrap();
                        let later = SystemTime::now() + Duration::from_secs(seconds);
                        fs::File::options().write(true).open(&file).unwrap().set_modified(later).unwrap();
                    }
                    None => fs::remove_file(&file).unwrap(),
                }
                assert!((0..100).all(|_| users.admits(&presented("mia", "x"))));
            }
        });
        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert_eq!(log.matches("stay as they were").count(), 3, "{log}");
    }
}
