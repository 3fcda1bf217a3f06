use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{DataRowBody, ErrorFields, Message, RowDescriptionBody};
use postgres_protocol::message::frontend;
use rustls::ClientConnection;
use rustls_pki_types::ServerName;

use super::transport::{Transport, Waited};
use super::{
    ConnectOptions, Error, Host, Result, Row, ServerError, ServerVersion, SslMode, address, authentication,
    channel_binding, tls,
};

/// How much is asked of the socket in one read. WAL comes in messages of up to 128 KiB.
const READ_SIZE: usize = 256 << 10;
/// No message is longer: PostgreSQL's own bound (`MaxAllocSize`) for what it sends.
const MESSAGE_SIZE_MAX: usize = 1 << 30;
/// A wait that is begun again when it is over.
const LONG_WAIT: Duration = Duration::from_secs(60);

/// A connection to one server, for queries or for physical replication.
pub struct Connection {
    transport: Transport,
    input: BytesMut,
    /// What one read takes in, of `READ_SIZE`.
    read_buffer: Vec<u8>,
    parameters: BTreeMap<String, String>,
    version: ServerVersion,
    read_timeout: Duration,
    address: String,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Connection").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Connection {
    /// Connects to `options.database` for queries.
    pub fn connect(options: &ConnectOptions) -> Result<Self> {
        Self::open(options, &[("database", &options.database)])
    }

    /// Connects for physical replication: no SQL, but the replication commands.
    pub fn connect_replication(options: &ConnectOptions) -> Result<Self> {
        Self::open(options, &[("replication", "true")])
    }

    fn open(options: &ConnectOptions, special: &[(&str, &str)]) -> Result<Self> {
        let started = Instant::now();
        let transport = open_transport(options)?;
        let mut connection = Self {
            transport,
            input: BytesMut::new(),
            read_buffer: vec![0; READ_SIZE],
            parameters: BTreeMap::new(),
            version: ServerVersion(0),
            read_timeout: options.connect_timeout,
            address: options.address(),
        };
        let parameters = [
            ("user", options.user.as_str()),
            ("application_name", &options.application_name),
            ("client_encoding", "UTF8"),
            // So that answers and literals have one form, whatever the role's settings are.
            ("datestyle", "ISO"),
            ("intervalstyle", "postgres"),
            ("standard_conforming_strings", "on"),
        ];
        connection.send("connecting", |buffer| {
            frontend::startup_message(parameters.into_iter().chain(special.iter().copied()), buffer)
        })?;
        authentication::authenticate(&mut connection, options)?;
        connection.wait_until_ready("connecting")?;
        let text = connection.parameters.get("server_version").map(String::as_str).unwrap_or("");
        connection.version = ServerVersion::from_text(text)
            .ok_or_else(|| Error::protocol("connecting", format!("server version {text:?}")))?;
        connection.read_timeout = options.read_timeout;
        connection.transport.socket.set_timeouts(options.read_timeout).map_err(Error::io("connecting"))?;
        tracing::debug!(
            address = connection.address,
            version = %connection.version,
            milliseconds = started.elapsed().as_millis() as u64,
            "connected to PostgreSQL"
        );
        Ok(connection)
    }

    pub fn server_version(&self) -> ServerVersion {
        self.version
    }

    /// What to call the server in messages.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn is_encrypted(&self) -> bool {
        self.transport.tls.is_some()
    }

    /// What a proof can be bound to on this connection.
    pub(crate) fn end_point(&self) -> Option<Vec<u8>> {
        let certificates = self.transport.tls.as_ref()?.peer_certificates()?;
        channel_binding::tls_server_end_point(certificates.first()?)
    }

    pub(crate) fn is_private(&self) -> bool {
        self.transport.is_private()
    }

    /// Runs SQL, or a replication command, and returns the rows of its last result.
    ///
    /// After `Error::Server` the connection can be used again, unless the severity is FATAL.
    pub fn simple_query(&mut self, sql: &str) -> Result<Vec<Row>> {
        let doing = "asking the server";
        self.send(doing, |buffer| frontend::query(sql, buffer))?;
        let mut columns: Arc<[String]> = Arc::new([]);
        let mut rows = Vec::new();
        let mut failure = None;
        loop {
            match self.receive(doing)? {
                Message::RowDescription(body) => {
                    columns = column_names(&body).map_err(Error::io(doing))?;
                    rows.clear();
                }
                Message::DataRow(body) => rows.push(row(&columns, &body)?),
                Message::CommandComplete(_) | Message::EmptyQueryResponse => {}
                Message::ErrorResponse(body) => failure = Some(server_error(body.fields())),
                Message::ReadyForQuery(_) => break,
                other => return Err(Error::protocol(doing, describe(&other))),
            }
            // A fatal error is not followed by ReadyForQuery: the server hangs up.
            if failure.as_ref().is_some_and(is_fatal) {
                break;
            }
        }
        match failure {
            Some(error) => Err(Error::Server(Box::new(error))),
            None => Ok(rows),
        }
    }

    pub(crate) fn send(
        &mut self,
        doing: &'static str,
        encode: impl FnOnce(&mut BytesMut) -> io::Result<()>,
    ) -> Result<()> {
        let mut buffer = BytesMut::new();
        encode(&mut buffer).map_err(Error::io(doing))?;
        self.transport.write_all(&buffer).map_err(|source| self.io_error(doing, source))
    }

    /// The next message, without those that may come at any time. Errors of the server are messages here.
    pub(crate) fn receive(&mut self, doing: &'static str) -> Result<Message> {
        loop {
            if let Some(message) = self.buffered(doing)? {
                return Ok(message);
            }
            self.fill(doing)?;
        }
    }

    /// As `receive_or_error`, but a readable `interrupt` ends the wait. Bounded by TCP keepalive alone.
    pub(crate) fn receive_unless(&mut self, doing: &'static str, interrupt: Option<BorrowedFd<'_>>) -> Result<Message> {
        loop {
            match self.buffered(doing)? {
                Some(Message::ErrorResponse(body)) => {
                    return Err(Error::Server(Box::new(server_error(body.fields()))));
                }
                Some(message) => return Ok(message),
                None => {}
            }
            match self.wait(LONG_WAIT, interrupt.as_slice()).map_err(Error::io(doing))? {
                Waited::Readable => self.fill(doing)?,
                Waited::Woken => return Err(Error::Interrupted { doing }),
                Waited::TimedOut => {}
            }
        }
    }

    /// The next message, with an error of the server as an error.
    pub(crate) fn receive_or_error(&mut self, doing: &'static str) -> Result<Message> {
        match self.receive(doing)? {
            Message::ErrorResponse(body) => Err(Error::Server(Box::new(server_error(body.fields())))),
            message => Ok(message),
        }
    }

    /// A whole message that has been received already.
    pub(crate) fn buffered(&mut self, doing: &'static str) -> Result<Option<Message>> {
        loop {
            // A length that can't be is refused here, before the buffer is grown to it.
            if let [_, a, b, c, d, ..] = self.input[..]
                && u32::from_be_bytes([a, b, c, d]) as usize > MESSAGE_SIZE_MAX
            {
                return Err(Error::protocol(doing, "a message of more than 1 GiB"));
            }
            // CopyBothResponse, which `postgres-protocol` does not know, has the form of CopyOutResponse.
            if let Some(tag @ b'W') = self.input.first_mut() {
                *tag = b'H';
            }
            match Message::parse(&mut self.input) {
                Ok(None) => return Ok(None),
                Ok(Some(Message::NoticeResponse(body))) => {
                    let notice = server_error(body.fields());
                    tracing::warn!(address = self.address, sqlstate = notice.sqlstate, "PostgreSQL: {notice}");
                }
                Ok(Some(Message::ParameterStatus(body))) => {
                    let (name, value) =
                        (body.name().map_err(Error::io(doing))?, body.value().map_err(Error::io(doing))?);
                    self.parameters.insert(name.to_owned(), value.to_owned());
                }
                Ok(Some(Message::NotificationResponse(_) | Message::BackendKeyData(_))) => {}
                Ok(Some(message)) => return Ok(Some(message)),
                Err(error) => return Err(Error::protocol(doing, error.to_string())),
            }
        }
    }

    /// Whether bytes were received that belong to no message handed out yet.
    pub(crate) fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// Reads what the socket has, waiting for the first byte.
    pub(crate) fn fill(&mut self, doing: &'static str) -> Result<()> {
        // By way of a buffer that stays: making room for a whole read in `input` costs more than copying what came.
        match self.transport.read(&mut self.read_buffer) {
            Ok(0) => Err(Error::Closed { doing }),
            Ok(read) => {
                self.input.extend_from_slice(&self.read_buffer[..read]);
                Ok(())
            }
            Err(error) => Err(self.io_error(doing, error)),
        }
    }

    pub(crate) fn wait(&mut self, timeout: Duration, wake: &[BorrowedFd<'_>]) -> io::Result<Waited> {
        self.transport.wait(timeout, wake)
    }

    pub(crate) fn wait_until_ready(&mut self, doing: &'static str) -> Result<()> {
        loop {
            match self.receive_or_error(doing)? {
                Message::ReadyForQuery(_) => return Ok(()),
                Message::CommandComplete(_) => {}
                other => return Err(Error::protocol(doing, describe(&other))),
            }
        }
    }

    /// The rows of one result set, up to its CommandComplete.
    pub(crate) fn result_set(&mut self, doing: &'static str, interrupt: Option<BorrowedFd<'_>>) -> Result<Vec<Row>> {
        let mut columns: Arc<[String]> = Arc::new([]);
        let mut rows = Vec::new();
        loop {
            match self.receive_unless(doing, interrupt)? {
                Message::RowDescription(body) => columns = column_names(&body).map_err(Error::io(doing))?,
                Message::DataRow(body) => rows.push(row(&columns, &body)?),
                Message::CommandComplete(_) => return Ok(rows),
                other => return Err(Error::protocol(doing, describe(&other))),
            }
        }
    }

    fn io_error(&self, doing: &'static str, source: io::Error) -> Error {
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                Error::TimedOut { doing, seconds: self.read_timeout.as_secs() }
            }
            _ => Error::Io { doing, source },
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.transport.socket.as_fd()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // A goodbye spares the server's log a line; that it can't be said changes nothing.
        let mut buffer = BytesMut::new();
        frontend::terminate(&mut buffer);
        let _ = self.transport.write_all(&buffer);
    }
}

fn open_transport(options: &ConnectOptions) -> Result<Transport> {
    let address = options.address();
    let failed = |source| Error::Connect { address: options.address(), source };
    let socket = address::dial(options).map_err(failed)?;
    socket.set_timeouts(options.connect_timeout).map_err(failed)?;
    let mut transport = Transport { socket, tls: None };
    let Host::Tcp(host) = &options.host else { return Ok(transport) };
    let roots = match &options.ssl_mode {
        SslMode::Disable => return Ok(transport),
        SslMode::Prefer | SslMode::Require => None,
        SslMode::VerifyFull(roots) => Some(roots.clone()),
    };
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    transport.write_all(&request).map_err(failed)?;
    let mut answer = [0];
    match transport.read(&mut answer).map_err(failed)? {
        0 => return Err(Error::Closed { doing: "connecting" }),
        _ if answer == *b"S" => {}
        _ if answer == *b"N" && matches!(options.ssl_mode, SslMode::Prefer) => return Ok(transport),
        _ if answer == *b"N" => return Err(Error::TlsRefused { address }),
        _ => return Err(Error::protocol("connecting", "no answer to the request for TLS")),
    }
    let tls_failed = |source| Error::Tls { address: options.address(), source };
    let name = ServerName::try_from(host.clone())
        .map_err(|_| tls_failed(rustls::Error::General("the host is no valid server name".into())))?;
    let client = ClientConnection::new(tls::client_config(roots).map_err(tls_failed)?, name).map_err(tls_failed)?;
    transport.tls = Some(Box::new(client));
    transport.handshake().map_err(|error| match error.downcast::<rustls::Error>() {
        Ok(source) => tls_failed(source),
        Err(error) => failed(error),
    })?;
    Ok(transport)
}

fn column_names(body: &RowDescriptionBody) -> io::Result<Arc<[String]>> {
    body.fields().map(|field| Ok(field.name().to_owned())).collect::<Vec<_>>().map(Arc::from)
}

fn row(columns: &Arc<[String]>, body: &DataRowBody) -> Result<Row> {
    let doing = "reading a row";
    let text = |range: Option<std::ops::Range<usize>>| {
        let bytes = range.map(|range| body.buffer().get(range).ok_or(io::ErrorKind::InvalidData)).transpose()?;
        // Names of another encoding may be in catalogs; a replacement character is better than no answer.
        Ok(bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
    };
    let values = body.ranges().map(text).collect().map_err(Error::io(doing))?;
    Ok(Row { columns: columns.clone(), values })
}

fn is_fatal(error: &ServerError) -> bool {
    error.severity != "ERROR"
}

pub(crate) fn server_error(mut fields: ErrorFields<'_>) -> ServerError {
    let mut error = ServerError {
        severity: String::new(),
        sqlstate: String::new(),
        message: String::new(),
        detail: None,
        hint: None,
    };
    // A field that can't be parsed ends the list: what was read before is still worth showing.
    while let Ok(Some(field)) = fields.next() {
        let value = String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            // 'V' is never translated and comes after 'S'.
            b'S' | b'V' => error.severity = value,
            b'C' => error.sqlstate = value,
            b'M' => error.message = value,
            b'D' => error.detail = Some(value),
            b'H' => error.hint = Some(value),
            _ => {}
        }
    }
    error
}

/// A message's name, for errors.
pub(crate) fn describe(message: &Message) -> &'static str {
    match message {
        Message::CopyData(_) => "CopyData",
        Message::CopyDone => "CopyDone",
        Message::CopyInResponse(_) => "CopyInResponse",
        Message::CopyOutResponse(_) => "CopyOutResponse",
        Message::CommandComplete(_) => "CommandComplete",
        Message::DataRow(_) => "DataRow",
        Message::RowDescription(_) => "RowDescription",
        Message::ReadyForQuery(_) => "ReadyForQuery",
        Message::ErrorResponse(_) => "ErrorResponse",
        Message::EmptyQueryResponse => "EmptyQueryResponse",
        Message::AuthenticationOk => "AuthenticationOk",
        _ => "a message that does not belong here",
    }
}
