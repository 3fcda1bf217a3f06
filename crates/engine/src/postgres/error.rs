use std::io;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why talking to PostgreSQL failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("connecting to {address} failed")]
    Connect { address: String, source: io::Error },
    #[error("{address} has no TLS, and the connection must be encrypted: set ssl = on at the server")]
    TlsRefused { address: String },
    #[error("the TLS handshake with {address} failed: check the server's certificate and the authority given for it")]
    Tls { address: String, source: rustls::Error },
    #[error(
        "the server asks for role {user:?}'s password in clear text over an unencrypted connection: use scram-sha-256 in pg_hba.conf, or TLS"
    )]
    CleartextRefused { user: String },
    #[error("the server asks role {user:?} for a password, and none is given")]
    PasswordNeeded { user: String },
    #[error("the server asks for an authentication method that is not supported ({method}): use scram-sha-256")]
    AuthenticationMethod { method: String },
    #[error("the server did not prove that it knows role {user:?}'s password: it may not be the one it claims to be")]
    ServerNotProven { user: String, source: io::Error },
    #[error(
        "channel_binding=require, but the password's proof can't be bound to the connection with {address}: {reason}; use scram-sha-256 over TLS, or channel_binding=prefer"
    )]
    NotBound { address: String, reason: &'static str },
    #[error("PostgreSQL said: {0}")]
    Server(Box<ServerError>),
    #[error("{doing}: the connection failed")]
    Io { doing: &'static str, source: io::Error },
    #[error("{doing}: the server closed the connection")]
    Closed { doing: &'static str },
    #[error("{doing}: interrupted")]
    Interrupted { doing: &'static str },
    #[error("{doing}: no answer within {seconds} s")]
    TimedOut { doing: &'static str, seconds: u64 },
    #[error("{doing}: the server sent something unexpected: {found}")]
    Protocol { doing: &'static str, found: String },
    #[error("{doing}: {column} has an unexpected value {value:?}")]
    Value { doing: &'static str, column: &'static str, value: String },
}

impl Error {
    /// The five characters that PostgreSQL's manual lists in "Error Codes", when the server gave an error.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Error::Server(error) => Some(&error.sqlstate),
            _ => None,
        }
    }

    pub(crate) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io { doing, source }
    }

    pub(crate) fn protocol(doing: &'static str, found: impl Into<String>) -> Error {
        Error::Protocol { doing, found: found.into() }
    }

    /// The engine's own error inside one that went through a `Read`.
    pub fn from_read(doing: &'static str, error: io::Error) -> Error {
        match error.downcast::<Error>() {
            Ok(inner) => inner,
            Err(source) => Error::Io { doing, source },
        }
    }
}

/// An error as the server reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerError {
    /// `ERROR`, `FATAL` or `PANIC`.
    pub severity: String,
    pub sqlstate: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl std::fmt::Display for ServerError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} {}: {}", self.severity, self.sqlstate, self.message)?;
        if let Some(detail) = &self.detail {
            write!(formatter, " ({detail})")?;
        }
        if let Some(hint) = &self.hint {
            write!(formatter, "; hint: {hint}")?;
        }
        Ok(())
    }
}
