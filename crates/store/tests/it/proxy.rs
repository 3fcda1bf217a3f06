//! A proxy in front of a real HTTP server, at which requests and answers break as networks and services do.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use levee_store::RetryPolicy;

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
    /// The server answers, and the connection breaks before the client hears it.
    LostAnswer,
    /// The client gets half of the answer.
    TornAnswer,
    /// The server is never asked: 500.
    Refused,
    /// The server is never asked: 503, as S3 says that it is too much.
    SlowDown,
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
    const BROKEN: [Fault; 5] =
        [Fault::TornUpload, Fault::LostAnswer, Fault::TornAnswer, Fault::Refused, Fault::SlowDown];
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
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = String::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
        head.push_str(&line);
    }
    // So that the end of the answer is the end of the connection.
    head.push_str("Connection: close\r\n\r\n");
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    match fault {
        Fault::Refused => return refuse(&client, 500, "out of order"),
        Fault::SlowDown => return refuse(&client, 503, "<Error><Code>SlowDown</Code><Message>m</Message></Error>"),
        Fault::Expired => return refuse(&client, 400, "<Error><Code>ExpiredToken</Code><Message>m</Message></Error>"),
        _ => {}
    }
    let mut server = TcpStream::connect(upstream)?;
    server.write_all(head.as_bytes())?;
    if fault == Fault::TornUpload {
        server.write_all(&body[..length / 2])?;
        server.shutdown(Shutdown::Both)?;
        return client.shutdown(Shutdown::Both);
    }
    server.write_all(&body)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    if let Fault::Lie(lie) = fault {
        answer = lie.tell(&head, answer);
    }
    let shown = match fault {
        Fault::LostAnswer => &[][..],
        Fault::TornAnswer => &answer[..answer.len() / 2],
        _ => &answer,
    };
    (&client).write_all(shown)?;
    client.shutdown(Shutdown::Both)
}

fn refuse(mut client: &TcpStream, status: u16, text: &str) -> io::Result<()> {
    write!(client, "HTTP/1.1 {status} Whatever\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}", text.len())?;
    client.shutdown(Shutdown::Both)
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
