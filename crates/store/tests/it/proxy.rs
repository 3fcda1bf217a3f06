//! A proxy in front of a real HTTP server, at which requests and answers break as networks and services do.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use levee_store::{Error, FileType, Result, RetryPolicy, Store, content_name};
use levee_testing::front::Request;

use crate::lies::Lie;
use crate::server::Server;

/// Attempts follow each other quickly: the faults are over at once.
pub const QUICK: RetryPolicy = RetryPolicy {
    attempts_max: 50,
    time_max: Duration::from_secs(60),
    delay_first: Duration::from_millis(1),
    delay_max: Duration::from_millis(4),
};

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    None,
    /// The server gets half of the body, and then the connection breaks on both sides.
    TornUpload,
    /// The connection breaks while the client is still sending, and the server is never asked.
    Unheard,
    /// The server answers, and the connection breaks before the client hears it.
    LostAnswer,
    /// The client gets half of the answer.
    TornAnswer,
    /// The server is never asked: 500.
    Refused,
    /// The server is never asked: 503, as S3 says that it is too much.
    SlowDown,
    /// The server is never asked: 429, and the client is asked to be silent for so many seconds.
    TooMany(u32),
    /// The answer is of another size than it should be.
    Lie(Lie),
    /// The server is never asked: 400, as S3 says it of credentials that were lent for a time.
    Expired,
}

/// Listens in front of `upstream`.
pub fn start(upstream: SocketAddr, schedule: impl Fn(u64) -> Fault + Send + Sync + 'static) -> Server {
    Server::listen(move |client, requests| {
        let fault = schedule(requests.fetch_add(1, Ordering::Relaxed));
        pass(client, upstream, fault)
    })
}

/// Every fourth request meets a fault, each kind in its turn.
pub fn often(request: u64) -> Fault {
    every(4, request)
}

/// For stores that need several requests for one operation.
pub fn sometimes(request: u64) -> Fault {
    every(13, request)
}

fn every(nth: u64, request: u64) -> Fault {
    const BROKEN: [Fault; 7] = [
        Fault::TornUpload,
        Fault::Unheard,
        Fault::LostAnswer,
        Fault::TornAnswer,
        Fault::Refused,
        Fault::SlowDown,
        Fault::TooMany(0),
    ];
    if request % nth != nth - 1 {
        return Fault::None;
    }
    let round = (request / nth) as usize;
    match round % 2 {
        0 => BROKEN[round / 2 % BROKEN.len()],
        _ => Fault::Lie(Lie::NOTICED[round / 2 % Lie::NOTICED.len()]),
    }
}

/// Passes one request on, and ends the connection.
fn pass(client: TcpStream, upstream: SocketAddr, fault: Fault) -> io::Result<()> {
    if fault == Fault::Unheard {
        // Less than any request has. A connection that is dropped with something unread breaks at once on the other
        // side, and what is still being sent fails.
        return (&client).read_exact(&mut [0; 64]);
    }
    let Some(request) = Request::read(&client)? else { return Ok(()) };
    match fault {
        Fault::Refused => return refuse(&client, 500, "", "out of order"),
        Fault::SlowDown => return refuse(&client, 503, "", "<Error><Code>SlowDown</Code><Message>m</Message></Error>"),
        // Without a word that would tell a client of one service more than that of another.
        Fault::TooMany(seconds) => return refuse(&client, 429, &format!("Retry-After: {seconds}\r\n"), "too many"),
        Fault::Expired => {
            return refuse(&client, 400, "", "<Error><Code>ExpiredToken</Code><Message>m</Message></Error>");
        }
        _ => {}
    }
    if fault == Fault::TornUpload {
        let mut server = TcpStream::connect(upstream)?;
        server.write_all(request.closing_head().as_bytes())?;
        server.write_all(&request.body[..request.body.len() / 2])?;
        server.shutdown(Shutdown::Both)?;
        return client.shutdown(Shutdown::Both);
    }
    let mut answer = request.pass_on(upstream)?;
    if let Fault::Lie(lie) = fault {
        answer = lie.tell(&request.head, answer);
    }
    let shown = match fault {
        Fault::LostAnswer => &[][..],
        Fault::TornAnswer => &answer[..answer.len() / 2],
        _ => &answer,
    };
    (&client).write_all(shown)?;
    client.shutdown(Shutdown::Both)
}

/// `headers` end with a line's end each.
fn refuse(mut client: &TcpStream, status: u16, headers: &str, text: &str) -> io::Result<()> {
    write!(
        client,
        "HTTP/1.1 {status} Whatever\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    )?;
    client.shutdown(Shutdown::Both)
}

/// A service that asks to be left alone for a second is, by requests of every kind. `open` makes a store, without trying
/// again, of what listens there.
pub fn check_pause(upstream: SocketAddr, open: impl Fn(SocketAddr) -> Box<dyn Store>) {
    const PAUSE: Duration = Duration::from_secs(1);
    // Whatever the operation sends first is refused.
    let is_due = Arc::new(AtomicBool::new(false));
    let due = is_due.clone();
    let schedule = move |_| match due.swap(false, Ordering::Relaxed) {
        true => Fault::TooMany(PAUSE.as_secs() as u32),
        false => Fault::None,
    };
    let proxy = start(upstream, schedule);
    let store = open(proxy.address);
    store.create().unwrap();
    let name = content_name(b"content");
    store.write(FileType::Data, &name, b"content").unwrap();
    let check = |what: &str, operation: &dyn Fn() -> Result<()>| {
        is_due.store(true, Ordering::Relaxed);
        let refused_at = Instant::now();
        // Some ask again by themselves.
        if let Err(error) = operation() {
            assert!(matches!(error, Error::Unreachable { .. }), "{what}: {error:?}");
        }
        assert!(!is_due.load(Ordering::Relaxed), "{what}: nothing was sent");
        operation().unwrap();
        assert!(refused_at.elapsed() >= PAUSE, "{what}: asked again after {:?}", refused_at.elapsed());
    };
    check("read", &|| store.read(FileType::Data, &name).map(drop));
    check("look up", &|| store.size_bytes(FileType::Data, &name).map(drop));
    check("write", &|| store.write(FileType::Data, &name, b"content"));
    check("list", &|| store.list(FileType::Data).map(drop));
}

/// A place in front of `upstream` for each kind of wrong size: its name, and where it listens while it lives.
pub fn liars(upstream: SocketAddr) -> Vec<(Lie, Server)> {
    let all = Lie::NOTICED.into_iter().chain([Lie::SmallSizes, Lie::LargeSizes]);
    all.map(|lie| (lie, start(upstream, move |_| Fault::Lie(lie)))).collect()
}

/// Credentials that are refused from now on, and accepted again, in front of a server that knows no such thing.
pub struct Expiring {
    pub proxy: Server,
    expired: Arc<AtomicBool>,
}

impl Expiring {
    pub fn start(upstream: SocketAddr) -> Self {
        let expired = Arc::new(AtomicBool::new(false));
        let is_expired = expired.clone();
        let schedule = move |_| if is_expired.load(Ordering::Relaxed) { Fault::Expired } else { Fault::None };
        Self { proxy: start(upstream, schedule), expired }
    }

    pub fn set(&self, expired: bool) {
        self.expired.store(expired, Ordering::Relaxed);
    }
}
