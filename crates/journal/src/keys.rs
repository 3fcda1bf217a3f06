//! Who may read a journal: `age` identities and recipients (X25519).

use std::fmt;
use std::io::{Read, Write};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use age::secrecy::ExposeSecret;
use zeroize::Zeroizing;

use crate::{Error, Result};

/// The size of the random key that seals one run of records.
pub(crate) const DATA_KEY_BYTES: usize = 32;

/// A random key for one run of records; wiped when dropped.
pub(crate) type DataKey = Zeroizing<[u8; DATA_KEY_BYTES]>;

/// A secret key that opens what was sealed for its recipient.
#[derive(Clone)]
pub struct Identity(age::x25519::Identity);

impl Identity {
    pub fn generate() -> Self {
        Identity(age::x25519::Identity::generate())
    }

    /// Reads the text of an identity file as `age-keygen` writes it: comments and one secret key.
    pub fn from_file_text(text: &str) -> Result<Self> {
        let invalid = || Error::InvalidKey {
            // The text itself is a secret.
            what: "the identity file".into(),
            expected: "a file with one line AGE-SECRET-KEY-…, as age-keygen writes it",
        };
        let mut keys = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let key = keys.next().ok_or_else(invalid)?;
        if keys.next().is_some() {
            return Err(invalid());
        }
        key.parse().map(Identity).map_err(|_| invalid())
    }

    pub fn read_file(path: &Path) -> Result<Self> {
        let text = Zeroizing::new(std::fs::read_to_string(path).map_err(Error::io("read the identity file", path))?);
        Self::from_file_text(&text)
    }

    /// The text of an identity file, readable by stock `age`.
    pub fn to_file_text(&self) -> Zeroizing<String> {
        let secret = self.0.to_string();
        Zeroizing::new(format!("# public key: {}\n{}\n", self.recipient(), secret.expose_secret()))
    }

    pub fn recipient(&self) -> Recipient {
        Recipient(self.0.to_public())
    }

    pub(crate) fn as_age(&self) -> &dyn age::Identity {
        &self.0
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Identity of {}", self.recipient())
    }
}

/// A public key, `age1…`.
#[derive(Clone, PartialEq, Eq)]
pub struct Recipient(age::x25519::Recipient);

impl FromStr for Recipient {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        text.trim().parse().map(Recipient).map_err(|_| Error::InvalidKey {
            what: format!("{:?}", text.chars().take(80).collect::<String>()),
            expected: "an age recipient of the form age1…",
        })
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// The keys that a journal is opened with. Writing needs recipients, reading needs the identity of one.
#[derive(Clone, Debug, Default)]
pub struct JournalKeys {
    pub identity: Option<Identity>,
    pub recipients: Vec<Recipient>,
}

impl JournalKeys {
    /// For whoever both writes and reads with the one identity.
    pub fn of_identity(identity: Identity) -> Self {
        Self { recipients: vec![identity.recipient()], identity: Some(identity) }
    }

    pub(crate) fn encryptor(&self) -> Result<age::Encryptor> {
        if self.recipients.is_empty() {
            return Err(Error::NoRecipients);
        }
        age::Encryptor::with_recipients(self.recipients.iter().map(|recipient| &recipient.0 as &dyn age::Recipient))
            .map_err(|error| Error::Seal { reason: error.to_string() })
    }

    /// A new random key, and the same key as an `age` file for the recipients.
    pub(crate) fn new_data_key(&self) -> Result<(DataKey, Vec<u8>)> {
        let failed = |reason: String| Error::Seal { reason };
        let mut key = DataKey::default();
        getrandom::fill(key.as_mut()).map_err(|error| failed(error.to_string()))?;
        let mut writer = self.encryptor()?.wrap_output(Vec::new()).map_err(|error| failed(error.to_string()))?;
        writer.write_all(key.as_ref()).map_err(|error| failed(error.to_string()))?;
        let wrapped = writer.finish().map_err(|error| failed(error.to_string()))?;
        Ok((key, wrapped))
    }

    /// Opens an `age` stream; `path` is for messages.
    pub(crate) fn decrypt<R: Read>(&self, input: R, path: &Path) -> Result<age::stream::StreamReader<R>> {
        let identity = self.identity.as_ref().ok_or_else(|| Error::NoIdentity { path: path.to_path_buf() })?;
        let error = |error: age::DecryptError| match error {
            age::DecryptError::NoMatchingKeys => Error::WrongIdentity { path: path.to_path_buf() },
            age::DecryptError::Io(source) if source.kind() == std::io::ErrorKind::UnexpectedEof => {
                Error::damaged(path, 0, "it is cut short")
            }
            age::DecryptError::Io(source) => Error::io("read", path)(source),
            other => Error::damaged(path, 0, other.to_string()),
        };
        age::Decryptor::new(input).map_err(error)?.decrypt(std::iter::once(identity.as_age())).map_err(error)
    }

    /// Opens the key of a run.
    pub(crate) fn open_data_key(&self, wrapped: &[u8], path: &Path) -> Result<DataKey> {
        let mut reader = self.decrypt(wrapped, path)?;
        let mut key = DataKey::default();
        reader
            .read_exact(key.as_mut())
            .map_err(|error| Error::damaged(path, 0, format!("the run's key is unreadable: {error}")))?;
        Ok(key)
    }
}

/// Keys are shared by the writer and its background thread.
pub(crate) type SharedKeys = Arc<JournalKeys>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_reads_back_and_shows_no_secret() {
        let identity = Identity::generate();
        let text = identity.to_file_text();
        let again = Identity::from_file_text(&text).unwrap();
        assert_eq!(again.recipient(), identity.recipient());
        assert!(!format!("{identity:?}").contains("SECRET"));
        assert!(matches!(Identity::from_file_text("# nothing\n"), Err(Error::InvalidKey { .. })));
        assert!("age1nonsense".parse::<Recipient>().is_err());
    }

    #[test]
    fn a_data_key_opens_for_each_recipient_and_for_nobody_else() {
        let (one, two, stranger) = (Identity::generate(), Identity::generate(), Identity::generate());
        let keys = JournalKeys { identity: None, recipients: vec![one.recipient(), two.recipient()] };
        let (key, wrapped) = keys.new_data_key().unwrap();
        let open = |identity: Option<Identity>| {
            JournalKeys { identity, recipients: Vec::new() }.open_data_key(&wrapped, Path::new("tail"))
        };
        assert_eq!(open(Some(one)).unwrap(), key);
        assert_eq!(open(Some(two)).unwrap(), key);
        assert!(matches!(open(Some(stranger)), Err(Error::WrongIdentity { .. })));
        assert!(matches!(open(None), Err(Error::NoIdentity { .. })));
        assert!(matches!(JournalKeys::default().new_data_key(), Err(Error::NoRecipients)));
    }
}
