use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

/// A role's password. Its memory is wiped, and it is never printed.
#[derive(Clone)]
pub struct Password(Zeroizing<String>);

impl Password {
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Password(..)")
    }
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A name or an address.
    Tcp(String),
    /// The folder of the socket `.s.PGSQL.PORT`.
    Unix(PathBuf),
}

/// Whether a connection is encrypted, as libpq's `sslmode`. It has no effect on Unix sockets.
#[derive(Clone, Debug)]
pub enum SslMode {
    Disable,
    /// Encrypted when the server can; nobody's identity is checked.
    Prefer,
    /// Encrypted; nobody's identity is checked.
    Require,
    /// Encrypted, and the certificate must be by one of these authorities and for the host's name.
    VerifyFull(Arc<rustls::RootCertStore>),
}

/// Whether a password's proof is bound to the TLS connection, so that nobody in between can pass it on, as libpq's
/// `channel_binding`. Only SCRAM over TLS can be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChannelBinding {
    Disable,
    /// Bound where both ends can.
    #[default]
    Prefer,
    /// Bound, or there is no connection: also where the server asks for no password.
    Require,
}

/// How a connection is made.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    pub host: Host,
    pub port: u16,
    pub user: String,
    pub password: Option<Password>,
    /// Not used by replication connections.
    pub database: String,
    pub application_name: String,
    pub ssl_mode: SslMode,
    pub channel_binding: ChannelBinding,
    pub connect_timeout: Duration,
    /// How long an answer may take. A replication stream has its own rules.
    pub read_timeout: Duration,
}

impl ConnectOptions {
    /// Options with the defaults: database `postgres`, application name `levee`, `sslmode=prefer`.
    pub fn new(host: Host, port: u16, user: impl Into<String>) -> Self {
        Self {
            host,
            port,
            user: user.into(),
            password: None,
            database: "postgres".into(),
            application_name: "levee".into(),
            ssl_mode: SslMode::Prefer,
            channel_binding: ChannelBinding::default(),
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(60),
        }
    }

    /// The same server, another database.
    pub fn with_database(&self, database: impl Into<String>) -> Self {
        Self { database: database.into(), ..self.clone() }
    }

    /// What to call the server in messages.
    pub fn address(&self) -> String {
        match &self.host {
            Host::Tcp(host) if host.contains(':') => format!("[{host}]:{}", self.port),
            Host::Tcp(host) => format!("{host}:{}", self.port),
            Host::Unix(folder) => format!("{}/.s.PGSQL.{}", folder.display(), self.port),
        }
    }
}

/// Text that is no connection string. It does not repeat the text, which may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a connection string: {reason}; write postgresql://USER@HOST:PORT/DATABASE or host=… port=… user=…")]
pub struct InvalidConnectionText {
    reason: String,
}

impl FromStr for ConnectOptions {
    type Err = InvalidConnectionText;

    /// Reads libpq's two forms (`postgresql://…` and `key=value …`) with the keys host, port, user, password,
    /// dbname, application_name, connect_timeout, sslmode, sslrootcert and channel_binding.
    fn from_str(text: &str) -> Result<Self, InvalidConnectionText> {
        let rest = text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://"));
        let values = match rest {
            Some(rest) => uri_values(rest)?,
            None => keyword_values(text)?,
        };
        from_values(values)
    }
}

fn invalid(reason: impl Into<String>) -> InvalidConnectionText {
    InvalidConnectionText { reason: reason.into() }
}

fn from_values(mut values: BTreeMap<String, String>) -> Result<ConnectOptions, InvalidConnectionText> {
    let host = match values.remove("host") {
        None => Host::Unix("/var/run/postgresql".into()),
        Some(folder) if folder.starts_with('/') => Host::Unix(folder.into()),
        Some(name) => Host::Tcp(name),
    };
    let port = match values.remove("port") {
        None => 5432,
        Some(port) => port.parse().map_err(|_| invalid("the port is not a number from 1 to 65535"))?,
    };
    let user = values.remove("user").ok_or_else(|| invalid("the user is missing"))?;
    let mut options = ConnectOptions::new(host, port, user);
    let roots = values.remove("sslrootcert");
    for (key, value) in values {
        match key.as_str() {
            "password" => options.password = Some(Password::new(value)),
            "dbname" => options.database = value,
            "application_name" => options.application_name = value,
            "connect_timeout" => {
                let seconds = value.parse().map_err(|_| invalid("connect_timeout is not a number of seconds"))?;
                options.connect_timeout = Duration::from_secs(seconds);
            }
            "channel_binding" => {
                options.channel_binding = match value.as_str() {
                    "disable" => ChannelBinding::Disable,
                    "prefer" => ChannelBinding::Prefer,
                    "require" => ChannelBinding::Require,
                    _ => return Err(invalid("channel_binding is none of disable, prefer, require")),
                }
            }
            "sslmode" => {
                options.ssl_mode = match (value.as_str(), &roots) {
                    ("disable", _) => SslMode::Disable,
                    ("prefer" | "allow", _) => SslMode::Prefer,
                    ("require", _) => SslMode::Require,
                    ("verify-full", Some(path)) => SslMode::VerifyFull(read_roots(path)?),
                    ("verify-full", None) => return Err(invalid("sslmode=verify-full needs sslrootcert=FILE")),
                    _ => return Err(invalid("sslmode is none of disable, prefer, require, verify-full")),
                }
            }
            other => return Err(invalid(format!("unknown key {other:?}"))),
        }
    }
    Ok(options)
}

fn read_roots(path: &str) -> Result<Arc<rustls::RootCertStore>, InvalidConnectionText> {
    use rustls_pki_types::pem::PemObject;
    let unreadable = |error: &dyn fmt::Display| invalid(format!("sslrootcert {path} can't be read: {error}"));
    let mut roots = rustls::RootCertStore::empty();
    let certificates = rustls_pki_types::CertificateDer::pem_file_iter(path).map_err(|error| unreadable(&error))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| unreadable(&error))?;
        roots.add(certificate).map_err(|error| unreadable(&error))?;
    }
    Ok(Arc::new(roots))
}

fn uri_values(rest: &str) -> Result<BTreeMap<String, String>, InvalidConnectionText> {
    let mut values = BTreeMap::new();
    let mut put = |key: &str, text: &str| -> Result<(), InvalidConnectionText> {
        if !text.is_empty() {
            values.insert(key.to_owned(), percent_decoded(text)?);
        }
        Ok(())
    };
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = place.split_once('/').unwrap_or((place, ""));
    let (login, server) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let (host, port) = match server.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':').unwrap_or("")),
        None => server.split_once(':').unwrap_or((server, "")),
    };
    put("user", user)?;
    put("password", password)?;
    put("host", host)?;
    put("port", port)?;
    put("dbname", database)?;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(|| invalid("a parameter has no value"))?;
        put(key, value)?;
    }
    Ok(values)
}

fn percent_decoded(text: &str) -> Result<String, InvalidConnectionText> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        let (high, low) = (digit(bytes.next()), digit(bytes.next()));
        let (Some(high), Some(low)) = (high, low) else { return Err(invalid("a % is not followed by two hex digits")) };
        decoded.push((high * 16 + low) as u8);
    }
    String::from_utf8(decoded).map_err(|_| invalid("it is not UTF-8"))
}

fn keyword_values(text: &str) -> Result<BTreeMap<String, String>, InvalidConnectionText> {
    let mut values = BTreeMap::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or_else(|| invalid("a key has no value"))?;
        let after = after.trim_start();
        let quoted = after.starts_with('\'');
        let mut value = String::new();
        let mut end = after.len();
        let mut closed = !quoted;
        let mut characters = after.char_indices().skip(usize::from(quoted));
        while let Some((at, character)) = characters.next() {
            match character {
                '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
                '\'' if quoted => {
                    (end, closed) = (at + 1, true);
                    break;
                }
                space if !quoted && space.is_whitespace() => {
                    end = at;
                    break;
                }
                other => value.push(other),
            }
        }
        if !closed {
            return Err(invalid("a quote is not closed"));
        }
        values.insert(key.trim().to_owned(), value);
        rest = after[end..].trim_start();
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_connection_strings_are_read() {
        let check = |text: &str, expected: &str| {
            let options: ConnectOptions = text.parse().unwrap();
            let password = options.password.as_ref().map(|p| String::from_utf8_lossy(p.as_bytes()).into_owned());
            let found = format!("{} {} {} {:?}", options.address(), options.user, options.database, password);
            assert_eq!(found, expected);
        };
        check("postgresql://levee@db.test:5433/shop", "db.test:5433 levee shop None");
        check("postgres://levee:p%40ss@[::1]/", "[::1]:5432 levee postgres Some(\"p@ss\")");
        check("postgresql://levee@/x?host=%2Frun%2Fpg&sslmode=disable", "/run/pg/.s.PGSQL.5432 levee x None");
        check("host=/tmp port=1 user='a b' password='it\\'s'", "/tmp/.s.PGSQL.1 a b postgres Some(\"it's\")");
        check("user=levee", "/var/run/postgresql/.s.PGSQL.5432 levee postgres None");
        let bound: ConnectOptions = "postgresql://levee@db/?channel_binding=require".parse().unwrap();
        assert_eq!(bound.channel_binding, ChannelBinding::Require);
        assert!("user=x channel_binding=maybe".parse::<ConnectOptions>().is_err());
        for bad in ["host=a", "user='x", "user=x port=70000", "user=x sslmode=maybe", "user=x colour=red", "x"] {
            assert!(bad.parse::<ConnectOptions>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_password_is_never_printed() {
        let options: ConnectOptions = "postgresql://levee:hunter2@db/".parse().unwrap();
        assert!(!format!("{options:?}").contains("hunter2"));
        let error = "postgresql://levee:hunter2@db:x/".parse::<ConnectOptions>().unwrap_err();
        assert!(!format!("{error:?} {error}").contains("hunter2"));
    }
}
