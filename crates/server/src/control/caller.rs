use levee_api::TokenAccess;
use zeroize::Zeroizing;

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The id of the token.
    pub token: String,
    /// The name that the token was given.
    pub name: String,
    pub access: TokenAccess,
}

/// How a backup of the server is encrypted.
#[derive(Clone)]
pub enum BackupKey {
    /// An `age` recipient: `age1…`.
    Recipient(String),
    /// A passphrase; `age -d` asks for it.
    Passphrase(Zeroizing<String>),
}

impl std::fmt::Debug for BackupKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BackupKey::Recipient(recipient) => write!(formatter, "Recipient({recipient})"),
            BackupKey::Passphrase(_) => formatter.write_str("Passphrase"),
        }
    }
}
